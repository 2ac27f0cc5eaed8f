"""A soak: the daemon does not grow with what it has done."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import picture_bytes
from faults import IN_ALL_MODES, archived, case, running
from watching import Watched


def resources(pid: int) -> tuple[int, int, int]:
    """Memory in kB, open descriptors and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"])


def soak(watched: Watched, count: int, ahead: int, record_property: Any, **setup: Any) -> None:
    """Drop files, `ahead` at a time; the last tenth takes no more of anything than the second."""
    begun = time.monotonic()
    samples = []
    with running(watched, no_sync=True, **setup) as daemon:
        for first in range(0, count, ahead):
            for number in range(first, first + ahead):
                watched.drop(f"{number % 7}/p{number}.png", picture_bytes("same") + str(number).encode())
            for _ in range(ahead):
                daemon.until("done")
            samples.append(resources(daemon.process.pid))
    record_property("seconds", round(time.monotonic() - begun, 1))
    record_property("kB, descriptors, threads", f"{samples[0]} ... {samples[-1]}")
    watched.assert_promises()
    assert len(watched.images()) == count
    assert len(archived(watched)) == count
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth], samples[-tenth:]
    assert max(threads for _, _, threads in late) <= max(threads for _, _, threads in early)
    assert max(files for _, files, _ in late) <= max(files for _, files, _ in early) + 1
    assert max(memory for memory, _, _ in late) <= 1.1 * max(memory for memory, _, _ in early)


@case(25)
@IN_ALL_MODES
def test_a_soak_of_a_few(tmp_path: Path, mode: str, record_property: Any) -> None:
    soak(Watched(tmp_path, mode), 150, 10, record_property)


@case(25)
@pytest.mark.faults
def test_a_soak(tmp_path: Path, record_property: Any) -> None:
    # The worker renews the sheet, which takes memory for every picture of the batch.
    soak(Watched(tmp_path), 5_000, 100, record_property, worker=True)
