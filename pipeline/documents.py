"""YAML files into validated models, with errors that name file, line and key, all at once."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from .errors import UsageError

MAX_DEPTH = 50

KeyPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):  # type: ignore[misc]
    """YAML as people write it: `1e3` is a number, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a document."""

    keys: KeyPath
    text: str


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
            return problems(error, model)

    def error(self, problems_: Iterable[Problem]) -> UsageError:
        """Gather problems into one error; each line names file, line and key."""
        ordered = sorted(problems_, key=lambda problem: self.line(problem.keys))
        return UsageError("\n".join(f"{self.path}:{self.line(p.keys)}: {_dotted(p)}" for p in ordered))

    def line(self, keys: KeyPath) -> int:
        """Return the line of a key, or of the nearest one around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def read_document(path: Path, place: Path | None = None) -> Document:
    """Read a YAML file whose top level is a mapping; an empty file is an empty mapping.

    Where the file was moved, `place` is where people know it to be: messages name it.

    Raises:
        UsageError: the file is missing, not YAML, not a mapping, or has a key twice.
    """
    named = place or path
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{named}: cannot be read ({reason}).", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{named}: is not UTF-8 text.", "Save it as UTF-8.") from error
    return parse_document(text, named)


def parse_document(text: str, path: Path) -> Document:
    """As `read_document`, from text; `path` is used in messages."""
    try:
        _check_depth(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(path, {})
        lines: dict[KeyPath, int] = {}
        duplicates: list[Problem] = []
        _note_lines(node, (), lines, duplicates, set())
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        reason = f"{_yaml_reason(error)}{_color_hint(text, _yaml_line(error))}"
        raise UsageError(f"{path}:{_yaml_line(error)}: not valid YAML: {reason}") from error
    except _CONSTRUCTION_ERRORS as error:
        raise UsageError(f"{path}: not valid YAML: {error}.") from error
    if data is None:
        return Document(path, {})
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: expected keys and values, found a {type(data).__name__}.")
    document = Document(path, data, lines)
    if duplicates:
        raise document.error(duplicates)
    return document


def parse_value(text: str) -> Any:
    """Read one YAML value, as in `--set steps=[100, 50]`.

    Raises:
        ValueError: it is not valid YAML.
    """
    try:
        _check_depth(text)
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not a valid value: {_yaml_reason(error)}") from error
    except _CONSTRUCTION_ERRORS as error:
        raise ValueError(f"not a valid value: {error}") from error


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return what a validation found, one `key: text` line each."""
    return [_dotted(problem) for problem in problems(error, model)]


# What the constructors of PyYAML raise besides its own errors, for tags that do not fit (`!!int ""`).
_CONSTRUCTION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def _check_depth(text: str) -> None:
    """The C loader recurses without a limit and kills the process."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep")


def _note_lines(
    node: yaml.Node, keys: KeyPath, lines: dict[KeyPath, int], duplicates: list[Problem], seen_nodes: set[int]
) -> None:
    lines.setdefault(keys, node.start_mark.line + 1)
    if id(node) in seen_nodes:
        return
    seen_nodes.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = (*keys, key_node.value)
            if key_node.value in seen:
                duplicates.append(Problem(key, "given twice"))
            seen.add(key_node.value)
            lines[key] = key_node.start_mark.line + 1
            _note_lines(value_node, key, lines, duplicates, seen_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*keys, index), lines, duplicates, seen_nodes)


def problems(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    return [_problem(detail, model) for detail in error.errors(include_url=False)]


def _problem(detail: Any, model: type[BaseModel]) -> Problem:
    keys: KeyPath = tuple(detail["loc"])
    text = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        accepted = _accepted(model, keys[:-1])
        close = difflib.get_close_matches(str(keys[-1]), accepted, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        text = f"unknown key{hint or '.'} Accepted: {', '.join(accepted)}" if accepted else "unknown key"
    elif detail["type"] not in {"missing", "value_error"}:
        text = f"{text}, found {reprlib.repr(detail['input'])}"
    return Problem(keys, text)


def _accepted(model: type[BaseModel], keys: KeyPath) -> list[str]:
    """Name the keys accepted at `keys` below `model`, as far as its JSON schema tells."""
    schema = model.model_json_schema()
    place: Any = schema
    for key in keys:
        place = _resolve(place, schema)
        place = place.get("items", {}) if isinstance(key, int) else _value_of(place, str(key))
    return list(_resolve(place, schema).get("properties", {}))


def _value_of(place: Any, key: str) -> Any:
    """Return the schema of a key's value; of a mapping with free keys, that of any."""
    free = place.get("additionalProperties")
    return place.get("properties", {}).get(key, free if isinstance(free, dict) else {})


def _resolve(place: Any, schema: Any) -> Any:
    """Follow a reference, or take the branch with keys of its own among alternatives."""
    for branch in place.get("anyOf", []):
        if "properties" in (resolved := _resolve(branch, schema)):
            return resolved
    if "$ref" in place:
        return schema["$defs"][place["$ref"].rpartition("/")[2]]
    return place


def _dotted(problem: Problem) -> str:
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in problem.keys).lstrip(".")
    return f"{name}: {problem.text}" if name else problem.text


def _yaml_line(error: yaml.YAMLError) -> int:
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


# A colour without quotes in a mapping or list on one line: the rest of the line is taken for a comment.
_BARE_COLOR = re.compile(r"""[:,\[][ \t]+(#[0-9a-fA-F]{6})[ \t]*[,}\]]""")


def _color_hint(text: str, line: int) -> str:
    """Say where, up to a line (from 1), a colour lacks its quotes; "" where none does."""
    for number, content in enumerate(text.splitlines()[:line], 1):
        if found := _BARE_COLOR.search(content):
            return f"; in line {number} a # begins a comment: write the colour in quotes, '{found[1]}'"
    return ""


def _yaml_reason(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error)
