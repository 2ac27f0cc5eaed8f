"""A trial: many styles on one photo, small and quick, perhaps with several strengths and seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import UsageError
from .batches import Batch, Sweep
from .entries import StyleEntry
from .globs import NO_EXCLUSIONS, Exclusions
from .jobs import Style, output_name
from .manifest import shared_names
from .models import expanded
from .output_names import safe_name
from .presets import PRESETS
from .problems import explain
from .recipe import Recipe, merged_recipe
from .resolver import Resolver
from .yaml12 import parse_value


def read_trial(
    photo: Path,
    styles: Sequence[Path],
    config_fields: Mapping[str, Any],
    flag_fields: Mapping[str, Any],
    strengths: str = "",
    seeds: str = "",
    exclusions: Exclusions = NO_EXCLUSIONS,
) -> Batch:
    """Return the batch of a trial: the photo in each of the `styles`, which are folders or pictures.

    `strengths` and `seeds` are values to try, separated by commas; seeds choose the noise to start from. A
    result with the recipe's own strength has the name that it would have without `strengths`.

    Raises:
        UsageError: a file is missing, there is no style, or a value makes no sense.
    """
    swept = {
        **_values("strength", "--strengths", strengths, flag_fields),
        **_values("seed", "--seeds", seeds, flag_fields),
    }
    noise = _noise(flag_fields) if "seed" in swept else {}
    defaults = (config_fields, small_fields(config_fields, flag_fields), noise)
    recipe = _checked_recipe(*defaults, flag_fields)
    content, found, notes = _find(photo, styles, exclusions)
    return Batch(
        name=safe_name(f"try-{content.stem}"),
        contents=(content,),
        styles=found,
        pairs=(),
        defaults=defaults,
        overrides=flag_fields,
        sweep=Sweep(swept),
        notes=notes,
        usual={"strength": recipe.strength},
    )


def small_fields(config_fields: Mapping[str, Any], flag_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe fields that make a picture small and quick, as `draft` does, in any preset.

    Steps are those of the preset, if it has its own.
    """
    draft = PRESETS["draft"].fields
    preset = {"preset": "draft", **config_fields, **flag_fields}["preset"]
    own = PRESETS[preset].fields
    size = Recipe(size={**draft, **own, **config_fields}["size"]).size  # "400" in quotes is a number, too
    return {"preset": preset, "size": min(size, draft["size"]), "steps": {**draft, **own}["steps"]}


def _values(field: str, flag: str, text: str, flag_fields: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values of a field that a flag lists, each once; nothing if the flag was not given."""
    if not text:
        return {}
    if field in flag_fields:
        raise UsageError(f"{flag} and --set {field} exclude each other.", "Give one of them.")
    values: dict[Any, None] = {}
    for part in text.split(","):
        try:
            value = parse_value(part)
            values[getattr(Recipe.model_validate({field: value}), field)] = None
        except ValidationError as error:
            problem = explain(error, Recipe)[0].removeprefix(f"{field}: ")
            raise UsageError(f"{flag} {text}: {problem}.", f"Give numbers such as {flag} 1,2,3.") from error
        except ValueError as error:
            raise UsageError(f"{flag} {text}: {error}.", f"Give numbers such as {flag} 1,2,3.") from error
    return {field: list(values)}


def _noise(flag_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields by which a seed has an effect."""
    if flag_fields.get("init", "noise") != "noise":
        raise UsageError(
            f"--seeds and --set init={flag_fields['init']} exclude each other.",
            "Seeds choose the noise to start from; give one of the two.",
        )
    return {"init": "noise"}


def _checked_recipe(*sources: Mapping[str, Any]) -> Recipe:
    try:
        recipe = merged_recipe(*sources)
    except ValidationError as error:
        raise UsageError.of_lines(explain(error, Recipe), "See config.yaml, --preset and --set.") from error
    output_name(recipe, "content", "style", {})
    return recipe


def _find(
    photo: Path, styles: Sequence[Path], exclusions: Exclusions
) -> tuple[Path, tuple[Style, ...], tuple[str, ...]]:
    """Return the photo, the styles without it, for it may lie in their folder, and notes."""
    if os.path.isdir(expanded(photo)):
        raise UsageError(f"{photo}: is a folder; a trial takes one photo.", "For several, use `run`.")
    resolver = Resolver(Path.cwd(), exclusions)
    contents = resolver.contents([str(photo)])
    found = resolver.styles([_entry(path) for path in styles])
    if resolver.problems:
        raise UsageError.of_lines(list(dict.fromkeys(f"{each.text}." for each in resolver.problems)))
    if len(contents) > 1:
        raise UsageError(f"{photo}: expected one picture; {len(contents)} match.", "Name one of them.")
    (content,) = contents
    left = tuple(style for style in dict.fromkeys(found) if style.images[0][0] != content)
    if not left:
        raise UsageError(f"{photo}: is the only style found.", "Name other pictures with --styles.")
    return content, left, (*resolver.notes, *shared_names(left))


def _entry(style: Path) -> StyleEntry:
    """Return what stands for a picture, or for all pictures of a folder, in a manifest."""
    return StyleEntry(image=str(style / "*" if os.path.isdir(expanded(style)) else style))
