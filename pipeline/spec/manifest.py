"""Reads a manifest: contents times styles, single pairs and sweeps become a checked batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import UsageError
from .batches import Batch, Sweep
from .config import anchor_init
from .documents import Document, read_document
from .entries import Manifest
from .globs import NO_EXCLUSIONS, Exclusions
from .jobs import Style, output_name
from .names import composed
from .output_names import safe_name
from .problems import Problem, problems_in, unknown_key
from .recipe import ALIASES, INIT_MODES, Recipe
from .resolver import Resolver
from .yaml12 import KeyPath

MAX_JOBS = 1_000_000


def read_manifest(
    path: Path,
    config_fields: Mapping[str, Any],
    flag_fields: Mapping[str, Any],
    original: Path | None = None,
    exclusions: Exclusions = NO_EXCLUSIONS,
) -> Batch:
    """Read and check a manifest: every path, glob, recipe and swept value, before anything starts.

    The fields of a recipe come from its preset, `config_fields`, the manifest and `flag_fields`; a later
    source wins. If the file was moved, `original` is where it was: messages name it, and relative paths start
    beside it. Globs find nothing that the `exclusions` name.

    Raises:
        UsageError: everything that is wrong, a line each.
    """
    document = read_document(path, original)
    folder = document.path.parent
    manifest = document.check(Manifest)
    resolver = Resolver(folder, exclusions)
    if isinstance(manifest, list):
        resolver.check_invalid(document.data)
        sweep = document.data.get("sweep")
        swept = _sweep_problems(sweep if isinstance(sweep, dict) else {})
        raise document.error([*manifest, *resolver.problems, *swept])
    pair_fields = [anchor_init(pair.recipe, folder) for pair in manifest.pairs]
    contents, styles = resolver.contents(manifest.contents), resolver.styles(manifest.styles)
    is_zip = manifest.pair == "zip"
    zipped = resolver.zipped(contents, styles) if is_zip else ()
    batch = Batch(
        name=safe_name((manifest.batch or document.path.stem).replace("/", "_").lstrip("._ ")),
        contents=() if is_zip else contents,
        styles=() if is_zip else styles,
        pairs=(*zipped, *resolver.pairs(manifest.pairs, pair_fields)),
        defaults=(config_fields, anchor_init(manifest.recipe, folder)),
        overrides=flag_fields,
        sweep=_read_sweep(manifest.sweep, flag_fields, folder),
        notes=(*resolver.notes, *shared_names(styles)),
    )
    recipes = batch.sweep.count * (1 + sum(map(bool, pair_fields)))
    if (most := max(batch.count, recipes)) > MAX_JOBS:
        raise document.error([Problem(("sweep",), f"asks for {most:,} pictures; at most {MAX_JOBS:,}")])
    found = [
        *resolver.problems,
        *_sweep_problems(manifest.sweep),
        *_recipe_problems(batch, pair_fields, document),
    ]
    if found:
        raise document.error(dict.fromkeys(found))
    return batch


def shared_names(styles: Iterable[Style]) -> list[str]:
    """Return a note for each name that several styles have; their results get a short id."""
    first: dict[str, Style] = {}
    shared = {style.name for style in styles if first.setdefault(composed(style.name), style) != style}
    return [
        f"{name}: several styles have this name; give each a name of its own, or results get a short id"
        for name in sorted(shared)
    ]


def _read_sweep(sweep: Mapping[str, list[Any]], flags: Mapping[str, Any], folder: Path) -> Sweep:
    """Return what is swept; a field that a flag sets is not."""
    fields = {ALIASES.get(key, key): values for key, values in sweep.items()}
    if "init" in fields:
        fields["init"] = [anchor_init({"init": value}, folder)["init"] for value in fields["init"]]
    return Sweep(fields).without(flags)


def _sweep_problems(sweep: Mapping[Any, Any]) -> list[Problem]:
    """Say which of the swept fields no recipe has, and which are given twice."""
    accepted = [*Recipe.model_fields, *ALIASES]
    return [
        *(unknown_key(("sweep", key), accepted) for key in sweep if key not in accepted),
        *(
            Problem(("sweep", alias), f"'{name}' is given twice, once under its alias")
            for alias, name in ALIASES.items()
            if alias in sweep and name in sweep
        ),
    ]


def _recipe_problems(batch: Batch, pairs: Sequence[Mapping[str, Any]], document: Document) -> list[Problem]:
    """Try every distinct recipe once, so that nothing can go wrong when jobs are made one by one."""
    found: dict[str, Problem] = {}
    cases: list[tuple[KeyPath, Mapping[str, Any]]] = [(("recipe",), {})]
    cases += [(("pairs", index, "recipe"), fields) for index, fields in enumerate(pairs) if fields]
    for keys, fields in cases:
        for swept in batch.sweep.without(fields):
            for field, text in _try_recipe(batch, fields, swept):
                found.setdefault(text, Problem(_place(field, keys, swept, document), text))
    return list(found.values())


def _try_recipe(batch: Batch, fields: Mapping[str, Any], swept: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with one recipe: the name of a field, or "" for several together, and why."""
    try:
        recipe = batch.recipe(fields, swept)
        output_name(recipe, "content", "style", swept)
    except ValidationError as error:
        found = problems_in(error, Recipe)
        return [(str(each.keys[0]) if each.keys else "", each.text) for each in found]
    except UsageError as error:
        return [("name", error.message)]
    if recipe.init in INIT_MODES or _is_file(Path(recipe.init)):
        return []
    return [("init", f"{recipe.init}: no such file")]


def _place(field: str, keys: KeyPath, swept: Mapping[str, Any], document: Document) -> KeyPath:
    """Return where a field's value came from: the sweep, under its own name or its alias, or a recipe."""
    names = (field, *(alias for alias, name in ALIASES.items() if name == field))
    found = [("sweep", name) for name in names if field in swept and ("sweep", name) in document.lines]
    return found[0] if found else (*keys, field) if field else keys


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
