"""The real daemon as a process of its own, with a quick engine and a disk that can fail. Run by `watching`.

Its one argument is a JSON object, see `Setup`. Every event is a line of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from disks import HookedDisk, Points, When
from fakes import FakeExecutor

from pipeline import daemon
from pipeline.config import Config, read_config
from pipeline.deadline import read_deadline
from pipeline.display import WatchLog
from pipeline.errors import DeadlineError, Interrupted, PipelineError
from pipeline.events import Waker
from pipeline.executors import Executor
from pipeline.files import Disk
from pipeline.ledger import Ledger
from pipeline.worker import WorkerExecutor

WRITES = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Setup:
    """What the daemon is to be like.

    `faults` are those of FakeExecutor; `worker` runs the engine in a process of its own. `kill_at` is the
    number of the point (a change of the disk or the ledger, before and after) at which SIGKILL strikes; -1
    only tells every point passed. `fail` lists [operation, errno, part of a path, times].
    """

    config: str
    once: bool = False
    worker: bool = False
    faults: dict[str, Any] = field(default_factory=dict)
    kill_at: int | None = None
    fail: list[list[Any]] = field(default_factory=list)
    for_: str | None = None


class Hooks:
    """Counts changes and kills at one; fails operations so many times."""

    LOOKING = ("entries", "free_bytes")

    def __init__(self, setup: Setup, say: Callable[..., None]) -> None:
        self.points = Points(setup.kill_at if setup.kill_at != -1 else None)
        self.tells = setup.kill_at == -1
        self.say = say
        self.faults = [list(fault) for fault in setup.fail]

    def __call__(self, when: When, operation: str, paths: tuple[Path, ...]) -> None:
        for fault in self.faults:
            name, number, part, times = fault
            if when == "before" and name == operation and times and any(part in str(path) for path in paths):
                fault[3] -= 1
                raise OSError(number, os.strerror(number), str(paths[0]))
        if operation not in self.LOOKING:
            self.reach(f"{when} {operation} {' '.join(path.name for path in paths)}")

    def reach(self, point: str) -> None:
        if self.tells:
            self.say("point", point, number=len(self.points.passed))
        self.points.reach(point)

    def hook_ledger(self) -> None:
        """Make every change of the ledger a point as well."""
        real = Ledger._execute

        def execute(ledger: Ledger, query: str, values: tuple[object, ...] = ()) -> Any:
            counts = query.startswith(WRITES) and "daemons" not in query
            if counts:
                self.reach(f"before {query[:30]}")
            result = real(ledger, query, values)
            if counts:
                self.reach(f"after {query[:30]}")
            return result

        Ledger._execute = execute  # type: ignore[method-assign]


def write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def make_executor(setup: Setup, config: Config, tick: Callable[[], None]) -> Executor:
    make = partial(FakeExecutor, faults=setup.faults)
    if setup.worker:
        watch = config.watch
        return WorkerExecutor(make, watch.job_timeout_s, watch.worker_max_jobs, tick, tick_s=0.01, stop_s=2.0)
    return make()


def main(setup: Setup) -> int:
    """Do what the command `watch` does; return its exit code."""
    log = WatchLog(write_line, as_json=True)
    hooks = Hooks(setup, log.tell)
    hooks.hook_ledger()
    config_path = Path(setup.config)
    config = read_config(config_path)
    mode = config.watch.notify
    waker = Waker(config.watch.inbox, "native" if mode == "auto" else mode)
    stopped: list[int] = []
    reread: list[int] = []

    def on_stop(number: int, _frame: object) -> None:
        stopped.append(number)
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_DFL)
        waker.set()

    def on_hang_up(number: int, _frame: object) -> None:
        reread.append(number)
        waker.set()

    signal.signal(signal.SIGINT, on_stop)
    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGHUP, on_hang_up)

    def read_again() -> Config | None:
        if not reread:
            return None
        reread.clear()
        return read_config(config_path)

    options = daemon.WatchOptions(setup.once, read_deadline(setup.for_, None))
    disk: Disk = HookedDisk(hooks)
    try:
        tally = daemon.watch_inbox(
            config, options, log, partial(make_executor, setup), waker, lambda: bool(stopped), read_again, disk
        )
        if stopped:
            raise Interrupted(stopped[0])
        if options.deadline and options.deadline.over and tally.left:
            raise DeadlineError("over")
    except PipelineError as error:
        log.tell("error", str(error))
        return error.exit_code
    return 1 if setup.once and tally.set_aside else 0


if __name__ == "__main__":
    raise SystemExit(main(Setup(**json.loads(sys.argv[1]))))
