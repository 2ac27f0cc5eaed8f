"""`--ray` with and without an address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .help import Command

ADDRESS = re.compile(r"auto|\S+:\d+|\w+://\S*")


class WithOptionalAddress(Command):
    """A command whose option --ray may be given without its value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(with_address(args)))


def with_address(words: Iterable[str]) -> Iterator[str]:
    """Give each --ray that no address follows the value auto."""
    waiting = False
    for word in words:
        if waiting and not ADDRESS.fullmatch(word):
            yield "auto"
        yield word
        waiting = word == "--ray"
    if waiting:
        yield "auto"
