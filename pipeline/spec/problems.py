"""What is wrong with a value, in plain words: pydantic's errors, unknown keys, and what was meant."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from .removed import REMOVED
from .yaml12 import KeyPath


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a document, and where."""

    keys: KeyPath
    text: str

    def __str__(self) -> str:
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.keys).lstrip(".")
        return f"{name}: {self.text}" if name else self.text


def problems_in(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return everything that a validation of `model` found."""
    return [_problem(detail, model) for detail in error.errors(include_url=False)]


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return what a validation of `model` found, as lines of `key: text`."""
    return [str(problem) for problem in problems_in(error, model)]


def explain_value(error: ValidationError) -> str:
    """Say what is wrong with a single value that belongs to no model."""
    return "; ".join(_problem(detail, BaseModel).text for detail in error.errors())


def unknown_key(keys: KeyPath, accepted: Collection[str]) -> Problem:
    """Say that the last of `keys` is unknown, and which keys are accepted there, or why it was removed."""
    if keys[-1] in REMOVED:
        return Problem(keys, f"is no longer accepted: {REMOVED[str(keys[-1])]}; remove it")
    return Problem(keys, f"unknown key{alternatives(str(keys[-1]), accepted)}" if accepted else "unknown key")


def alternatives(word: str, accepted: Collection[str], summary: str = "") -> str:
    """Continue a sentence about a wrong word: what was probably meant, and what is accepted."""
    return f"{did_you_mean(word, accepted) or '.'} Accepted: {summary or ', '.join(accepted)}"


def did_you_mean(word: str, accepted: Iterable[str]) -> str:
    """Return "; did you mean 'X'?", or "" if nothing accepted is similar to the word."""
    close = difflib.get_close_matches(word, list(accepted), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def shown(value: Any) -> str:
    """Return a value as YAML would have it, shortened."""
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else reprlib.repr(value)


def quotes_hint(value: Any) -> str:
    """Say how a number is written where text is expected; "" for anything but a number."""
    return f"; in quotes it is text: '{shown(value)}'" if isinstance(value, int | float) else ""


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
    return Problem(keys, text + (quotes_hint(value) if kind == "string_type" else ""))


def _accepted(model: type[BaseModel], keys: KeyPath) -> list[str]:
    """Return the keys that are accepted at `keys` below `model`, as its JSON schema says."""
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
    """Return the schema of a key's value; in a mapping with free keys, the schema of any value."""
    free = place.get("additionalProperties")
    return place.get("properties", {}).get(key, free if isinstance(free, dict) else {})


def _resolve(place: Any, schema: Any) -> Any:
    """Follow a reference, or choose the alternative that has keys of its own."""
    for branch in place.get("anyOf", []):
        if "properties" in (resolved := _resolve(branch, schema)):
            return resolved
    if "$ref" in place:
        return schema["$defs"][place["$ref"].rpartition("/")[2]]
    return place
