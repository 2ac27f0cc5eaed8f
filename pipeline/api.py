"""For notebooks: `stylize` in Python, from pictures to a picture.

Encoder and style targets stay loaded between calls. Folders and weights are those of the config.yaml that is
in the current folder at the first call; its `recipe` is ignored. Threads may call it at the same time:
pictures are read in parallel, and made one after another on each device. While a CPU computes in bfloat16,
other threads' products of float32 matrices may round their factors to bfloat16, too.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from pydantic import BaseModel, TypeAdapter, ValidationError

from .errors import ImageError, UsageError
from .execution.attempts import MOST_HALVED, memory_name, style_too_large
from .execution.executors import InProcessExecutor
from .execution.inputs import check_layers, check_visible, find_regions, read_picture, request_notes
from .execution.results import step_progress
from .spec.config import Share, read_config
from .spec.jobs import StepProgress
from .spec.problems import explain
from .spec.recipe import INIT_MODES, Recipe, recipe_error
from .spec.regions import Color, check_regions, region_color
from .threads import sleep_while_waiting

if TYPE_CHECKING:
    from PIL.Image import Image

    from .transfer.reports import Progress
    from .transfer.request import Picture, Request
    from .vgg.weights import EncoderWeights

Source: TypeAlias = Union[str, "os.PathLike[str]", "Image"]


def stylize(
    content: Source,
    style: Source | Mapping[str, float | str],
    recipe: Recipe | Mapping[str, Any] | str = "default",
    *,
    mask: Source | None = None,
    device: str = "auto",
    on_progress: Callable[[StepProgress], None] | None = None,
) -> Image:
    """Return `content` in the style of `style`, as an 8-bit RGB picture; transparent pixels become white.

    Pictures are paths or Pillow images; of several frames the current one is used. `style` may also be a
    blend, a mapping of paths to their shares. With a `mask`, a picture of the content's shape, it maps
    paths to the colours of their regions in it: a grey level from 0 to 1, or text such as "#3366cc".
    `recipe` is a `Recipe`, a mapping of its fields or the name of a preset; fields about files are ignored.
    `on_progress` is called after every step.

    Warnings say which parts of the pictures cannot be used.

    Raises:
        ImageError: a picture cannot be used.
        UsageError: an argument has a wrong type or value, or arguments do not go together.
        JobError: the network lacks a layer of the recipe.
        DivergedError: a loss became NaN or infinite.
        MachineError: weights or device are missing.
    """
    sleep_while_waiting()  # before torch is loaded
    from .transfer.pyramid import plan_levels

    request = _request(content, style, _recipe(recipe), mask)
    with _EXECUTORS:
        executor = _executor(device)
    weights, _ = executor.resolve(request.recipe.encoder)
    check_layers(request.recipe, weights, _name(content, "content"))
    for note in request_notes(request, plan_levels(request.recipe, request.content.image.size)):
        warnings.warn(note, stacklevel=2)
    return _run(request, executor, weights, on_progress, _style_names(style))


def _recipe(recipe: object) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str):
        return Recipe(preset=recipe)
    if not isinstance(recipe, Mapping):
        raise UsageError(
            f"recipe: expected a Recipe, fields of one or a preset's name, found {type(recipe).__name__}.",
            'Such as Recipe(size=300), {"size": 300} or "draft".',
        )
    try:
        return Recipe.model_validate(recipe)
    except ValidationError as error:
        raise recipe_error(error) from error


def _request(content: object, style: object, recipe: Recipe, mask: Source | None) -> Request:
    """Read and check the pictures."""
    from .transfer.request import Request

    colors = {} if mask is None else _colors(style)
    shares = [(path, 1.0) for path in colors] if colors else _shares(style)
    styles = [(_picture(source, "style"), share) for source, share in shares]
    init = None if recipe.init in INIT_MODES else _picture(recipe.init, "init")
    request = Request(_picture(content, "content"), styles, recipe, init)
    names = [_name(content, "content"), *_style_names(style)]
    check_visible(zip([request.content, *(picture for picture, _ in styles)], names, strict=True))
    if mask is None:
        return request
    regions, name = _picture(mask, "mask"), _name(mask, "mask")
    found = find_regions(regions, request.content, [*colors.values()], name, [*colors])
    return replace(request, regions=found)


def _style_names(style: object) -> list[str]:
    return [str(path) for path in style] if isinstance(style, Mapping) else [_name(style, "style")]


def _shares(style: object) -> list[tuple[object, float]]:
    """Return one style, or those of a blend, each with its share."""
    if not isinstance(style, Mapping):
        return [(style, 1.0)]
    try:
        if not style:
            raise ValueError("the mapping is empty")
        return [(str(path), _share(path, share)) for path, share in style.items()]
    except ValueError as error:
        raise UsageError(
            f"style: {error}.", 'A blend is such as {"a.jpg": 0.7, "b.jpg": 0.3}; colours need a mask.'
        ) from error


def _share(path: object, share: object) -> float:
    try:
        return TypeAdapter(Share).validate_python(share)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error, BaseModel)[0]}") from error


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


def _picture(source: object, role: str) -> Picture:
    """Read a picture from its path, or take a Pillow image."""
    from PIL.Image import Image

    if isinstance(source, str | os.PathLike):
        return read_picture(Path(source))
    if isinstance(source, Image):
        return _from_image(source, _name(source, role))
    raise UsageError(
        f"{role}: expected a path or a Pillow image, found {type(source).__name__}.",
        "PIL.Image.fromarray makes a picture of an array; several styles are a mapping of their paths.",
    )


def _from_image(image: Image, name: str) -> Picture:
    from .transfer.request import Picture

    if 0 in image.size:
        raise ImageError(f"{name}: the picture has no pixels.", "Give another.")
    try:
        picture = Picture.from_image(image)
    except Exception as error:  # an opened file is decoded here, and Pillow reports damage as anything
        raise ImageError(
            f"{name}: damaged, cut short or closed ({error or type(error).__name__}).",
            "Open it again, or export it again.",
        ) from error
    notes = tuple(f"{Path(name).name}: {note}." for note in picture.decoded.notes)
    return replace(picture, decoded=replace(picture.decoded, notes=notes))


def _name(source: object, role: str) -> str:
    """Return what messages call a picture: its file, or its role if it has none."""
    named = source if isinstance(source, str | os.PathLike) else getattr(source, "filename", "")
    return str(named or role)


def _run(
    request: Request,
    executor: InProcessExecutor,
    weights: EncoderWeights,
    on_progress: Callable[[StepProgress], None] | None,
    style_names: Sequence[str],
) -> Image:
    from .transfer.memory import OutOfMemory
    from .transfer.reports import Hooks
    from .transfer.tensors import to_image

    def report(progress: Progress) -> None:
        if on_progress is not None and not progress.tiles:
            on_progress(step_progress(progress))

    session, halved = executor.session(), 0
    outcome, large = None, None
    while outcome is None and halved <= MOST_HALVED:
        tiles = executor.tile_choice(halved)
        try:
            (outcome,) = session.stylize([request], weights, Hooks(report), tiles=tiles)
        except OutOfMemory as error:
            large, halved = error.style, MOST_HALVED + 1 if error.foreseen else halved + 1
        if outcome is None:  # outside of the `except`, as the exception holds what was allocated
            session.free_memory()
    if outcome is None:
        memory = memory_name(session.device.device, session.memory.limit_bytes is not None)
        if large is not None:
            raise style_too_large(style_names[large.index], large, memory)
        raise ImageError(f"This size does not fit {memory}.", "Lower size.")
    if outcome.error is not None:
        raise outcome.error
    assert outcome.image_BCHW is not None  # nothing stops it
    return to_image(outcome.image_BCHW)


# `cache` alone would let two threads make one each.
_EXECUTORS = threading.Lock()


@cache
def _executor(device: str) -> InProcessExecutor:
    return InProcessExecutor(read_config(None).model_copy(update={"device": device}), owns_process=False)
