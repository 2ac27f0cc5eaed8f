from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeExecutor, picture_bytes
from watching import put

from pipeline.errors import DeviceError, ImageError, JobError, WorkerLost
from pipeline.spec.config import Config
from pipeline.storage.ledger import Ledger
from pipeline.watch.inbox import identity_of
from pipeline.watch.reading import Reader, StopNow
from pipeline.watch.routes import Router

LIMIT = 3
NAME = Path("a.png")


class Failing(FakeExecutor):
    """Raises its errors one after another, then checks as the other does."""

    def __init__(self, *errors: BaseException) -> None:
        super().__init__()
        self.errors: Iterator[BaseException] = iter(errors)

    def check(self, path: Path) -> None:
        for error in self.errors:
            raise error
        super().check(path)


@pytest.fixture
def read(config: Config, ledger: Ledger) -> Callable[..., list[str]]:
    """Return a function that checks a picture with some errors on the way; it returns what was notified."""
    path = put(config.watch.inbox / NAME, picture_bytes("a"))
    identity = identity_of(path)
    assert identity is not None

    def read(*errors: BaseException) -> list[str]:
        texts: list[str] = []
        reader = Reader(
            config.watch.inbox, Failing(*errors), Router(config, {}), ledger,
            lambda kind, text, **facts: texts.append(text), LIMIT,
        )  # fmt: skip
        reader.check_picture(NAME, identity)
        return texts

    return read


def lost() -> WorkerLost:
    return WorkerLost("It was killed.")


def test_a_worker_that_is_lost_is_tried_again(read: Callable[..., list[str]], ledger: Ledger) -> None:
    assert read(lost(), lost()) == ["a.png: It was killed."] * 2
    assert not ledger.any_attempts(1)


def test_a_picture_that_ends_the_worker_too_often_is_given_up(
    read: Callable[..., list[str]], ledger: Ledger
) -> None:
    with pytest.raises(JobError, match=r"ended the worker 3 times\. It was killed"):
        read(lost(), lost(), lost())
    with pytest.raises(JobError, match="ended the worker 3 times"):
        read()  # nor is it tried by the next process
    assert ledger.any_attempts(LIMIT)


@pytest.mark.parametrize("error", [DeviceError("It is gone."), StopNow()])
def test_what_is_no_fault_of_the_picture_costs_no_attempt(
    error: BaseException, read: Callable[..., list[str]], ledger: Ledger
) -> None:
    with pytest.raises(type(error)):
        read(error)
    assert not ledger.any_attempts(1)


def test_a_bad_picture_leaves_no_attempt(read: Callable[..., list[str]], ledger: Ledger) -> None:
    with pytest.raises(ImageError):
        read(ImageError("a.png: no picture."))
    assert not ledger.any_attempts(1)
