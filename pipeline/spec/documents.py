"""YAML files that become validated models, with errors that name file, line and key, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import UsageError
from ..storage.files import open_regular
from .problems import Problem, problems_in, shown
from .text import counted, shortened
from .yaml12 import InvalidYAML, KeyPath, parse_yaml

# A manifest of a hundred thousand pairs is about 6 MB.
MAX_BYTES = 8 << 20
# Limits on what an error message lists.
MAX_PROBLEMS, MAX_PROBLEM_CHARACTERS = 50, 1000

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A YAML mapping and the line (from 1) of every key and list item in it."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def validate(self, model: type[Model]) -> Model:
        """Build `model` from the data.

        Raises:
            UsageError: every problem in the file, a line each.
        """
        found = self.check(model)
        if isinstance(found, list):
            raise self.error(found)
        return found

    def check(self, model: type[Model]) -> Model | list[Problem]:
        """Build `model` from the data, or return what is wrong with it."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            return problems_in(error, model)

    def error(self, problems: Iterable[Problem]) -> UsageError:
        """Gather problems into one error; each line names file, line and key."""
        ordered = sorted(problems, key=lambda problem: self.line(problem.keys))
        lines = [
            f"{self.path}:{self.line(each.keys)}: {replace(each, keys=self._as_written(each.keys))}"
            for each in ordered[:MAX_PROBLEMS]
        ]
        lines = [shortened(line, MAX_PROBLEM_CHARACTERS) for line in lines]
        if len(ordered) > MAX_PROBLEMS:
            lines.append(f"{self.path}: and {counted(len(ordered) - MAX_PROBLEMS, 'problem')} more")
        return UsageError.of_lines(lines)

    def _as_written(self, keys: KeyPath) -> KeyPath:
        """Leave out the index of a single value that was written without a list."""
        return tuple(
            key
            for index, key in enumerate(keys)
            if isinstance(key, str) or keys[: index + 1] in self.lines or keys[:index] not in self.lines
        )

    def line(self, keys: KeyPath) -> int:
        """Return the line of a key, or of the nearest one around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def read_document(path: Path, original: Path | None = None) -> Document:
    """Read a YAML file whose top level is a mapping; an empty file is an empty mapping.

    If the file was moved, `original` is its former path, which messages name.

    Raises:
        UsageError: the file is missing, too large, not YAML, not a mapping, or has a key twice.
    """
    named = original or path
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(
                f"{named}: more than {MAX_BYTES >> 20} MB of text.", "Split it into several files."
            )
        text = data.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{named}: cannot be read ({reason}).", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{named}: is not UTF-8 text.", "Save it as UTF-8.") from error
    return parse_document(text, named)


def parse_document(text: str, path: Path) -> Document:
    """Parse text as `read_document` does; messages name `path`."""
    try:
        parsed = parse_yaml(text)
    except InvalidYAML as error:
        place = f"{path}:{error.line}" if error.line else f"{path}"
        raise UsageError(f"{place}: not valid YAML: {error}") from error
    if parsed.data is None:
        return Document(path, {})
    if not isinstance(parsed.data, dict):
        kind = "a list" if isinstance(parsed.data, list) else shown(parsed.data)
        raise UsageError(f"{path}:1: expected keys and values, such as `key: value`, found {kind}.")
    document = Document(path, parsed.data, parsed.lines)
    if parsed.duplicates:
        raise document.error(Problem(keys, "given twice") for keys in parsed.duplicates)
    return document
