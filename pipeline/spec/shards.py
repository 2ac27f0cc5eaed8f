"""A part of a batch for one of several processes, which need not know of each other: a shard."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError

MOST_SHARDS = 10_000

_SLURM, _KUBERNETES = "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"
_SLURM_RANGE = ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")


@dataclass(frozen=True)
class Shard:
    """Shard `number`, from 1 on, of `count`. `origin` is the variable that says so, if one does."""

    number: int
    count: int
    origin: str = ""

    def takes(self, name: str) -> bool:
        """Tell whether a job belongs to this shard."""
        return self.number_of(name) == self.number

    def number_of(self, name: str) -> int:
        """Return the number of the shard that a job belongs to, by its output name.

        All jobs of one name are in one shard, so that no two shards ever write the same file. Unlike a job's
        key, a name is the same on every machine, whatever encoder it chooses, and is known before any input
        is read.
        """
        # Names that differ in case only are one file on many disks.
        digest = hashlib.sha256(name.casefold().encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % self.count + 1

    @property
    def label(self) -> str:
        """What files of this shard are called."""
        return f"{self.number}-of-{self.count}"

    def __str__(self) -> str:
        return f"shard {self.number} of {self.count}"


def read_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read `I/N`, or `auto` and `auto/N`, where the task of a Slurm array or Kubernetes Job says which it is.

    Raises:
        UsageError: it is none of them, or a variable is missing or makes no sense.
    """
    first, slash, last = text.replace(" ", "").partition("/")
    if first == "auto" and (not slash or last.isdecimal()):
        return _from_scheduler(text, int(last) if slash else None, environment)
    if not (slash and first.isdecimal() and last.isdecimal()):
        raise UsageError(f"--shard {text}: expected I/N, such as 1/8 for the first of eight shards, or auto.")
    return _checked(text, int(first), int(last))


def _checked(text: str, number: int, count: int, origin: str = "") -> Shard:
    if not 1 <= count <= MOST_SHARDS:
        raise UsageError(f"--shard {text}: expected 1 to {MOST_SHARDS:,} shards, found {count:,}.")
    if not 1 <= number <= count:
        found = f"{number - 1}, from {origin}; expected 0 to {count - 1}" if origin else str(number)
        numbers = "" if origin else f"; shards are numbered from 1 to {count}"
        raise UsageError(f"--shard {text}: there is no shard {found}{numbers}.")
    return Shard(number, count, origin)


def _from_scheduler(text: str, count: int | None, environment: Mapping[str, str]) -> Shard:
    for variable in (_SLURM, _KUBERNETES):
        if environment.get(variable):
            break
    else:
        raise UsageError(
            f"--shard {text}: neither {_SLURM} (a Slurm array) nor {_KUBERNETES} (an indexed Job of "
            "Kubernetes) is set.",
            "Say which shard this is, such as --shard 1/8.",
        )
    index = _number(text, variable, environment)
    if count is None:
        if variable == _KUBERNETES:
            raise UsageError(
                f"--shard {text}: {_KUBERNETES}={index} says which shard this is, but not of how many.",
                "Give the Job's number of completions, such as --shard auto/8.",
            )
        index, count = _place_in_array(text, index, environment)
    return _checked(text, index + 1, count, f"{variable}={environment[variable]}")


def _place_in_array(text: str, task: int, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return a task's place in its array, from 0 on, and the array's length."""
    least, most, count = (_number(text, variable, environment) for variable in _SLURM_RANGE)
    step, rest = divmod(most - least, count - 1) if count > 1 else (1, most - least)
    if rest or step < 1 or (task - least) % step:
        raise UsageError(
            f"--shard {text}: the {count} tasks of this array, from {least} to {most}, are not evenly "
            f"numbered, so that the place of task {task} among them is not known.",
            "Say how many shards there are, as in --shard auto/8; tasks are then numbered from 0.",
        )
    return (task - least) // step, count


def _number(text: str, variable: str, environment: Mapping[str, str]) -> int:
    found = environment.get(variable, "")
    if not re.fullmatch(r"\d{1,9}", found, re.ASCII):
        raise UsageError(f"--shard {text}: {variable} is {found!r}; expected a whole number.")
    return int(found)
