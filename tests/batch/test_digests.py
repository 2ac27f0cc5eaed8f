"""Reading inputs for their sha256."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from fakes import FakeExecutor, Workshop

from pipeline.batch.digests import Digests
from pipeline.errors import DiskError, ImageError
from pipeline.storage import files


def test_a_stop_interrupts_the_reading_of_an_input(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HASH_BYTES", 16)
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > 20

    executor = FakeExecutor()
    ran = workshop.run(executor, should_stop=should_stop)
    assert len(asked) < 30
    assert (executor.ran, ran.observer.finished) == ([], [])
    assert (ran.summary.stopped, ran.summary.reason, ran.summary.not_begun) == (True, "stopped", 4)
    assert workshop.run().summary.done == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_as_input_is_not_waited_for(environment: Path) -> None:
    os.mkfifo("a.png")
    with pytest.raises(ImageError, match=r"a\.png: cannot be read \(not a regular file\)"):
        Digests(lambda: False)[Path("a.png")]


def test_a_path_that_no_disk_takes_ends_in_a_message() -> None:
    with pytest.raises(ImageError, match=r"b\.png: cannot be read \(embedded null byte\)"):
        Digests(lambda: False)[Path("a\0b.png")]


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EACCES, ImageError, r"a\.png: cannot be read \(Permission denied\)"),
        (errno.ESTALE, DiskError, r"locked: the folder is gone \(Stale"),
    ],
)
def test_a_folder_that_may_not_be_read_or_is_lost_ends_in_a_message(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], message: str
) -> None:
    stat = os.stat

    def refused(path: object, *arguments: object, **named: object) -> object:
        if "locked" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return stat(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(kind, match=message):
        Digests(lambda: False)[Path("locked/a.png")]
