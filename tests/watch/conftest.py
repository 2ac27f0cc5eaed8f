"""Light processes that fork daemons, one for each of two cores."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from crashes import Each, Record
from watching import Forks


@pytest.fixture(scope="module")
def servers() -> Iterator[queue.SimpleQueue[Forks]]:
    """One server of forks for each of two cores."""
    free: queue.SimpleQueue[Forks] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(2):
            free.put(stack.enter_context(Forks()))
        yield free


@pytest.fixture
def forks(servers: queue.SimpleQueue[Forks]) -> Iterator[Forks]:
    server = servers.get()
    yield server
    servers.put(server)


@pytest.fixture
def each(servers: queue.SimpleQueue[Forks], record_property: Record) -> Each:
    """Return a function that does something for many numbers, two at a time."""

    def run(act: Callable[[Forks, int], None], numbers: Iterable[int]) -> int:
        def one(number: int) -> None:
            server = servers.get()
            try:
                act(server, number)
            except AssertionError as error:
                raise AssertionError(f"at {number}: {error}") from error
            finally:
                servers.put(server)

        with ThreadPoolExecutor(2) as pool:
            times = len(list(pool.map(one, numbers)))
        record_property("times", times)
        return times

    return run
