"""What a drop asks for: from its path in the inbox to jobs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import UsageError
from ..spec.batches import Batch
from ..spec.config import Blend, Config, Route, StyleNames
from ..spec.jobs import Job, Style, output_name
from ..spec.manifest import read_manifest
from ..spec.names import composed
from ..spec.output_names import safe_name
from ..spec.problems import explain
from ..spec.recipe import Recipe, merged_recipe
from .claims import Claim
from .inbox import STYLES

MANIFEST_SUFFIXES = frozenset({".yaml", ".yml"})


@dataclass(frozen=True)
class Plan:
    """What is to be made from a picture: its styles, its recipe, and the folder for the results."""

    batch: str
    folder: str
    styles: tuple[Style, ...]
    recipe: Recipe

    def jobs(self, claim: Claim, inbox: Path) -> list[Job]:
        """Return a job for every style."""
        return [
            Job(
                self.batch,
                claim.path,
                style,
                self.recipe,
                self.folder + output_name(self.recipe, claim.relative.stem, style.name, {}),
                drop=claim.id,
                origin=inbox / claim.relative,
            )
            for style in self.styles
        ]


@dataclass(frozen=True)
class Waiting:
    """A picture that cannot be begun yet, and why."""

    reason: str


class Router:
    """Interprets paths in the inbox by the `watch` section of the configuration.

    Raises:
        UsageError: the recipe of a route makes no sense.
    """

    def __init__(self, config: Config, flags: Mapping[str, Any]) -> None:
        self.config = config
        self.watch = config.watch
        self.flags = flags
        self.routes = {composed(name): route for name, route in config.watch.routes.items()}
        for name, route in {"": Route(), **self.watch.routes}.items():
            try:
                self.recipe(route.recipe)
            except ValidationError as error:
                where = f"watch.routes.{name}.recipe" if name else "recipe"
                problems = [f"{where}: {problem}" for problem in explain(error, Recipe)]
                raise UsageError.of_lines(problems, "See config.yaml, --preset and --set.") from error

    @property
    def batches(self) -> set[str]:
        """The names of the batches that pictures may go to."""
        routes = (route.batch or name for name, route in self.routes.items())
        return {_batch_name(name) for name in (self.watch.batch, *routes)}

    def recipe(self, fields: Mapping[str, Any]) -> Recipe:
        """Lay a route's fields over the configuration's, and the flags over both."""
        return merged_recipe(self.config.recipe, fields, self.flags)

    def is_manifest(self, relative: Path) -> bool:
        return relative.suffix.lower() in MANIFEST_SUFFIXES

    def plan(
        self, relative: Path, library: Mapping[str, Path | None], known: Collection[str] = ()
    ) -> Plan | Waiting:
        """Return what a picture asks for; `library` as `library.style_paths` returns it.

        A picture in a folder named after a style that is `known`, and not in the library now, waits for it.
        """
        top = composed(relative.parts[0]) if len(relative.parts) > 1 else ""
        if top in self.routes:
            route = self.routes[top]
            batch, folder, names = route.batch or top, relative.parts[1:-1], route.styles or self.watch.styles
        else:
            route, batch, folder = Route(), self.watch.batch, relative.parts[:-1]
            names = [top] if top in library or top in known else self.watch.styles
        styles = _named_styles(names, library)
        if isinstance(styles, Waiting):
            return styles
        return Plan(_batch_name(batch), _mirrored(folder), styles, self.recipe(route.recipe))

    def read_manifest(self, path: Path, relative: Path) -> Batch:
        """Read a manifest that was dropped at `relative`, where relative paths start.

        Raises:
            UsageError: something is wrong in it, or it names pictures that are drops themselves.
        """
        inbox, library = self.watch.inbox, self.watch.inbox / STYLES
        place = inbox / relative
        batch = read_manifest(path, self.config.recipe, self.flags, place, self.config.exclusions())
        for named in batch.input_paths():
            if inbox in named.parents and library not in named.parents:
                raise UsageError(
                    f"{place}: {named} lies in the inbox, where it is a drop of its own.",
                    "Put the manifest's pictures elsewhere; styles may lie in inbox/styles.",
                )
        return batch


def manifest_jobs(batch: Batch, claim: Claim) -> Iterable[Job]:
    return (replace(job, drop=claim.id) for job in batch.jobs())


def _named_styles(
    names: StyleNames | None, library: Mapping[str, Path | None]
) -> tuple[Style, ...] | Waiting:
    if names is None and not library:
        return Waiting(f"there is no style yet; put a picture into {STYLES}/")
    styles: dict[Style, None] = {}  # in their order, each once
    missing: set[str] = set()
    for name in sorted(library) if names is None else names:
        parts = name.blend if isinstance(name, Blend) else {name: 1.0}
        paths = {part: library.get(composed(part)) for part in parts}
        missing |= {part for part, path in paths.items() if path is None}
        images = tuple((path, parts[part]) for part, path in paths.items() if path is not None)
        styles[Style(name.name if isinstance(name, Blend) else name, images)] = None
    if missing:
        listed = ", ".join(f"'{name}'" for name in sorted(missing))
        styles_are = f"the style {listed} is" if len(missing) == 1 else f"the styles {listed} are"
        return Waiting(f"{styles_are} not in {STYLES}/, or still being copied")
    return tuple(styles)


def _batch_name(text: str) -> str:
    return safe_name(text.replace("/", "_").lstrip("._ "))


def _mirrored(parts: tuple[str, ...]) -> str:
    """Return the folder of a job's name, with a slash at its end where there is one."""
    if not parts:
        return ""
    first, *rest = (_unlike_a_file(part) for part in safe_name("/".join(parts)).split("/"))
    # `logs` in a batch's folder is for logs.
    first += "_" if first.casefold() == "logs" else ""
    return "".join(f"{part}/" for part in (first, *rest))


def _unlike_a_file(part: str) -> str:
    """Keep a folder from having the name of a file of the outbox, which could not lie beside it."""
    return re.sub(r"\.(png|jpe?g|json|csv)$", r"_\1", part, flags=re.IGNORECASE)
