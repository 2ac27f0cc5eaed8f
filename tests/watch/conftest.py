"""Fixtures of the watched folder: an inbox, its claims and its heartbeat; processes that fork daemons."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from claimed import make_claims
from crashes import Each, Record
from heartbeats import Beating, make_config
from watching import Forks, server

from pipeline.spec.config import Config
from pipeline.storage.ledger import Ledger
from pipeline.watch.claims import Claims


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return make_claims(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "inbox").mkdir()
    return make_config(tmp_path)


@pytest.fixture
def ledger(config: Config) -> Iterator[Ledger]:
    with closing(Ledger(config.state_dir)) as opened:
        yield opened


@pytest.fixture
def beating(config: Config, ledger: Ledger) -> Beating:
    return Beating(config, ledger)


@pytest.fixture(scope="session")
def servers() -> queue.SimpleQueue[Forks]:
    """One server of forks for each of two cores."""
    free: queue.SimpleQueue[Forks] = queue.SimpleQueue()
    for number in (1, 2):
        free.put(server(number))
    return free


@pytest.fixture
def forks(servers: queue.SimpleQueue[Forks]) -> Iterator[Forks]:
    free = servers.get()
    yield free
    servers.put(free)


@pytest.fixture
def each(servers: queue.SimpleQueue[Forks], record_property: Record) -> Each:
    """Return a function that does something for many numbers, two at a time."""

    def run(act: Callable[[Forks, int], None], numbers: Iterable[int]) -> int:
        def one(number: int) -> None:
            free = servers.get()
            try:
                act(free, number)
            except AssertionError as error:
                raise AssertionError(f"at {number}: {error}") from error
            finally:
                servers.put(free)

        with ThreadPoolExecutor(2) as pool:
            times = len(list(pool.map(one, numbers)))
        record_property("times", times)
        return times

    return run
