"""What the shell offers when someone presses Tab. It reads little, as it must be quick, and never complains.

config.yaml is read without being checked: what is wrong with it is for the command to say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

DEVICES = ("auto", "cpu", "cuda", "mps")
# At most so many files of an inbox are looked at.
MOST_FILES = 1000
# What bash would not take as part of a word.
NOT_PLAIN = re.compile(r"([^\w@%+=:,./~-])")


def devices(incomplete: str) -> list[str]:
    return [device for device in DEVICES if device.startswith(incomplete)]


def presets(incomplete: str) -> list[tuple[str, str]]:
    from ...spec.presets import PRESETS

    return [(name, preset.summary) for name, preset in PRESETS.items() if name.startswith(incomplete)]


def batches(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the batches of the outbox."""
    from ...storage.outbox import batch_names

    return _matching(batch_names(_outbox(ctx)), incomplete)


def quarantined(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of quarantined files, each of which lies in a folder of its own."""
    found = _folder(ctx, "quarantine").glob("*/*")
    return _matching((path.name for path in found if path.name != "error.json"), incomplete)


def waiting(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the pictures in the inbox, as `status` names them."""
    from ...spec.names import is_picture

    return _matching((name for name in _files(_folder(ctx, "inbox")) if is_picture(name)), incomplete)


def _files(inbox: Path) -> Iterator[str]:
    """Yield the files of an inbox and of its folders, but none of the style library."""
    todo, left = [""], MOST_FILES
    while todo and left > 0:
        above = todo.pop()
        with suppress(OSError), os.scandir(inbox / above) as entries:
            for entry in entries:
                left -= 1
                name = f"{above}{entry.name}"
                if entry.name.startswith(".") or name == "styles":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append(f"{name}/")
                else:
                    yield name


def _matching(names: Iterator[str] | list[str], incomplete: str) -> list[str]:
    found = sorted(name for name in set(names) if name.startswith(incomplete) and name.isprintable())
    if os.environ.get("_STYLE_PIPELINE_COMPLETE") == "complete_bash":  # it takes words as they are written
        return [NOT_PLAIN.sub(r"\\\1", name) for name in found]
    return found


def _outbox(ctx: typer.Context) -> Path:
    settings, folder = _settings(ctx)
    return Path(ctx.params.get("outbox") or folder / _path(settings.get("outbox"), "outbox"))


def _folder(ctx: typer.Context, key: str) -> Path:
    """Return a folder of the watched folder: its inbox, or one beside that."""
    settings, folder = _settings(ctx)
    watch = settings.get("watch")
    found = watch if isinstance(watch, Mapping) else {}
    inbox = folder / _path(found.get("inbox"), "inbox")
    return inbox if key == "inbox" else folder / _path(found.get(key), str(inbox.parent / key))


def _path(value: object, default: str) -> Path:
    return Path(os.path.expanduser(value if isinstance(value, str) else default))


def _settings(ctx: typer.Context) -> tuple[Mapping[str, Any], Path]:
    """Return what the configuration file says, and its folder."""
    from ...spec.yaml12 import parse_yaml

    path = Path(ctx.params.get("config") or "config.yaml")
    with suppress(OSError, ValueError):  # there is none, or it is no YAML
        data = parse_yaml(path.read_text(encoding="utf-8-sig")).data
        if isinstance(data, dict):
            return data, path.parent
    return {}, path.parent
