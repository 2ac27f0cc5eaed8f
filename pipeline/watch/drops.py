"""The drops of an inbox that are not finished, as `status` shows them, and which of them a name means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..spec.names import composed
from ..spec.text import first_few
from ..storage.control import Drop

# How many names an error lists.
MOST_NAMED = 5


def unfinished_drops(status: Mapping[str, Any]) -> list[Drop]:
    """Return the drops that `read_status` found waiting, begun or being made."""
    running = status["running"] or {}
    return [
        *([Drop(running["path"], running["id"], running["name"])] if running.get("id") else []),
        *(Drop(one["path"], one["id"]) for one in status["begun"]),
        *(Drop(one["path"]) for one in status["waits"]),
    ]


def find_drop(name: str, status: Mapping[str, Any]) -> Drop:
    """Return the one drop that a name means.

    A name is a path in the inbox, or what is being made of the drop, or its id, or else a file's name or the
    beginning of an id.

    Raises:
        UsageError: it means none or several.
    """
    drops, wanted = unfinished_drops(status), composed(name)
    whole = [one for one in drops if wanted in {composed(one.path), composed(one.making), one.id}]
    found = whole or [one for one in drops if _is_called(one, wanted)]
    if not name or not found:
        raise UsageError(f"No picture that waits or is being made is called '{name}'.", _advice(name, status))
    if len(found) > 1:
        named = first_few([_describe(one) for one in found], MOST_NAMED)
        raise UsageError(
            f"'{name}' means {len(found)} pictures: {named}.",
            "Give the whole path, or the id of one that was begun.",
        )
    return found[0]


def _is_called(drop: Drop, name: str) -> bool:
    is_id = bool(drop.id) and drop.id.startswith(name)
    return is_id or composed(Path(drop.path).name) == name


def _describe(drop: Drop) -> str:
    return f"{drop.path} ({drop.id})" if drop.id else drop.path


def _advice(name: str, status: Mapping[str, Any]) -> str:
    """Return what someone may have meant."""
    for one in status["quarantined"]:
        if name in {one["id"], one["path"], Path(one["path"]).name}:
            return f"It is quarantined; `style-pipeline retry {one['id']}` brings it back."
    near = get_close_matches(name, _names(unfinished_drops(status)), MOST_NAMED)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}See `style-pipeline status`."


def _names(drops: Sequence[Drop]) -> list[str]:
    named = (each for one in drops for each in (one.path, Path(one.path).name, one.making))
    return list(dict.fromkeys(filter(None, named)))
