"""Runs a command of the user: with a time limit, in a process group of its own, apart from all else.

The command inherits the environment, and no descriptor but its input and output. These are files in memory
and not pipes: a command may leave its input unread, write as it likes, or leave processes behind that keep
its output open, and nobody waits for any of that.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

# Seconds between two looks at a running command.
LOOK_S = 0.05
# Seconds that the processes of a command have to end when they are asked to, and to be gone when killed.
TERM_S, KILL_S = 1.0, 2.0
# A command that writes more than this is ended.
OUTPUT_BYTES = 16 << 20
# How much of its output is kept.
KEPT_BYTES, KEPT_LINES, KEPT_CHARACTERS = 64 << 10, 20, 500


@dataclass(frozen=True)
class Ended:
    """How a command ended. `problem` is "" if it succeeded; `output` is the beginning of what it wrote.

    `was_late`: it reached its time limit.
    """

    problem: str
    output: tuple[str, ...] = ()
    seconds: float = 0.0
    was_late: bool = False


def run_command(
    words: tuple[str, ...],
    data: bytes,
    folder: Path,
    timeout_s: float,
    variables: Mapping[str, str],
    must_end: Callable[[], bool] = lambda: False,
) -> Ended:
    """Run a program and wait for it; `data` is its standard input, `variables` are added to its environment.

    When its time is over, or `must_end` says so, it is ended with everything in its process group. Processes
    that it leaves behind when it ends by itself are left alone.
    """
    began = time.monotonic()
    try:
        with _scratch_file() as given, _scratch_file() as output:
            given.write(data)
            given.seek(0)
            process = subprocess.Popen(
                words,
                stdin=given,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **variables},
                start_new_session=True,
            )
            problem, was_late = _wait(process, output, began + timeout_s, must_end)
            return Ended(problem or "", _beginning(output), time.monotonic() - began, was_late)
    except (OSError, ValueError) as error:  # no such program or folder; a name that the system cannot take
        reason = getattr(error, "strerror", None) or error
        return Ended(f"it cannot be started ({reason})")


def _scratch_file() -> IO[bytes]:
    """Return a file without a name: in memory if possible, as the disk may be the very thing that is full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("style-pipeline hook"), "w+b", buffering=0)
    return TemporaryFile(buffering=0)


def _wait(
    process: subprocess.Popen[bytes], output: IO[bytes], until: float, must_end: Callable[[], bool]
) -> tuple[str, bool]:
    """Wait for a process, or end it; return what is wrong, "" if nothing, and whether it was late."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return _problem_of(process.wait(LOOK_S)), False
        is_late = time.monotonic() >= until
        if is_late:
            problem = "it was ended, as its time was over (timeout_s)"
        elif must_end():
            problem = "it was ended, as style-pipeline ends"
        elif os.fstat(output.fileno()).st_size > OUTPUT_BYTES:
            problem = f"it was ended, as it wrote more than {OUTPUT_BYTES >> 20} MB"
        else:
            continue
        _end_group(process)
        return problem, is_late


def _problem_of(code: int) -> str:
    if code == 0:
        return ""
    return f"it ended with exit code {code}" if code > 0 else f"it was ended by signal {-code}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask every process of a command to end, then kill what is left."""
    _signal_group(process, signal.SIGTERM)
    until = time.monotonic() + TERM_S
    while _has_any(process):
        if time.monotonic() >= until:
            _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
            with suppress(subprocess.TimeoutExpired):  # one that waits for a lost disk cannot even be killed
                process.wait(KILL_S)
            return
        time.sleep(LOOK_S)


def _has_any(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether any process of a command is left; it may have ended before those it started."""
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except PermissionError:  # it runs as another user
        return True
    except (AttributeError, ProcessLookupError):
        return False
    return True


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone already; or it runs as another user
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def _beginning(output: IO[bytes]) -> tuple[str, ...]:
    """Return the first lines that a command wrote."""
    output.seek(0)
    lines = output.read(KEPT_BYTES).decode(errors="replace").splitlines()
    kept = [line[:KEPT_CHARACTERS] for line in lines if line.strip()]
    more = (f"(and {len(kept) - KEPT_LINES} more lines)",) if len(kept) > KEPT_LINES else ()
    return (*kept[:KEPT_LINES], *more)
