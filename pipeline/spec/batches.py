"""A checked manifest, and the jobs that it stands for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from .jobs import Job, Masks, Style, output_name
from .recipe import INIT_MODES, Recipe, merged_recipe
from .shards import Shard


@dataclass(frozen=True)
class Sweep:
    """Recipe fields, each with the values to try. Iteration yields one combination at a time."""

    fields: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of combinations, which may be too large for `len`."""
        return math.prod(map(len, self.fields.values()))

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for values in itertools.product(*self.fields.values()):
            yield dict(zip(self.fields, values, strict=True))

    def without(self, fields: Iterable[str]) -> Sweep:
        """Return the sweep of a recipe that sets these fields itself."""
        return Sweep({name: values for name, values in self.fields.items() if name not in fields})


class PairRow(NamedTuple):
    """A content, its style, its masks, and the recipe fields of the pair."""

    content: Path
    style: Style
    masks: Masks | None
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """A checked manifest whose globs are expanded; `jobs()` makes the jobs one at a time.

    The fields of a recipe come from `defaults`, the sweep, the pair and `overrides`; a later source wins.
    `notes` say what globs passed over and which names several styles have. Output names leave out the swept
    values that are `usual`. With a `shard` only its jobs are made and counted.
    """

    name: str
    contents: tuple[Path, ...]
    styles: tuple[Style, ...]
    pairs: tuple[PairRow, ...]
    defaults: tuple[Mapping[str, Any], ...]
    overrides: Mapping[str, Any]
    sweep: Sweep = field(default_factory=Sweep)
    notes: tuple[str, ...] = ()
    usual: Mapping[str, Any] = field(default_factory=dict)
    shard: Shard | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def count(self) -> int:
        """The number of jobs, which may be too large for `len` until the manifest is checked."""
        if self.shard is not None:
            return self._count_in_shard
        pairs = sum(self.sweep.without(pair.fields).count for pair in self.pairs)
        return len(self.contents) * len(self.styles) * self.sweep.count + pairs

    @cached_property
    def _count_in_shard(self) -> int:
        return sum(1 for _ in self.jobs())

    def input_paths(self) -> set[Path]:
        """Return the files that the jobs read, without making the jobs."""
        found = {*self.contents, *(path for style in self.styles for path, _ in style.images)}
        for content, style, masks, _ in self.pairs:
            found |= {content, *(path for path, _ in style.images), *([masks.content] if masks else [])}
        sources = (*self.defaults, self.overrides, *(pair.fields for pair in self.pairs))
        inits = [*(fields.get("init") for fields in sources), *self.sweep.fields.get("init", ())]
        return found | {Path(init) for init in inits if isinstance(init, str) and init not in INIT_MODES}

    def jobs(self) -> Iterator[Job]:
        """Yield every job; those of one style and recipe come in a row, so that its targets are reused."""
        return (job for job in self._all_jobs() if self.shard is None or self.shard.takes(job.name))

    def _all_jobs(self) -> Iterator[Job]:
        swept = [pair for pair in self.pairs if self.sweep.fields.keys().isdisjoint(pair.fields)]
        others = [pair for pair in self.pairs if not self.sweep.fields.keys().isdisjoint(pair.fields)]
        for values in self.sweep:
            recipe = self.recipe({}, values)
            for style, content in itertools.product(self.styles, self.contents):
                yield self._job(PairRow(content, style, None, {}), recipe, values)
            for pair in swept:
                yield self._job(pair, self.recipe(pair.fields, values) if pair.fields else recipe, values)
        for pair in others:
            for values in self.sweep.without(pair.fields):
                yield self._job(pair, self.recipe(pair.fields, values), values)

    def recipe(self, pair: Mapping[str, Any], swept: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a pair's fields and one combination of swept values."""
        return merged_recipe(*self.defaults, swept, pair, self.overrides)

    def _job(self, pair: PairRow, recipe: Recipe, swept: Mapping[str, Any]) -> Job:
        named = {key: value for key, value in swept.items() if (key, value) not in self.usual.items()}
        name = output_name(recipe, pair.content.stem, pair.style.name, named)
        return Job(self.name, pair.content, pair.style, recipe, name, named, masks=pair.masks)
