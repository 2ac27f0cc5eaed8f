"""YAML files into validated models, with errors that name file, line and key, all at once."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
)

from ..errors import UsageError
from ..storage.files import open_regular
from .text import counted, shortened

MAX_DEPTH = 50
# A manifest of a hundred thousand pairs is about 6 MB.
MAX_BYTES = 8 << 20
# Scalars, lists and mappings; what an alias refers to counts every time it is used.
MAX_VALUES = 1_000_000
# Limits on what an error message lists.
MAX_PROBLEMS, MAX_PROBLEM_CHARACTERS = 50, 1000

KeyPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The core schema of YAML 1.2.2, section 10.3.2: how each kind of value is written, and what it begins with.
# PyYAML's own is that of YAML 1.1, where `no` is false, 12:30 is 750 and 010 is 8.
_CORE_SCHEMA = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),  # not in the core schema, but widely used
}


class _Loader(_BaseLoader):  # type: ignore[misc]
    """Reads YAML 1.2. All else is text: `no`, `12:30`, `2001-01-01`, `1_000`."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another type."""


for _kind, (_pattern, _first) in _CORE_SCHEMA.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _first)


def _construct_bool(loader: Any, node: Any) -> bool:
    text = loader.construct_scalar(node).lower()
    if text not in {"true", "false"}:
        raise ValueError(f"expected true or false, found '{text}'")
    return bool(text == "true")


def _construct_int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    if not re.fullmatch(_CORE_SCHEMA["int"][0], text):
        raise ValueError(f"expected a whole number, found '{text}'")
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


class Part(BaseModel):
    """A part of a document: every key is known, every number finite, and true and false are no numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation: Any = cls.model_fields[info.field_name or ""].annotation
        kinds = _kinds(annotation)
        if kinds & {int, float} and bool not in kinds:
            for part in value.values() if isinstance(value, dict) else listed(value) or ():
                if isinstance(part, bool):
                    raise ValueError(f"expected a number, found {shown(part)}")
        return value


@cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """Return the types that an annotation is made of."""
    parts = get_args(annotation)
    return frozenset().union(*map(_kinds, parts)) if parts else frozenset([annotation])


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
        lines = [
            f"{self.path}:{self.line(p.keys)}: {_dotted(replace(p, keys=self._written(p.keys)))}"
            for p in ordered[:MAX_PROBLEMS]
        ]
        lines = [shortened(line, MAX_PROBLEM_CHARACTERS) for line in lines]
        if len(ordered) > MAX_PROBLEMS:
            lines.append(f"{self.path}: and {counted(len(ordered) - MAX_PROBLEMS, 'problem')} more")
        return UsageError.of_lines(lines)

    def _written(self, keys: KeyPath) -> KeyPath:
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


def read_document(path: Path, place: Path | None = None) -> Document:
    """Read a YAML file whose top level is a mapping; an empty file is an empty mapping.

    Where the file was moved, `place` is where people know it to be: messages name it.

    Raises:
        UsageError: the file is missing, too large, not YAML, not a mapping, or has a key twice.
    """
    named = place or path
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
    """As `read_document`, from text; `path` is used in messages."""
    try:
        _check_extent(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(path, {})
        lines: dict[KeyPath, int] = {}
        duplicates: list[Problem] = []
        _note_lines(loader, node, (), lines, duplicates, set())
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        line = _yaml_line(error)
        reason = _tab(text, line) or f"{_yaml_reason(error)}{_color_hint(text, line)}"
        raise UsageError(f"{path}:{_yaml_line(error)}: not valid YAML: {reason}") from error
    except _CONSTRUCTION_ERRORS as error:
        raise UsageError(f"{path}: not valid YAML: {error}.") from error
    if data is None:
        return Document(path, {})
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else shown(data)
        raise UsageError(f"{path}:1: expected keys and values, such as `key: value`, found {kind}.")
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
        _check_extent(text)
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not a valid value: {_yaml_reason(error)}") from error
    except _CONSTRUCTION_ERRORS as error:
        raise ValueError(f"not a valid value: {error}") from error


def dump_yaml(data: Any) -> str:
    """Return data as YAML that `read_document` reads back unchanged, with keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True)


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return what a validation found, one `key: text` line each."""
    return [_dotted(problem) for problem in problems(error, model)]


def explain_value(error: ValidationError) -> str:
    """Say what is wrong with a single value that belongs to no model."""
    return "; ".join(_problem(detail, BaseModel).text for detail in error.errors())


# What the constructors of PyYAML raise besides its own errors, for tags that do not fit (`!!int ""`).
_CONSTRUCTION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def _check_extent(text: str) -> None:
    """Refuse text nested so deep that the C loader would crash, or that aliases expand too far."""
    opened: list[
        tuple[str | None, int]
    ] = []  # collections with their anchors, and how many values were before
    extents: dict[str | None, int] = {}
    values = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            extents[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            values += extents.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        if len(opened) > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep")
        if values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, those of aliases counted each time")


def _note_lines(
    loader: Any,
    node: yaml.Node,
    keys: KeyPath,
    lines: dict[KeyPath, int],
    duplicates: list[Problem],
    seen_nodes: set[int],
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
            merge = key_node.tag == "tag:yaml.org,2002:merge"
            name = key_node.value if merge else loader.construct_object(key_node)
            key = (*keys, name)
            if name in seen:
                duplicates.append(Problem(key, "given twice"))
            seen.add(name)
            lines[key] = key_node.start_mark.line + 1
            _note_lines(loader, value_node, key, lines, duplicates, seen_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(loader, item, (*keys, index), lines, duplicates, seen_nodes)


def problems(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    return [_problem(detail, model) for detail in error.errors(include_url=False)]


# pydantic's error types in plain words; braces are filled from the error's context.
_PLAIN = {
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type"),
        "expected keys and values, such as {{key: value}}",
    ),
    **dict.fromkeys(("list_type", "tuple_type"), "expected a list, such as [a, b]"),
    **dict.fromkeys(("string_type", "string_unicode"), "expected text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "int_parsing_size": "expected a number with fewer digits",
    "finite_number": "expected a finite number",
    "path_type": "expected a path",
    "literal_error": "expected {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} parts",
    "invalid_key": "expected text as a key; a number or true in quotes is text",
}


def _problem(detail: Any, model: type[BaseModel]) -> Problem:
    keys: KeyPath = tuple(key for key in detail["loc"] if key != "[key]")
    kind, value = detail["type"], detail["input"]
    if kind == "missing":
        return Problem(keys, "is required")
    if kind == "value_error":
        return Problem(keys, str(detail["ctx"]["error"]))
    if kind == "extra_forbidden":
        return unknown_key(keys, _accepted(model, keys[:-1]))
    limits = {
        name: f"{part:g}" if isinstance(part, float) else part for name, part in detail.get("ctx", {}).items()
    }
    text = _PLAIN[kind].format(**limits) if kind in _PLAIN else str(detail["msg"])
    text += f", found {shown(value)}"
    if kind == "literal_error":
        text += did_you_mean(str(value), re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
    return Problem(keys, text + (in_quotes(value) if kind == "string_type" else ""))


def in_quotes(value: Any) -> str:
    """Say how a number is written where text is meant, "" of what is no number."""
    return f"; in quotes it is text: '{shown(value)}'" if isinstance(value, int | float) else ""


def unknown_key(keys: KeyPath, accepted: Sequence[str]) -> Problem:
    """Say that the last of `keys` is unknown, and which keys are accepted there."""
    hint = did_you_mean(str(keys[-1]), accepted) or "."
    return Problem(keys, f"unknown key{hint} Accepted: {', '.join(accepted)}" if accepted else "unknown key")


def listed(value: Any) -> Any:
    """Accept a single value where a list is meant."""
    return value if value is None or isinstance(value, list | tuple) else [value]


def expecting(what: str) -> WrapValidator:
    """Describe in one sentence what a field of several types accepts."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise ValueError(f"expected {what}, found {shown(value)}") from error

    return WrapValidator(check)


def shown(value: Any) -> str:
    """Return a value as YAML has it, in few characters."""
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else reprlib.repr(value)


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Return "; did you mean 'X'?", or "" where nothing accepted is like the word."""
    close = difflib.get_close_matches(word, list(accepted), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _accepted(model: type[BaseModel], keys: KeyPath) -> list[str]:
    """Name the keys accepted at `keys` below `model`, as far as its JSON schema tells."""
    schema = _schema(model)
    place: Any = schema
    for key in keys:
        if isinstance(key, int):
            lists = [branch for branch in place.get("anyOf", [place]) if "items" in branch]
            place = lists[0]["items"] if lists else {}
        else:
            place = _value_of(_resolve(place, schema), str(key))
    return list(_resolve(place, schema).get("properties", {}))


@cache  # it takes milliseconds, and a document may have an unknown key in each of 100,000 pairs
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


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


def _tab(text: str, line: int) -> str:
    """Say so where the line (from 1) of a fault in YAML is indented with a tab."""
    lines = text.splitlines()
    indented = line <= len(lines) and re.match(r" *\t", lines[line - 1])
    return "the line begins with a tab; indent with spaces" if indented else ""


# What PyYAML says, in plain words.
_PLAIN_YAML = {
    "mapping values are not allowed": "a second ': ' in one line; text that holds one is in quotes",
    "did not find expected key": "expected a key in the column of the one above, or a bracket is not closed",
    "expected <block end>, but found": "a line that is not in the column of those above",
    **dict.fromkeys(
        ("did not find expected ',' or ']'", "expected ',' or ']'"),
        "a list begun with [ lacks a comma or its ]",
    ),
    **dict.fromkeys(
        ("did not find expected ',' or '}'", "expected ',' or '}'"),
        "what began with { lacks a comma or its }",
    ),
    "could not find expected ':'": "expected `key: value`; a key lacks its colon",
}


def _yaml_reason(error: yaml.YAMLError) -> str:
    reason = str(getattr(error, "problem", None) or error)
    return next((plain for said, plain in _PLAIN_YAML.items() if reason.startswith(said)), reason)
