"""The files of the pages as they lie in this package: markup, styles and scripts."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w-]+\.js)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export ", re.MULTILINE)


@cache
def read_asset(name: str) -> str:
    """Return the text of a file of the pages."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def joined_script(name: str) -> str:
    """Return a module with those that it imports, as one script: a page that is a file cannot load modules.

    They share one scope, so that a name is declared at the top of one of them only.
    """
    return "\n".join(EXPORT.sub("", IMPORT.sub("", read_asset(one))).strip() for one in _with_imports(name))


def _with_imports(name: str) -> list[str]:
    """Return modules, each after those that it imports."""
    order: dict[str, None] = {}

    def add(one: str) -> None:
        for imported in IMPORT.findall(read_asset(one)):
            add(imported)
        order.setdefault(one)

    add(name)
    return list(order)
