"""For notebooks: `stylize` in Python, from pictures to a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from .config import read_config
from .executors import InProcessExecutor, read_picture
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
    """Return `content` in the style of `style`, as an RGB picture.

    Pictures are paths or Pillow images; `style` may also be a blend, a mapping of paths to their
    shares. `recipe` is a `Recipe` or the name of a preset. `on_progress` is called after every step.
    Encoder and style targets stay loaded between calls; config.yaml in the current folder counts.

    Raises:
        ImageError: a picture cannot be used.
        DivergedError: a loss became NaN or infinite.
        MachineError: weights or device are missing.
    """
    from .neural.engine import Diverged
    from .neural.session import Hooks, Request

    recipe = Recipe(preset=recipe) if isinstance(recipe, str) else recipe
    parts: Mapping[Source, float] = style if isinstance(style, Mapping) else {style: 1.0}  # type: ignore[assignment]
    styles = [(_picture(source), share) for source, share in parts.items()]
    init = None if recipe.init in INIT_MODES else _picture(recipe.init)
    request = Request(_picture(content), styles, recipe, init)

    def report(progress: Progress) -> None:
        if on_progress is not None:
            row = progress.row
            on_progress(
                StepProgress(progress.step, progress.steps, progress.width, progress.height, row.total)
            )

    executor = _executor(device)
    try:
        outcome = executor.session().stylize(request, executor.resolve(recipe.encoder), Hooks(report))
    except Diverged as diverged:
        raise diverged.error from None
    return outcome.image


@cache
def _executor(device: str) -> InProcessExecutor:
    return InProcessExecutor(read_config(None).model_copy(update={"device": device}))


def _picture(source: Source) -> Picture:
    from .neural.session import Picture

    if isinstance(source, str | os.PathLike):
        return read_picture(Path(source))
    return Picture.from_image(source)
