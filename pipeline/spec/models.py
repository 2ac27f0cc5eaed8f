"""The base class of everything that a document may hold, and types and validators that several share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
)

from .problems import shown


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys, infinite numbers, and true or false for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_for_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation: Any = cls.model_fields[info.field_name or ""].annotation
        types = _types_in(annotation)
        if types & {int, float} and bool not in types:
            for part in value.values() if isinstance(value, dict) else listed(value) or ():
                if isinstance(part, bool):
                    raise ValueError(f"expected a number, found {shown(part)}")
        return value


@cache
def _types_in(annotation: Any) -> frozenset[Any]:
    """Return the types that an annotation is made of."""
    parts = get_args(annotation)
    return frozenset().union(*map(_types_in, parts)) if parts else frozenset([annotation])


def listed(value: Any) -> Any:
    """Accept a single value where a list is expected."""
    return value if value is None or isinstance(value, list | tuple) else [value]


def expecting(what: str) -> WrapValidator:
    """Describe in one phrase what a field of several types accepts."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise ValueError(f"expected {what}, found {shown(value)}") from error

    return WrapValidator(check)


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced; one that begins with the name of no user begins with that name."""
    return Path(os.path.expanduser(path))


def expand_home(path: Path) -> Path:
    """Return a path with `~` replaced.

    Raises:
        ValueError: there is no such user, or it holds the character NUL, which no path does.
    """
    if "\0" in str(path):
        raise ValueError("a path cannot hold the character NUL")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no home folder '{path.parts[0]}'; write the path in full") from error


ConfigPath = Annotated[Path, AfterValidator(expand_home)]
Seconds = Annotated[float, Field(gt=0, le=1e7)]
