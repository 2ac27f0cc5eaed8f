"""YAML manifest -> Iterator[Job]: contents times styles, single pairs, sweeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..errors import UsageError
from .config import Config, RecipeFields, Share, anchor_init
from .documents import (
    Document,
    KeyPath,
    Part,
    Problem,
    in_quotes,
    listed,
    problems,
    read_document,
    shown,
    unknown_key,
)
from .globs import Names, Unwanted, find, is_glob
from .jobs import Color, Job, Masks, Style, check_regions, output_name, region_color, safe_name
from .names import composed
from .recipe import ALIASES, INIT_MODES, Recipe, merged_recipe
from .removed import REMOVED, why_removed

NOTHING_UNWANTED = Unwanted()
MAX_JOBS = 1_000_000


def _style_mapping(value: Any) -> Any:
    if isinstance(value, str):
        return {"image": value}
    if not isinstance(value, Mapping | StyleEntry):
        example = "{image: a.jpg, name: night}"
        problem = f"expected a path, or keys and values such as {example}, found {shown(value)}"
        raise ValueError(problem + in_quotes(value))
    return value


class StyleEntry(Part):
    """A style: a path or glob, or a blend of several with their shares; `name` is used in outputs."""

    image: str | None = Field(None, min_length=1, description="path or glob")
    blend: dict[str, Share] | None = Field(None, min_length=1, description="paths with their shares")
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


RegionColor = Annotated[Color, BeforeValidator(region_color, json_schema_input_type=float | str)]


class MasksEntry(Part):
    """Which style goes where in a content: a picture whose colours say so."""

    content: str = Field(min_length=1, description="a grey or coloured picture of the content's shape")
    styles: dict[str, RegionColor] = Field(
        description="paths, each with the colour of its region: a grey level from 0 to 1, or '#rrggbb'"
    )
    name: str | None = Field(
        None, min_length=1, description="name in outputs; the files' stems with + if left out"
    )

    @field_validator("styles")
    @classmethod
    def _regions(cls, styles: dict[str, Color]) -> dict[str, Color]:
        check_regions(styles)
        return styles


class Pair(Part):
    """One content and one style, or several with masks, with fields of a recipe of their own."""

    content: str = Field(min_length=1, description="path or glob")
    masks: MasksEntry | None = Field(None, description="several styles, each in its own part of the content")
    style: StyleField | None = Field(
        None, validate_default=True, description="a path or glob, or a blend; masks name styles of their own"
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields of this pair; never swept")

    @field_validator("style")
    @classmethod
    def _one_or_masks(cls, style: StyleEntry | None, info: ValidationInfo) -> StyleEntry | None:
        # What is wrong with masks was told of already.
        if "masks" in info.data and (style is None) == (info.data["masks"] is None):
            raise ValueError(
                "a pair needs a style, or masks"
                if style is None
                else "not beside masks, which name the styles"
            )
        return style


def _describe_sweep(schema: dict[str, Any]) -> None:
    """Tell editors which fields can be swept, and with which values."""
    fields = Recipe.model_json_schema()["properties"]
    schema["properties"]["sweep"] |= {
        "additionalProperties": False,
        "properties": {
            name: {
                "description": field["description"],
                "anyOf": [{"type": "array", "items": field, "minItems": 1}, field],
            }
            for name, field in fields.items()
        },
    }


PathText = Annotated[str, Field(min_length=1)]
Contents = Annotated[
    list[PathText], BeforeValidator(listed, json_schema_input_type=PathText | list[PathText])
]
Styles = Annotated[
    list[StyleField], BeforeValidator(listed, json_schema_input_type=StyleField | list[StyleField])
]
Pairs = Annotated[list[Pair], BeforeValidator(listed, json_schema_input_type=Pair | list[Pair])]
SweptValues = Annotated[list[Any], BeforeValidator(listed), Field(min_length=1)]


class Manifest(Part):
    """A batch: every content with every style, then the pairs; each once per value of the sweep."""

    model_config = ConfigDict(json_schema_extra=_describe_sweep)

    batch: str | None = Field(
        None, min_length=1, description="folder in the outbox; the file's stem if left out"
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields for every job of this batch")
    contents: Contents = Field([], description="paths or globs")
    styles: Styles = Field([], description="paths or globs, or blends; every content gets each of them")
    pairs: Pairs = Field([], description="single contents, each with a style or masks of its own")
    sweep: dict[str, SweptValues] = Field(
        {}, description="recipe fields, each with the values to try; what a pair sets itself stays"
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Manifest:
        if bool(self.contents) != bool(self.styles):
            missing = "styles" if self.contents else "contents"
            raise ValueError(f"there are no {missing}: contents and styles go together")
        if not self.contents and not self.pairs:
            raise ValueError("nothing to do: give contents and styles, or pairs")
        return self


# A content, its style, its masks and the fields of the pair.
PairRow: TypeAlias = tuple[Path, Style, Masks | None, Mapping[str, Any]]


@dataclass(frozen=True)
class Sweep:
    """Fields of a recipe, each with the values to try. Its combinations are made one at a time."""

    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    @property
    def count(self) -> int:
        """The same where it is too large for `len`."""
        return math.prod(map(len, self.fields.values()))

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for values in itertools.product(*self.fields.values()):
            yield dict(zip(self.fields, values, strict=True))

    def without(self, fields: Iterable[str]) -> Sweep:
        """Return the sweep of a recipe that sets these fields itself."""
        return Sweep({name: values for name, values in self.fields.items() if name not in fields})


@dataclass(frozen=True)
class Batch:
    """A checked manifest, expanded as far as its lists; `jobs()` makes the jobs one at a time."""

    name: str
    contents: tuple[Path, ...]
    styles: tuple[Style, ...]
    pairs: tuple[PairRow, ...]
    below: tuple[Mapping[str, Any], ...]
    above: Mapping[str, Any]
    sweep: Sweep = field(default_factory=Sweep)
    # What globs passed over, and names that several styles have, a sentence for each.
    passed_over: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.count

    @property
    def count(self) -> int:
        """How many jobs there are, also where they are too many for `len`."""
        pairs = sum(self.sweep.without(fields).count for *_, fields in self.pairs)
        return len(self.contents) * len(self.styles) * self.sweep.count + pairs

    def input_paths(self) -> set[Path]:
        """Return the files that jobs read, without making the jobs."""
        found = {*self.contents, *(path for style in self.styles for path, _ in style.images)}
        for content, style, masks, _ in self.pairs:
            found |= {content, *(path for path, _ in style.images), *([masks.content] if masks else [])}
        layers = (*self.below, self.above, *(fields for *_, fields in self.pairs))
        inits = [*(fields.get("init") for fields in layers), *self.sweep.fields.get("init", ())]
        return found | {Path(init) for init in inits if isinstance(init, str) and init not in INIT_MODES}

    def jobs(self) -> Iterator[Job]:
        """Yield every job, those of one style and recipe in a row, so that its targets are reused."""
        swept = [pair for pair in self.pairs if self.sweep.fields.keys().isdisjoint(pair[-1])]
        apart = [pair for pair in self.pairs if not self.sweep.fields.keys().isdisjoint(pair[-1])]
        for values in self.sweep:
            recipe = self._recipe({}, values)
            steps = recipe.total_steps
            for style, content in itertools.product(self.styles, self.contents):
                yield self._job(content, style, recipe, steps, values)
            for content, style, masks, fields in swept:
                yield self._pair_job(
                    content, style, masks, self._recipe(fields, values) if fields else recipe, values
                )
        for content, style, masks, fields in apart:
            for values in self.sweep.without(fields):
                yield self._pair_job(content, style, masks, self._recipe(fields, values), values)

    def _pair_job(
        self, content: Path, style: Style, masks: Masks | None, recipe: Recipe, swept: Mapping[str, Any]
    ) -> Job:
        job = self._job(content, style, recipe, recipe.total_steps, swept)
        return job if masks is None else replace(job, masks=masks)

    def _recipe(self, pair: Mapping[str, Any], swept: Mapping[str, Any]) -> Recipe:
        return merged_recipe(*self.below, swept, pair, self.above)

    def _job(self, content: Path, style: Style, recipe: Recipe, steps: int, swept: Mapping[str, Any]) -> Job:
        name = output_name(recipe.name, content.stem, style.name, recipe, swept, steps)
        return Job(self.name, content, style, recipe, name, swept)


def read_manifest(
    path: Path,
    config_fields: Mapping[str, Any],
    flag_fields: Mapping[str, Any],
    place: Path | None = None,
    unwanted: Unwanted = NOTHING_UNWANTED,
) -> Batch:
    """Read and check a manifest: every path, glob, recipe and swept value, before anything starts.

    Recipe fields are laid in the order preset, `config_fields`, manifest, `flag_fields`. Where the file was
    moved, `place` is where it was: messages name it, and relative paths start beside it. No wildcard finds
    what is `unwanted`.

    Raises:
        UsageError: everything that is wrong, a line each.
    """
    document = read_document(path, place)
    folder = document.path.parent
    manifest = document.check(Manifest)
    reader = _Reader(document, unwanted)
    if isinstance(manifest, list):
        reader.try_raw(document.data)
        swept = _swept_problems(_mapping(document.data.get("sweep")))
        raise document.error([*manifest, *reader.problems, *swept])
    pair_fields = [anchor_init(pair.recipe, folder) for pair in manifest.pairs]
    contents, styles = reader.all_contents(manifest.contents), reader.all_styles(manifest.styles)
    pairs = reader.all_pairs(manifest.pairs, pair_fields)
    batch = Batch(
        name=safe_name((manifest.batch or document.path.stem).replace("/", "_").lstrip("._ ")),
        contents=contents,
        styles=styles,
        pairs=pairs,
        below=(config_fields, anchor_init(manifest.recipe, folder)),
        above=flag_fields,
        sweep=_read_sweep(manifest.sweep, flag_fields, folder),
        passed_over=(*reader.passed_over, *_namesakes(styles)),
    )
    recipes = batch.sweep.count * (1 + sum(map(bool, pair_fields)))
    if (most := max(batch.count, recipes)) > MAX_JOBS:
        raise document.error([Problem(("sweep",), f"asks for {most:,} pictures; at most {MAX_JOBS:,}")])
    found = [
        *reader.problems,
        *_swept_problems(manifest.sweep),
        *_recipe_problems(batch, pair_fields, document),
    ]
    if found:
        raise document.error(dict.fromkeys(found))
    return batch


def _namesakes(styles: Iterable[Style]) -> list[str]:
    """Say which names several styles have: their results are told apart by a short id."""
    first: dict[str, Style] = {}
    shared = {style.name for style in styles if first.setdefault(composed(style.name), style) != style}
    return [
        f"{name}: several styles have this name; give each a name of its own, or results get a short id"
        for name in sorted(shared)
    ]


def unwanted(config: Config) -> Unwanted:
    """Return what no wildcard finds: ignored names, results, originals that were moved, state and cache."""
    watch = config.watch
    folders = (config.outbox, watch.archive_dir, watch.quarantine_dir, config.state_dir, config.cache_dir)
    return Unwanted(config.ignore, tuple(folder.resolve() for folder in folders))


class _Reader:
    """Turns entries into existing files, gathering every problem on the way."""

    def __init__(self, document: Document, unwanted: Unwanted) -> None:
        self.folder = document.path.parent
        self.unwanted = unwanted
        self.problems: list[Problem] = []
        self.passed_over: list[str] = []
        self._found: dict[str, list[Path]] = {}
        self._names = Names()

    def try_raw(self, data: Any) -> None:
        """Look for the files of whatever makes sense in a manifest that has other faults."""
        for index, entry in enumerate(listed(data.get("contents")) or []):
            if isinstance(entry, str) and entry:
                self.files(entry, ("contents", index))
        for index, entry in enumerate(listed(data.get("styles")) or []):
            try:
                style = TypeAdapter(StyleField).validate_python(entry)
            except ValidationError:
                continue
            self.styles(style, ("styles", index))
        for index, entry in enumerate(listed(data.get("pairs")) or []):
            for keys, path in _named_in_pair(entry):
                self.files(path, ("pairs", index, *keys))

    def all_contents(self, entries: Sequence[str]) -> tuple[Path, ...]:
        found = [self.files(entry, ("contents", index)) for index, entry in enumerate(entries)]
        return tuple(itertools.chain.from_iterable(found))

    def all_styles(self, entries: Sequence[StyleEntry]) -> tuple[Style, ...]:
        found = [self.styles(entry, ("styles", index)) for index, entry in enumerate(entries)]
        return tuple(itertools.chain.from_iterable(found))

    def all_pairs(self, pairs: Sequence[Pair], fields: Sequence[Mapping[str, Any]]) -> tuple[PairRow, ...]:
        """Return every content of a pair with every style of it, and the pair's own `fields`."""
        rows: list[PairRow] = []
        for index, (pair, own) in enumerate(zip(pairs, fields, strict=True)):
            contents = self.files(pair.content, ("pairs", index, "content"))
            styles = self.pair_styles(pair, ("pairs", index))
            rows += [(content, *style, own) for content in contents for style in styles]
        return tuple(rows)

    def files(self, entry: str, keys: KeyPath) -> list[Path]:
        """Return the files that an entry names; it is looked for once, and missed wherever it is named."""
        if not self._found.get(entry):
            self._found[entry] = self._look_for(entry, keys)
        return self._found[entry]

    def _look_for(self, entry: str, keys: KeyPath) -> list[Path]:
        try:
            return self._files(entry, keys)
        except OSError as error:
            why = f"cannot be read ({error.strerror or error})"
        except (ValueError, RuntimeError) as error:  # a NUL, the home of nobody
            why = str(error)
        self.problems.append(Problem(keys, f"{entry[:100]}: {why}"))
        return []

    def _files(self, entry: str, keys: KeyPath) -> list[Path]:
        expanded = Path(entry).expanduser()
        path = self._names.as_on_disk(self.folder / expanded)
        if path.is_file():
            return [path.resolve()]
        if not is_glob(entry):
            self.problems.append(Problem(keys, f"{entry}: {_why_no_file(path, entry, self._names)}"))
            return []
        start = Path(expanded.anchor) if expanded.anchor else self.folder
        found = find(start, expanded.relative_to(expanded.anchor).parts, self.unwanted)
        passed_over = found.passed_over()
        if not found.files:
            why = f"; passed over: {passed_over}" if passed_over else ""
            hint = "; where a name has brackets of its own, write [[] for [" if "[" in entry else ""
            self.problems.append(Problem(keys, f"{entry}: no picture matches{why}{hint}"))
        elif passed_over:
            self.passed_over.append(f"{entry}: passed over: {passed_over}")
        return found.files

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

    def pair_styles(self, pair: Pair, keys: KeyPath) -> list[tuple[Style, Masks | None]]:
        """Return the styles that a pair's content gets: one after another, or together with masks."""
        if pair.masks is None:
            assert pair.style is not None  # it has one of them
            return [(style, None) for style in self.styles(pair.style, (*keys, "style"))]
        masks, keys = pair.masks, (*keys, "masks")
        mask = self._one_file(masks.content, (*keys, "content"))
        colors: dict[Path, Color] = {}
        for entry, color in masks.styles.items():
            found = self._one_file(entry, (*keys, "styles", entry))
            if found in colors:
                self.problems.append(
                    Problem((*keys, "styles", entry), f"{entry}: this file has a region already")
                )
            if found is not None:
                colors[found] = color
        name = masks.name or "+".join(path.stem for path in colors)
        style = Style(name, tuple((path, 1.0) for path in colors))
        return [] if mask is None else [(style, Masks(mask, tuple(colors.values())))]

    def _one_file(self, entry: str, keys: KeyPath) -> Path | None:
        found = self.files(entry, keys)
        if len(found) > 1:
            self.problems.append(Problem(keys, f"{entry}: expected one picture; {len(found)} match"))
        return found[0] if found else None


def _why_no_file(path: Path, entry: str, names: Names) -> str:
    if path.is_dir():
        return f"is a folder; name its pictures, as in {entry.rstrip('/')}/*.jpg"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        there = names.in_other_case(path)
        return f"no such file; there is '{there}'" if there else "no such file"
    return "is no file, but a pipe or a device"


def _named_in_pair(entry: Any) -> Iterator[tuple[KeyPath, str]]:
    """Give every path in a pair that may have other faults, with its place."""
    pair = _mapping(entry)
    masks = _mapping(pair.get("masks"))
    found: list[tuple[KeyPath, Any]] = [((key,), pair.get(key)) for key in ("content", "style")]
    found += [(("masks", "content"), masks.get("content"))]
    found += [(("masks", "styles", path), path) for path in _mapping(masks.get("styles"))]
    yield from ((keys, path) for keys, path in found if isinstance(path, str) and path)


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _swept_problems(sweep: Mapping[Any, Any]) -> list[Problem]:
    """Say which of the swept fields no recipe has, and which are there twice."""
    accepted = [*Recipe.model_fields, *ALIASES]
    return [
        *(
            Problem(("sweep", key), why_removed(key))
            if key in REMOVED
            else unknown_key(("sweep", key), accepted)
            for key in sweep
            if key not in accepted
        ),
        *(
            Problem(("sweep", alias), f"'{name}' is given twice, once under its alias")
            for alias, name in ALIASES.items()
            if alias in sweep and name in sweep
        ),
    ]


def _read_sweep(sweep: Mapping[str, list[Any]], flags: Mapping[str, Any], folder: Path) -> Sweep:
    """Return what is swept; a field set by a flag is not."""
    fields = {ALIASES.get(key, key): values for key, values in sweep.items()}
    if "init" in fields:
        fields["init"] = [anchor_init({"init": value}, folder)["init"] for value in fields["init"]]
    return Sweep(fields).without(flags)


def _recipe_problems(batch: Batch, pairs: Sequence[Mapping[str, Any]], document: Document) -> list[Problem]:
    """Try every distinct recipe once, so that nothing can go wrong when jobs are made one by one."""
    found: dict[str, Problem] = {}
    cases: list[tuple[KeyPath, Mapping[str, Any]]] = [(("recipe",), {})]
    cases += [(("pairs", index, "recipe"), fields) for index, fields in enumerate(pairs) if fields]
    for keys, fields in cases:
        for swept in batch.sweep.without(fields):
            try:
                recipe = batch._recipe(fields, swept)
                output_name(recipe.name, "content", "style", recipe, swept, recipe.total_steps)
                if recipe.init not in INIT_MODES and not _is_file(Path(recipe.init)):
                    found.setdefault(
                        recipe.init,
                        Problem(_place("init", keys, swept, document), f"{recipe.init}: no such file"),
                    )
            except ValidationError as error:
                for problem in problems(error, Recipe):
                    field = str(problem.keys[0]) if problem.keys else "preset"
                    found.setdefault(
                        problem.text, Problem(_place(field, keys, swept, document), problem.text)
                    )
            except UsageError as error:
                found.setdefault(error.message, Problem(_place("name", keys, swept, document), error.message))
    return list(found.values())


def _place(field: str, keys: KeyPath, swept: Mapping[str, Any], document: Document) -> KeyPath:
    """Say where a field's value came from: the sweep, under its own name or its alias, or a recipe."""
    names = (field, *(alias for alias, name in ALIASES.items() if name == field))
    found = [("sweep", name) for name in names if field in swept and ("sweep", name) in document.lines]
    return found[0] if found else (*keys, field)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
