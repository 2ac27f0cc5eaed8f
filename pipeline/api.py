"""For notebooks: `stylize` in Python, from pictures to a picture."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from .config import read_config
from .errors import ImageError
from .executors import InProcessExecutor, read_picture, step_progress
from .jobs import StepProgress
from .recipe import INIT_MODES, Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

    from .neural.engine import Progress
    from .neural.session import Picture

Source: TypeAlias = Union[str, "os.PathLike[str]", "Image"]


def stylize(
    content: Source,
    style: Source | Mapping[str, float],
    recipe: Recipe | str = "default",
    *,
    device: str = "auto",
    on_progress: Callable[[StepProgress], None] | None = None,
) -> Image:
    """Return `content` in the style of `style`, as an RGB picture of 8 bits; transparency is put on white.

    Pictures are paths or Pillow images; `style` may also be a blend, a mapping of paths to their
    shares. `recipe` is a `Recipe` or the name of a preset. `on_progress` is called after every step.
    Encoder and style targets stay loaded between calls. Folders and weights are those of config.yaml in
    the current folder at the first call; its `recipe` does not count here, nor do fields of `recipe` that
    are about files. A warning says when `auto` had to take `vgg19-slim`. While it runs in bfloat16 on a CPU,
    products of float32 matrices in other threads may take their factors in bfloat16, too.

    Raises:
        ImageError: a picture cannot be used.
        DivergedError: a loss became NaN or infinite.
        MachineError: weights or device are missing.
    """
    from .neural.engine import Hooks
    from .neural.memory import OutOfMemory
    from .neural.session import Request

    recipe = Recipe(preset=recipe) if isinstance(recipe, str) else recipe
    parts = style.items() if isinstance(style, Mapping) else [(style, 1.0)]
    styles = [(_picture(source), share) for source, share in parts]
    init = None if recipe.init in INIT_MODES else _picture(recipe.init)
    request = Request(_picture(content), styles, recipe, init)

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


@cache
def _executor(device: str) -> InProcessExecutor:
    return InProcessExecutor(read_config(None).model_copy(update={"device": device}), owns_process=False)


def _picture(source: Source) -> Picture:
    from .neural.session import Picture

    if isinstance(source, str | os.PathLike):
        return read_picture(Path(source))
    return Picture.from_image(source)
