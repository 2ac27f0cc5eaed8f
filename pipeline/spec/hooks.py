"""What config.yaml says about hooks: commands of the user that are run when something happens."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from .events import EventKind
from .models import ConfigPath, Seconds, StrictModel, expand_home, listed

# A command with one of these characters was written for a shell.
SHELL_CHARACTERS = "|&;<>$`*"


def _words(value: Any) -> Any:
    """Split text into words as a shell does; a list has its words already."""
    if not isinstance(value, str):
        return value
    if found := next((each for each in value if each in SHELL_CHARACTERS), ""):
        raise ValueError(
            f"'{found}' needs a shell, and none runs this command: for one, write [sh, -c, '...']; to pass "
            "the character to the program, write a list of words, such as [program, first, second]"
        )
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"not a command, as it has {str(error).lower()}") from error


def _check_words(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not words[0]:
        raise ValueError("expected a program and its arguments, such as [program, first, second]")
    if any("\0" in word for word in words):
        raise ValueError("a command cannot hold the character NUL")
    if _is_path(words[0]):
        expand_home(Path(words[0]))
    return words


def _is_path(program: str) -> bool:
    return "/" in program


EventKinds = Annotated[
    tuple[EventKind, ...],
    BeforeValidator(listed, json_schema_input_type=EventKind | list[EventKind]),
    Field(min_length=1),
]
Command = Annotated[
    tuple[str, ...],
    BeforeValidator(_words, json_schema_input_type=str | list[str]),
    AfterValidator(_check_words),
]


class Hook(StrictModel):
    """A command, and when it is run. It gets a JSON object on its standard input."""

    when: EventKinds = Field(description="what has to happen, or several things")
    run: Command = Field(
        description="a list of the program and its arguments; text is split into words as by a shell, but no "
        "shell runs it. A program with a slash in its name is a path"
    )
    timeout_s: Seconds = Field(30, description="end the command after this many seconds")
    folder: ConfigPath = Field(
        Path(), description="the folder that the command is run in; that of this file if left out"
    )

    def resolved(self, folder: Path) -> Hook:
        """Return the same hook with absolute paths; relative ones start at `folder`."""
        program, *arguments = self.run
        if _is_path(program):
            program = str(folder.resolve() / Path(program).expanduser())
        paths = {"run": (program, *arguments), "folder": (folder / self.folder).resolve()}
        return self.model_copy(update=paths)

    @property
    def label(self) -> str:
        """The command as one would type it."""
        return shlex.join(self.run)
