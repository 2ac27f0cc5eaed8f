"""Reads and writes YAML 1.2, and says in plain words what is wrong with a text."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml
from yaml.reader import ReaderError

MAX_DEPTH = 50
# Scalars, lists and mappings; the contents of an alias count every time it is used.
MAX_VALUES = 1_000_000

# Where a value is: the keys and list indices that lead to it.
KeyPath = tuple[str | int, ...]

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The core schema of YAML 1.2.2, section 10.3.2: a pattern for each type, and what it can begin with.
# PyYAML's own schema is that of YAML 1.1, where `no` is false, 12:30 is 750 and 010 is 8.
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
    """Reads values that the core schema does not know as text: `no`, `12:30`, `2001-01-01`, `1_000`."""

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

# What the constructors of PyYAML raise besides its own errors, for tags that do not fit (`!!int ""`).
_CONSTRUCTION_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class InvalidYAML(ValueError):
    """A text is not valid YAML. `line` (from 1) is where, if it is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class Parsed:
    """The value of a YAML text, the line (from 1) of every key and list item, and keys given twice."""

    data: Any
    lines: Mapping[KeyPath, int]
    duplicates: Sequence[KeyPath]


def parse_yaml(text: str) -> Parsed:
    """Parse a text.

    Raises:
        InvalidYAML: it is not valid, nested too deeply, or has too many values.
    """
    try:
        _check_extent(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Parsed(None, {}, ())
        places = _Places(loader)
        places.visit(node, ())
        return Parsed(loader.construct_document(node), places.lines, places.duplicates)
    except yaml.YAMLError as error:
        line = _line(error, text)
        reason = _tab_hint(text, line) or f"{_reason(error)}{_color_hint(text, line)}"
        raise InvalidYAML(reason, line) from error
    except _CONSTRUCTION_ERRORS as error:
        raise InvalidYAML(f"{error}.") from error


def parse_value(text: str) -> Any:
    """Parse one value, as in `--set steps=[100, 50]`.

    Raises:
        ValueError: it is not valid YAML.
    """
    try:
        _check_extent(text)
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not a valid value: {_reason(error)}") from error
    except _CONSTRUCTION_ERRORS as error:
        raise ValueError(f"not a valid value: {error}") from error


def dump_yaml(data: Any) -> str:
    """Return data as YAML that `parse_yaml` reads back unchanged, with keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True)


def _check_extent(text: str) -> None:
    """Refuse text nested so deeply that the C loader would crash, or that aliases expand too far."""
    open_collections: list[tuple[str | None, int]] = []  # anchor, and the number of values before it
    extents: dict[str | None, int] = {}
    values = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            extents[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            values += extents.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        if len(open_collections) > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep")
        if values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, those of aliases counted each time")


class _Places:
    """Collects the line of every key and list item in a tree of nodes, and keys that are given twice."""

    def __init__(self, loader: Any) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.duplicates: list[KeyPath] = []
        self._loader = loader
        self._seen: set[int] = set()

    def visit(self, node: yaml.Node, keys: KeyPath) -> None:
        self.lines.setdefault(keys, node.start_mark.line + 1)
        if id(node) in self._seen:  # an alias
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, keys)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*keys, index))

    def _visit_mapping(self, node: yaml.MappingNode, keys: KeyPath) -> None:
        names: set[Hashable] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            merge = key_node.tag == "tag:yaml.org,2002:merge"
            name = key_node.value if merge else self._loader.construct_object(key_node)
            key = (*keys, name)
            if name in names:
                self.duplicates.append(key)
            names.add(name)
            self.lines[key] = key_node.start_mark.line + 1
            self.visit(value_node, key)


def _line(error: yaml.YAMLError, text: str) -> int:
    if isinstance(error, ReaderError):  # it has a position, in bytes or in characters
        return text.partition(chr(error.character))[0].count("\n") + 1
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else 1


def _tab_hint(text: str, line: int) -> str:
    """Say that the line (from 1) of an error is indented with a tab; "" if it is not."""
    lines = text.splitlines()
    indented = line <= len(lines) and re.match(r" *\t", lines[line - 1])
    return "the line begins with a tab; indent with spaces" if indented else ""


# A colour without quotes in a mapping or list on one line: YAML takes the rest of the line for a comment.
_BARE_COLOR = re.compile(r"""[:,\[][ \t]+(#[0-9a-fA-F]{6})[ \t]*[,}\]]""")


def _color_hint(text: str, line: int) -> str:
    """Name the first colour, up to a line (from 1), that lacks its quotes; "" if there is none."""
    for number, content in enumerate(text.splitlines()[:line], 1):
        if found := _BARE_COLOR.search(content):
            return f"; in line {number} a # begins a comment: write the colour in quotes, '{found[1]}'"
    return ""


# PyYAML's messages in plain words, by how they begin.
_PLAIN = {
    "mapping values are not allowed": "a second ': ' in one line; put text that contains one in quotes",
    "did not find expected key": "expected a key in the column of the one above, or a bracket is not closed",
    "expected <block end>, but found": "this line does not start in the column of those above",
    **dict.fromkeys(
        ("did not find expected ',' or ']'", "expected ',' or ']'"),
        "a list that begins with [ lacks a comma or its ]",
    ),
    **dict.fromkeys(
        ("did not find expected ',' or '}'", "expected ',' or '}'"),
        "a mapping that begins with { lacks a comma or its }",
    ),
    "could not find expected ':'": "expected `key: value`; a key lacks its colon",
}


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, ReaderError):
        code = f"{error.character:04X}"
        return f"the character U+{code} is not allowed; remove it, or write \\u{code} in double quotes"
    reason = str(getattr(error, "problem", None) or error)
    return next((plain for start, plain in _PLAIN.items() if reason.startswith(start)), reason)
