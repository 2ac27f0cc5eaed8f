"""How a result says it was made, and a manifest that makes it again."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ImageError, UsageError
from ..spec.text import one_line
from ..spec.yaml12 import MAX_DEPTH, dump_yaml

_NO_TEXT = re.compile("[\ud800-\udfff]")


def read_origin(path: Path) -> dict[str, Any]:
    """Return what a result says about how it was made; see `execution.provenance`.

    Raises:
        UsageError: the picture cannot be read, or says nothing of the kind.
    """
    from ..images.reading import read_bytes
    from ..images.writing import LEFT_OUT, read_provenance

    try:
        found = read_provenance(read_bytes(path), str(path))
    except ImageError as error:
        raise UsageError(error.message, error.next_step) from error
    if found is None:
        raise UsageError(
            f"{path}: says nothing about how it was made.",
            "Only results of style-pipeline do, and many programs drop that when they save a picture.",
        )
    if LEFT_OUT in found:
        raise UsageError(
            f"{path}: does not say how it was made, which was {one_line(found[LEFT_OUT])}.",
            "The record of a batch, in its folder `logs`, has it all; so has a PNG, WebP or TIFF.",
        )
    if _is_deeper(found, MAX_DEPTH):
        raise UsageError(
            f"{path}: what it says is nested more than {MAX_DEPTH} deep.", "No result of style-pipeline is."
        )
    expected = {"content": str, "style": dict, "encoder": str, "key": str, "program": str, "recipe": dict}
    if "name" in found:  # only of a style that has a name of its own
        expected["name"] = str
    masks = found.get("masks", {"content": "", "styles": {}})
    if not _holds(found, expected) or not _holds(masks, {"content": str, "styles": dict}):
        what = "a snapshot, and snapshots hold" if "step" in found else "its metadata holds"
        raise UsageError(f"{path}: {what} no recipe.", "Inspect the finished picture.")
    return found


def _is_deeper(found: Any, depth: int) -> bool:
    """Tell whether lists and mappings are nested more than `depth` deep."""
    level = [found]
    for _ in range(depth):
        below = [list(each.values()) if isinstance(each, dict) else each for each in level]
        level = [each for values in below for each in values if isinstance(each, dict | list)]
    return bool(level)


def _holds(found: Any, expected: Mapping[str, type]) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in expected.items())


def manifest_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest that makes a result again if it is saved beside the pictures that it names."""
    styles = {_findable(path): share for path, share in found["style"].items()}
    named = {"name": found["name"]} if found.get("name") else {}
    pair: dict[str, Any]
    if "masks" in found:
        colors = {_findable(path): color for path, color in found["masks"]["styles"].items()}
        pair = {"masks": {"content": _findable(found["masks"]["content"]), "styles": colors, **named}}
    elif list(styles.values()) == [1]:
        (style,) = styles
        pair = {"style": {"image": style, **named} if named else style}
    else:
        pair = {"style": {"blend": styles, **named}}
    return {
        "batch": "again",
        "recipe": {**found["recipe"], "encoder": found["encoder"]},
        "pairs": [{"content": _findable(found["content"]), **pair}],
    }


def _findable(path: str) -> str:
    """Return the path of an input; in one that YAML cannot hold, ? stands for each byte that is no UTF-8."""
    return _NO_TEXT.sub("?", glob.escape(path)) if _NO_TEXT.search(path) else path


def manifest_text(path: Path, found: Mapping[str, Any]) -> str:
    """Return that manifest as YAML, with the other facts in comments."""
    masks = found.get("masks")
    parts = masks["styles"] if masks else found["style"]
    shares = ", ".join(f"{name} ({share})" for name, share in parts.items())
    facts = {
        "picture": path.name,
        "program": found["program"],
        "encoder": found["encoder"],
        "content": found["content"],
        "style": shares if len(found["style"]) > 1 else ", ".join(found["style"]),
        **({"mask": masks["content"]} if masks else {}),
        "key": found["key"],
    }
    comments = [f"# {label:<8} {one_line(text)}" for label, text in facts.items()]
    comments.append("# Saved beside the pictures it names, this is a manifest: `style-pipeline run FILE`.")
    return "\n".join([*comments, dump_yaml(manifest_of(found))])
