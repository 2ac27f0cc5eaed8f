"""YAML manifest -> Iterator[Job]: contents times styles, single pairs, sweeps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .config import RecipeFields, anchor_init
from .documents import Document, KeyPath, Problem, explain, read_document
from .errors import UsageError
from .jobs import Job, Style, output_name, safe_name
from .recipe import ALIASES, Recipe, layer_recipe

GLOB_CHARACTERS = frozenset("*?[")
PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".ppm"}
)


def _style_mapping(value: Any) -> Any:
    return {"image": value} if isinstance(value, str) else value


class StyleEntry(BaseModel):
    """A style: a path or glob, or a blend of several with their shares; `name` is used in outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str | None = Field(None, min_length=1, description="path or glob")
    blend: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None, min_length=1, description="paths with their shares"
    )
    name: str | None = Field(None, min_length=1, description="name in outputs; the file's stem if left out")

    @model_validator(mode="after")
    def _one_kind(self) -> StyleEntry:
        if (self.image is None) == (self.blend is None):
            raise ValueError("a style needs either image or blend, such as {blend: {a.jpg: 0.7, b.jpg: 0.3}}")
        return self


StyleField = Annotated[
    StyleEntry,
    BeforeValidator(_style_mapping, json_schema_input_type=str | StyleEntry),
]


class Pair(BaseModel):
    """One content and one style, with fields of a recipe of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: str = Field(min_length=1)
    style: StyleField
    recipe: RecipeFields = Field(default_factory=dict)


class Manifest(BaseModel):
    """A batch: every content with every style, then the pairs; each once per value of the sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: str | None = Field(
        None, min_length=1, description="folder in the outbox; the file's stem if left out"
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields for every job of this batch")
    contents: list[Annotated[str, Field(min_length=1)]] = Field([], description="paths or globs")
    styles: list[StyleField] = []
    pairs: list[Pair] = []
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="recipe fields, each with the values to try"
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Manifest:
        if bool(self.contents) != bool(self.styles):
            missing = "styles" if self.contents else "contents"
            raise ValueError(f"{missing} is missing: contents and styles go together")
        if not self.contents and not self.pairs:
            raise ValueError("nothing to do: give contents and styles, or pairs")
        return self


@dataclass(frozen=True)
class Batch:
    """A checked manifest, expanded as far as its lists; `jobs()` makes the jobs one at a time."""

    name: str
    contents: tuple[Path, ...]
    styles: tuple[Style, ...]
    pairs: tuple[tuple[Path, Style, Mapping[str, Any]], ...]
    below: tuple[Mapping[str, Any], ...]
    above: Mapping[str, Any]
    sweep: tuple[Mapping[str, Any], ...] = field(default=({},))

    def __len__(self) -> int:
        return (len(self.contents) * len(self.styles) + len(self.pairs)) * len(self.sweep)

    def jobs(self) -> Iterator[Job]:
        """Yield every job, those of one style and recipe in a row, so that its targets are reused."""
        for values in self.sweep:
            recipe = self._recipe({}, values)
            for style, content in itertools.product(self.styles, self.contents):
                yield self._job(content, style, recipe, values)
            for content, style, fields in self.pairs:
                pair_recipe = self._recipe(fields, values) if fields else recipe
                yield self._job(content, style, pair_recipe, values)

    def _recipe(self, pair: Mapping[str, Any], swept: Mapping[str, Any]) -> Recipe:
        return layer_recipe(*self.below, pair, swept, self.above)

    def _job(self, content: Path, style: Style, recipe: Recipe, swept: Mapping[str, Any]) -> Job:
        steps = recipe.total_steps
        name = output_name(recipe.name, content.stem, style.name, recipe, swept, steps)
        return Job(self.name, content, style, recipe, name, swept)


def read_manifest(path: Path, config_fields: Mapping[str, Any], flag_fields: Mapping[str, Any]) -> Batch:
    """Read and check a manifest: every path, glob, recipe and swept value, before anything starts.

    Recipe fields are laid in the order preset, `config_fields`, manifest, `flag_fields`.

    Raises:
        UsageError: everything that is wrong, a line each.
    """
    document = read_document(path)
    manifest = document.validate(Manifest)
    reader = _Reader(document)
    contents = tuple(
        found
        for index, entry in enumerate(manifest.contents)
        for found in reader.files(entry, ("contents", index))
    )
    styles = tuple(
        style
        for index, entry in enumerate(manifest.styles)
        for style in reader.styles(entry, ("styles", index))
    )
    pairs = tuple(
        (content, style, anchor_init(pair.recipe, path.parent))
        for index, pair in enumerate(manifest.pairs)
        for content in reader.files(pair.content, ("pairs", index, "content"))
        for style in reader.styles(pair.style, ("pairs", index, "style"))
    )
    batch = Batch(
        name=safe_name(manifest.batch or path.stem),
        contents=contents,
        styles=styles,
        pairs=pairs,
        below=(config_fields, anchor_init(manifest.recipe, path.parent)),
        above=flag_fields,
        sweep=_sweep_values(manifest.sweep, path.parent),
    )
    problems = reader.problems or _recipe_problems(batch)
    if problems:
        raise document.error(problems)
    return batch


class _Reader:
    """Turns entries into existing files, gathering every problem on the way."""

    def __init__(self, document: Document) -> None:
        self.folder = document.path.parent
        self.problems: list[Problem] = []

    def files(self, entry: str, keys: KeyPath) -> list[Path]:
        path = self.folder / Path(entry).expanduser()
        if path.is_file():
            return [path.resolve()]
        if GLOB_CHARACTERS.isdisjoint(entry):
            kind = "is a folder; name its pictures, as in" if path.is_dir() else "no such file"
            example = f" {entry.rstrip('/')}/*.jpg" if path.is_dir() else ""
            self.problems.append(Problem(keys, f"{entry}: {kind}{example}"))
            return []
        anchor, pattern = (
            Path(path.anchor or "."),
            str(path.relative_to(path.anchor) if path.anchor else path),
        )
        found = sorted(
            match.resolve()
            for match in anchor.glob(pattern)
            if match.is_file() and match.suffix.lower() in PICTURE_SUFFIXES and not match.name.startswith(".")
        )
        if not found:
            self.problems.append(Problem(keys, f"{entry}: no picture matches"))
        return found

    def styles(self, entry: StyleEntry, keys: KeyPath) -> list[Style]:
        if entry.blend is not None:
            parts = [
                (found, share)
                for pattern, share in entry.blend.items()
                for found in self.files(pattern, (*keys, "blend", pattern))
            ]
            name = entry.name or "+".join(path.stem for path, _ in parts)
            return [Style(name, tuple(parts))]
        found = self.files(entry.image or "", (*keys, "image") if entry.name else keys)
        if entry.name and len(found) > 1:
            self.problems.append(Problem(keys, f"name '{entry.name}' is for one picture; {len(found)} match"))
        return [Style(entry.name or path.stem, ((path, 1.0),)) for path in found]


def _sweep_values(sweep: Mapping[str, list[Any]], folder: Path) -> tuple[Mapping[str, Any], ...]:
    keys = [ALIASES.get(key, key) for key in sweep]
    combinations = itertools.product(*sweep.values())
    return tuple(anchor_init(dict(zip(keys, values, strict=True)), folder) for values in combinations)


def _recipe_problems(batch: Batch) -> list[Problem]:
    """Try every distinct recipe once, so that nothing can go wrong when jobs are made one by one."""
    problems: dict[str, Problem] = {}
    cases: list[tuple[KeyPath, Mapping[str, Any]]] = [(("recipe",), {})]
    cases += [(("pairs", index, "recipe"), pair[2]) for index, pair in enumerate(batch.pairs) if pair[2]]
    for swept in batch.sweep:
        for keys, fields in cases:
            try:
                recipe = batch._recipe(fields, swept)
                output_name(recipe.name, "content", "style", recipe, swept, recipe.total_steps)
                if (
                    recipe.init not in ("content", "noise", "blank", "style")
                    and not Path(recipe.init).is_file()
                ):
                    problems.setdefault(recipe.init, Problem((*keys, "init"), f"{recipe.init}: no such file"))
            except ValidationError as error:
                for text in explain(error, Recipe):
                    problems.setdefault(text, Problem(("sweep",) if batch.sweep != ({},) else keys, text))
            except UsageError as error:
                problems.setdefault(error.message, Problem((*keys, "name"), error.message))
    return list(problems.values())
