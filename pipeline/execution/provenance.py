"""What a result's metadata says about how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spec.jobs import Job
from ..spec.recipe import INIT_MODES
from ..spec.regions import color_value
from ..version import VERSION

if TYPE_CHECKING:
    from ..vgg.weights import EncoderWeights


def provenance(job: Job, key: str, weights: EncoderWeights) -> dict[str, Any]:
    """Return what a result's metadata says about how it was made; paths are shortened to names."""
    content = job.origin or job.content
    names = _distinct_names([content, *job.input_paths[1:]])
    recipe = job.recipe.model_dump(mode="json")
    if job.init_path:
        name = names[job.init_path]
        # A file may have the name of one of the other values of `init`.
        recipe["init"] = f"./{name}" if name in INIT_MODES else name
    shares: dict[str, float] = {}
    for path, share in job.style.images:
        shares[names[path]] = shares.get(names[path], 0) + share
    plain_name = "+".join(path.stem for path, _ in job.style.images)
    colors = {names[path]: color_value(color) for path, color in job.regions.items()}
    return {
        "program": f"style-pipeline {VERSION}",
        "key": key,
        "content": names[content],
        "style": shares,
        **({} if job.style.name == plain_name else {"name": job.style.name}),
        **({"masks": {"content": names[job.masks.content], "styles": colors}} if job.masks else {}),
        "encoder": weights.name,
        "recipe": recipe,
    }


def _distinct_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the name of each file, with as many folders as distinguish it from other files of that name."""
    namesakes: dict[str, list[Path]] = {}
    for path in dict.fromkeys(paths):
        namesakes.setdefault(path.name, []).append(path)
    return {path: name for files in namesakes.values() for path, name in _below_common(files).items()}


def _below_common(files: Sequence[Path]) -> dict[Path, str]:
    """Return different names for files: with as few as possible of the folders below their common one."""
    levels = zip(*(file.parts[:-1] for file in files), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    depths = range(1, max(len(file.parts) for file in files) - shared + 1)
    tries = ({file: Path(*file.parts[shared:][-depth:]).as_posix() for file in files} for depth in depths)
    return next(names for names in tries if len(set(names.values())) == len(files))
