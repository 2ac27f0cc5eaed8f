from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeExecutor, picture_bytes
from watching import put

from pipeline.errors import DeviceError, ImageError, JobError, WorkerLost
from pipeline.spec.config import Config
from pipeline.storage.ledger import Ledger
from pipeline.watch.inbox import Identity, identity_of
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
def reader(config: Config, ledger: Ledger) -> Callable[..., tuple[Reader, Identity, list[str]]]:
    """Return a function that makes a reader with some errors on the way, a picture for it, and its texts."""
    path = put(config.watch.inbox / NAME, picture_bytes("a"))
    identity = identity_of(path)
    assert identity is not None

    def make(*errors: BaseException) -> tuple[Reader, Identity, list[str]]:
        texts: list[str] = []
        reader = Reader(
            config.watch.inbox, Failing(*errors), Router(config, {}), ledger,
            lambda kind, text, **facts: texts.append(text), LIMIT,
        )  # fmt: skip
        return reader, identity, texts

    return make


@pytest.fixture
def read(reader: Callable[..., tuple[Reader, Identity, list[str]]]) -> Callable[..., list[str]]:
    """Return a function that checks a picture with some errors on the way; it returns what was notified."""

    def read(*errors: BaseException) -> list[str]:
        made, identity, texts = reader(*errors)
        made.check_picture(NAME, identity)
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


@pytest.mark.parametrize(
    ("errors", "fault"),
    [
        ([], ""),
        ([lost()], ""),
        ([ImageError("a.png: no picture.")], "a.png: no picture."),
        ([lost()] * LIMIT, "reading it ended the worker 3 times. It was killed. Copy or export it again."),
    ],
)
def test_a_style_is_given_as_many_attempts_as_a_picture(
    errors: list[BaseException],
    fault: str,
    reader: Callable[..., tuple[Reader, Identity, list[str]]],
) -> None:
    made, identity, texts = reader(*errors)
    assert made.style_fault(NAME, identity) == fault
    assert texts == ["a.png: It was killed." for error in errors if isinstance(error, WorkerLost)]
