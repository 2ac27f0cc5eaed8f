"""Every error a user can meet. Each class carries its exit code; each instance its next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self


class PipelineError(Exception):
    """What happened and to which file (`message`), and what to do about it (`next_step`).

    `lines` are the lines of the message. Any other line break in it is part of a file's name.
    """

    exit_code = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step
        self.lines: tuple[str, ...] = (message,)

    @classmethod
    def of_lines(cls, lines: Sequence[str], next_step: str = "") -> Self:
        """Return one error about several problems, a line for each."""
        error = cls("\n".join(lines), next_step)
        error.lines = tuple(lines)
        return error

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".strip()


class JobError(PipelineError):
    """One job cannot be done; the others continue."""


class ImageError(JobError):
    """A picture that cannot be read or used."""


class PathError(JobError):
    """A file name that cannot be used in its folder; other names can."""


class DivergedError(JobError):
    """A loss became NaN or infinite."""


class UsageError(PipelineError):
    """Wrong flags, configuration or manifest; nothing was started."""

    exit_code = 2


class MachineError(PipelineError):
    """The machine's fault, not the picture's: weights, disk or device."""

    exit_code = 3


class WeightsError(MachineError):
    """Encoder weights are missing or damaged."""


class DeviceError(MachineError):
    """A device that is absent or lost."""


class DiskError(MachineError):
    """A folder that cannot be written, or a full disk."""


class ScratchFull(DiskError):
    """A disk has too little free space for the temporary files of one picture; a smaller one may fit."""


class WorkerLost(PipelineError):
    """The process that ran a job died or hung; it costs the job one attempt."""


class DeadlineError(PipelineError):
    """The time given is over and work is left."""

    exit_code = 4


class LockedError(PipelineError):
    """Another process is working on the same folder."""

    exit_code = 5


class Unexpected(PipelineError):
    """A fault of style-pipeline itself. `details` is its traceback."""

    exit_code = 70  # EX_SOFTWARE of sysexits.h

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message, "This is a fault in style-pipeline; please report it with the lines above.")
        self.args = (message, details)
        self.details = details


class Interrupted(PipelineError):
    """A signal asked to stop; `exit_code` is 128 plus the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("Stopped by a signal.", "Run the same command again to resume where it stopped.")
        self.args = (signal_number,)
        self.exit_code = 128 + signal_number
