"""For notebooks: `stylize` in Python, from pictures to a picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from .config import read_config
from .errors import ImageError, UsageError
from .executors import InProcessExecutor
from .inputs import find_regions, mask_notes, read_picture
from .jobs import Color, StepProgress, check_regions, region_color
from .recipe import INIT_MODES, Recipe
from .results import step_progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from .neural.engine import Progress
    from .neural.session import Picture

Source: TypeAlias = Union[str, "os.PathLike[str]", "Image"]


def stylize(
    content: Source,
    style: Source | Mapping[str, float | str],
    recipe: Recipe | str = "default",
    *,
    mask: Source | None = None,
    device: str = "auto",
    on_progress: Callable[[StepProgress], None] | None = None,
) -> Image:
    """Return `content` in the style of `style`, as an RGB picture of 8 bits; transparency is put on white.

    Pictures are paths or Pillow images; `style` may also be a blend, a mapping of paths to their
    shares. With a `mask`, a picture of the content's shape, it maps paths to the colours of their regions
    in it: a grey level from 0 to 1, or text such as "#3366cc". `recipe` is a `Recipe` or the name of a
    preset. `on_progress` is called after every step. Encoder and style targets stay loaded between calls.
    Folders and weights are those of config.yaml in the current folder at the first call; its `recipe` does
    not count here, nor do fields of `recipe` that are about files. A warning says when `auto` had to take
    `vgg19-slim`, and what of a mask could not be used. While it runs in bfloat16 on a CPU, products of
    float32 matrices in other threads may take their factors in bfloat16, too.

    Raises:
        ImageError: a picture cannot be used.
        UsageError: styles and mask do not go together.
        DivergedError: a loss became NaN or infinite.
        MachineError: weights or device are missing.
    """
    from .neural.engine import Hooks
    from .neural.memory import OutOfMemory
    from .neural.session import Request, plan_levels

    recipe = Recipe(preset=recipe) if isinstance(recipe, str) else recipe
    colors = {} if mask is None else _colors(style)
    styles = [(_picture(source), share) for source, share in _shares(style, mask)]
    init = None if recipe.init in INIT_MODES else _picture(recipe.init)
    request = Request(_picture(content), styles, recipe, init)
    if mask is not None:
        name = str(mask) if isinstance(mask, str | os.PathLike) else "mask"
        found = find_regions(_picture(mask), request.content, [*colors.values()], name, [*colors])
        request = replace(request, regions=found)
        for note in mask_notes(request, plan_levels(recipe, request.content.image.size)):
            warnings.warn(note, stacklevel=2)

    def report(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(step_progress(progress))

    executor = _executor(device)
    weights = executor.resolve(recipe.encoder)
    if weights.note:
        warnings.warn(weights.note, stacklevel=2)
    try:
        (outcome,) = executor.session().stylize([request], weights, Hooks(report))
    except OutOfMemory:
        executor.session().free_memory()
        raise ImageError(f"This size does not fit the memory of {device}.", "Lower size.") from None
    if outcome.error is not None:
        raise outcome.error
    image = outcome.image
    assert image is not None  # nothing stops it
    return image


def _shares(style: Source | Mapping[str, float | str], mask: Source | None) -> list[tuple[Source, float]]:
    """Return the styles with their shares; with a mask these are all alike."""
    if not isinstance(style, Mapping):
        return [(style, 1.0)]
    if mask is not None:
        return [(path, 1.0) for path in style]
    try:
        return [(path, float(share)) for path, share in style.items()]
    except ValueError as error:
        raise UsageError(f"style: {error}.", "A blend has numbers; colours need a mask.") from error


def _colors(style: object) -> dict[str, Color]:
    """Return the colour of each style's region by its path."""
    if not isinstance(style, Mapping):
        raise UsageError(
            "A mask needs several styles.", 'Such as {"a.jpg": 0, "b.jpg": 1}: paths and colours.'
        )
    try:
        colors = {str(path): region_color(value) for path, value in style.items()}
        check_regions(colors)
    except ValueError as error:
        raise UsageError(f"style: {error}.", "With a mask, every style has a colour of its own.") from error
    return colors


@cache
def _executor(device: str) -> InProcessExecutor:
    return InProcessExecutor(read_config(None).model_copy(update={"device": device}), owns_process=False)


def _picture(source: Source) -> Picture:
    from .neural.session import Picture

    if isinstance(source, str | os.PathLike):
        return read_picture(Path(source))
    return Picture.from_image(source)
