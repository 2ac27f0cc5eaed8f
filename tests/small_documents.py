from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from pipeline.errors import UsageError
from pipeline.spec.documents import parse_document

PATH = Path("night.yaml")


class Lamp(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = "white"
    watts: float = 5


class Room(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    lamps: list[Lamp] = []
    spare: Lamp | None = None


def failure(text: str, model: type[BaseModel] = Room) -> list[str]:
    """The lines of the error that `text` gives."""
    with pytest.raises(UsageError) as caught:
        parse_document(text, PATH).validate(model)
    assert caught.value.exit_code == 2
    return caught.value.message.splitlines()


def tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or the error it may raise."""
    try:
        return function(*arguments)
    except (UsageError, ValueError) as error:
        return error
