"""Real daemons as processes of their own, with a quick engine and a disk that can fail.

`watching` starts them over a socket: see `serve` and `Setup`. Every event of a daemon is a line of JSON on
its stdout.
"""

from __future__ import annotations

import errno
import importlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from disks import HookedDisk, Points, When
from fakes import Forgetful
from page_viewer import Viewer
from typer.main import get_command
from watchdog.observers.api import BaseObserver, EventEmitter
from watchdog.utils import BaseThread
from watching import Watched

from pipeline.cli import main as cli
from pipeline.cli import signals
from pipeline.cli.commands import showing
from pipeline.cli.eventlog import EventLog
from pipeline.cli.logs import JsonFormatter, LineHandler, logging_to
from pipeline.errors import DiskError, PipelineError, UsageError
from pipeline.execution import pool
from pipeline.execution.executors import Executor
from pipeline.execution.worker import WorkerExecutor
from pipeline.spec.config import Config
from pipeline.storage.control import Control, Drop
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.watch import daemon, events

WRITES = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Setup:
    """What the daemon is to be like.

    `faults` are those of FakeExecutor; `worker` runs the engine in a process of its own. `kill_at` is the
    number of the point (a change of the disk or the ledger, before and after) at which SIGKILL strikes; -1
    only reports every point passed. `fail` lists [operation, errno, part of a path, times]; of the operation
    `ledger` the beginning of a query, and no errno.

    `fail_at` is [number of a point, errno, times]: from there on so many points raise it, those of the
    ledger a DiskError. `across` lists parts of paths: a rename into or out of a folder so named is one to
    another file system. `consume` is a folder to which a consumer takes every picture as soon as it can be
    seen in the outbox, with `consume_all` its log and record too. `clock_jump_s` moves the wall clock when
    the first job starts. `vanish` is [number of a point, folder, "nothing" or "empty"]: there the folder
    goes away with what is in it, until the daemon has paused; what it made instead is reported as "made".
    `no_ledger_at` is the number of the point at which the ledger's files are deleted. `stop_after` sends
    TERM when so many drops are finished. `tells_signals` reports every signal. `stat_fails` is [number
    of a point, errno, part of a path, times]: after the point, to ask for the state of such a path fails.

    `break_events`: with "limit" no watch can be had; with "emitter" or "reader" those threads of the observer
    end at SIGUSR1. With `no_sync` nothing waits for the disk, and there are no points, which are all
    remembered. With `page` the page is served, and someone looks at it.

    `asks` lists [kind of an event, a part of its text, method of Control, path of a drop]: at the first such
    event this is asked of the daemon, which looks after every step.
    """

    config: str
    once: bool = False
    worker: bool = False
    faults: dict[str, Any] = field(default_factory=dict)
    kill_at: int | None = None
    fail: list[list[Any]] = field(default_factory=list)
    for_: str | None = None
    fail_at: list[int] | None = None
    across: list[str] = field(default_factory=list)
    consume: str = ""
    consume_all: bool = False
    first_pause_s: float = daemon.FIRST_PAUSE_S
    locked_s: float = daemon.LOCKED_S
    clock_jump_s: float = 0.0
    stop_after: int = 0
    tells_signals: bool = False
    vanish: list[Any] | None = None
    no_ledger_at: int = -1
    stat_fails: list[Any] | None = None
    break_events: str = ""
    no_sync: bool = False
    page: bool = False
    asks: list[list[str]] = field(default_factory=list)


class Hooks:
    """Counts changes and kills at one; fails operations so many times."""

    READING = ("entries", "free_bytes")

    def __init__(self, setup: Setup, say: Callable[..., None]) -> None:
        self.points = Points(setup.kill_at if setup.kill_at != -1 else None)
        self.tells = setup.kill_at == -1
        self.say = say
        self.faults = [list(fault) for fault in setup.fail]
        self.setup = setup
        self.consumer = Consumer(setup) if setup.consume else None
        self.left_to_fail = setup.fail_at[2] if setup.fail_at else 0
        self.finished: set[object] = set()

    def __call__(self, when: When, operation: str, paths: tuple[Path, ...]) -> None:
        for fault in self.faults:
            name, number, part, times = fault
            if when == "before" and name == operation and times and any(part in str(path) for path in paths):
                fault[3] -= 1
                raise OSError(number, os.strerror(number), str(paths[0]))
        if when == "before" and operation == "rename":
            source, target = map(str, paths)
            if any((part in source) != (part in target) for part in self.setup.across):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
        if operation not in self.READING:
            if self.consumer is not None:
                self.consumer.take()
            self.reach(f"{when} {operation} {' '.join(path.name for path in paths)}")
            self.fail_here(paths)

    def fail_here(self, paths: tuple[Path, ...]) -> None:
        """Raise what `fail_at` wants, if this is the time for it."""
        if self.left_to_fail and self.setup.fail_at and len(self.points.passed) > self.setup.fail_at[0]:
            self.left_to_fail -= 1
            number = self.setup.fail_at[1]
            if not paths:
                raise DiskError(f"the ledger: {os.strerror(number)}")
            raise OSError(number, os.strerror(number), str(paths[0]))

    def reach(self, point: str) -> None:
        if self.tells:
            self.say("point", point, number=len(self.points.passed))
        number = len(self.points.passed)
        if number == self.setup.no_ledger_at:
            for path in Path(self.setup.config).parent.glob("state/ledger.sqlite3*"):
                path.unlink()
        if self.setup.vanish and number == self.setup.vanish[0]:
            Vanishing(self.setup).go()
        self.points.reach(point)

    def hook_ledger(self) -> None:
        """Make every change of the ledger a point as well."""
        real = Ledger._execute

        def execute(ledger: Ledger, query: str, values: tuple[object, ...] = ()) -> Any:
            counts = query.startswith(WRITES) and "daemons" not in query
            self.fail_ledger(ledger, query)
            if counts:
                self.reach(f"before {query[:30]}")
                self.fail_here(())
            result = real(ledger, query, values)
            if counts:
                self.reach(f"after {query[:30]}")
                self.count_finished(query, values)
            return result

        Ledger._execute = execute  # type: ignore[method-assign]

    def fail_ledger(self, ledger: Ledger, query: str) -> None:
        """Raise what a full disk makes of a change of the ledger, if it is in `fail` as `ledger`."""
        for fault in self.faults:
            name, _, part, times = fault
            if name == "ledger" and times and query.startswith(part):
                fault[3] -= 1
                with ledger._guarded():
                    raise sqlite3.OperationalError("database or disk is full")

    def hook_stat(self) -> None:
        """Let os.stat fail as it does below a mount that is dead."""
        assert self.setup.stat_fails is not None
        point, number, part, left = self.setup.stat_fails
        real = os.stat

        def stat(path: Any, *arguments: Any, **keywords: Any) -> os.stat_result:
            nonlocal left
            if left and len(self.points.passed) > point and part in str(path):
                left -= 1
                raise OSError(number, os.strerror(number), str(path))
            return real(path, *arguments, **keywords)

        os.stat = stat

    def count_finished(self, query: str, values: tuple[object, ...]) -> None:
        if query.startswith("UPDATE drops SET state"):
            self.finished.add(values[-1])
            if len(self.finished) == self.setup.stop_after:
                os.kill(os.getpid(), signal.SIGTERM)


class Consumer:
    """Takes what can be seen in the outbox away at once, each under a name of its own."""

    def __init__(self, setup: Setup) -> None:
        self.outbox = Path(setup.config).parent / "outbox"
        self.home = Path(setup.consume)
        self.everything = setup.consume_all
        self.home.mkdir(exist_ok=True)

    def take(self) -> None:
        for path in (*self.outbox.glob("*/*.png"), *self.outbox.glob("*/logs/*.*")):
            if path.name.startswith("."):
                continue
            if path.suffix == ".png" or self.everything:
                path.rename(self.home / f"{os.getpid()}-{time.monotonic_ns()}-{path.name}")


def write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def make_executor(setup: Setup, config: Config, tick: Callable[[], None]) -> Executor:
    make = partial(Forgetful, faults=setup.faults)
    if setup.worker:
        watch = config.watch
        return WorkerExecutor(make, watch.job_timeout_s, watch.worker_max_jobs, tick, tick_s=0.01, stop_s=2.0)
    return make(after_step=lambda job, step: tick()) if setup.asks else make()


class Vanishing:
    """A folder that goes away as an unmounted disk does."""

    def __init__(self, setup: Setup) -> None:
        assert setup.vanish is not None
        self.folder = Path(setup.vanish[1])
        self.empty = setup.vanish[2] == "empty"
        self.away = self.folder.with_name(f"{self.folder.name}.away")

    def go(self) -> None:
        self.folder.rename(self.away)
        if self.empty:
            self.folder.mkdir()

    def come_back(self) -> list[str]:
        """Undo it, and return what was made in its place."""
        if not self.away.exists():
            return []
        if not self.folder.exists():
            made = []
        else:
            made = [str(path) for path in self.folder.rglob("*")] or [str(self.folder)] * (not self.empty)
            shutil.rmtree(self.folder)
        self.away.rename(self.folder)
        return made


class LogThatMounts(EventLog):
    """A log that brings a vanished folder back when the daemon has paused."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(for_programs=True)
        self.vanishing = Vanishing(setup)

    def notify(self, kind: str, text: str, **facts: object) -> None:
        super().notify(kind, text, **facts)
        if kind == "paused" and (made := self.vanishing.come_back()):
            super().notify("made", " ".join(made))


class ClockJump(EventLog):
    """A log that moves the wall clock when the first picture has settled."""

    def __init__(self, seconds: float) -> None:
        super().__init__(for_programs=True)
        self.seconds = seconds

    def notify(self, kind: str, text: str, **facts: object) -> None:
        if kind == "started" and self.seconds:
            real, jump, self.seconds = time.time, self.seconds, 0.0
            time.time = lambda: real() + jump
        super().notify(kind, text, **facts)


def let_someone_look(log: EventLog) -> None:
    """Open the page as soon as its address is known, and read what it streams until it ends."""
    own_notify = log.notify

    def notify(kind: str, text: str, **facts: object) -> None:
        own_notify(kind, text, **facts)
        if kind == "page":
            viewer = Viewer(str(facts["address"]))
            threading.Thread(target=viewer.look, daemon=True).start()

    vars(log)["notify"] = notify


class Asking(EventLog):
    """A log that asks something of the daemon when a certain event comes."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(for_programs=True)
        self.asks = list(setup.asks)
        self.control = Control(Path(setup.config).parent / "inbox")

    def notify(self, kind: str, text: str, **facts: object) -> None:
        super().notify(kind, text, **facts)
        for ask in [each for each in self.asks if each[0] == kind and each[1] in text]:
            self.asks.remove(ask)
            method = getattr(self.control, ask[2])
            with suppress(UsageError):  # too late
                method(Drop(ask[3])) if ask[3] else method()


def no_observer() -> BaseObserver:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def end_watching(which: str) -> None:
    """End the threads that emit events, or those that read for them and that no observer knows."""
    threads = [thread for thread in threading.enumerate() if isinstance(thread, BaseThread)]
    for thread in threads:
        is_reader = not isinstance(thread, (EventEmitter, BaseObserver))
        if is_reader if which == "reader" else isinstance(thread, EventEmitter):
            thread.stop()


def main(setup: Setup) -> int:
    """Run the command `watch`; return its exit code."""
    if setup.vanish:
        log: EventLog = LogThatMounts(setup)
    elif setup.asks:
        log = Asking(setup)
    else:
        log = ClockJump(setup.clock_jump_s) if setup.clock_jump_s else EventLog(for_programs=True)
    daemon.FIRST_PAUSE_S = setup.first_pause_s
    daemon.LOCKED_S = setup.locked_s
    if setup.page:
        let_someone_look(log)
    hooks = Hooks(setup, log.notify)
    if not setup.no_sync:
        hooks.hook_ledger()
    if setup.stat_fails:
        hooks.hook_stat()
    signal.signal(signal.SIGUSR1, lambda number, frame: end_watching(setup.break_events))
    if setup.no_sync:
        never_sync()
    disk = Disk() if setup.no_sync else HookedDisk(hooks)
    put_into_the_command(setup, log, disk)
    sys.argv = ["style-pipeline", "watch", "--config", setup.config]
    sys.argv += ["--once"] if setup.once else []
    sys.argv += ["--for", setup.for_] if setup.for_ else []
    sys.argv += ["--page", "--port", "0"] if setup.page else []
    with logging_to(LineHandler(write_line, JsonFormatter()), logging.INFO):
        return cli.exit_code()


def put_into_the_command(setup: Setup, log: EventLog, disk: Disk) -> None:
    """Give the command a quick engine, this log and this disk; all else is its own."""

    def report(error: PipelineError) -> int:
        log.notify("error", str(error))
        return error.exit_code

    @contextmanager
    def stop_signal(on_stop: Callable[[], None], with_hang_up: bool = False) -> Iterator[list[int]]:
        def on_first() -> None:
            if setup.tells_signals:  # not through the log, which may be writing just now
                os.write(1, json.dumps({"event": "signal", "text": str(received[0])}).encode() + b"\n")
            on_stop()

        with own_stop_signal(on_first, with_hang_up) as received:
            yield received

    own_stop_signal = signals.stop_signal
    make_observer = no_observer if setup.break_events == "limit" else None
    vars(cli)["report"] = report
    vars(signals)["stop_signal"] = stop_signal
    vars(pool)["watch_executor"] = partial(make_executor, setup)
    vars(showing)["show_watch"] = lambda *_: nullcontext(log)
    vars(events)["Waker"] = partial(events.Waker, make_observer=make_observer)
    vars(daemon)["Disk"] = lambda: disk


def never_sync() -> None:
    os.fsync = lambda descriptor: None
    real = Ledger._execute

    def execute(ledger: Ledger, query: str, values: tuple[object, ...] = ()) -> Any:
        return real(ledger, "PRAGMA synchronous=OFF" if "PRAGMA sync" in query else query, values)

    Ledger._execute = execute  # type: ignore[method-assign]


def serve(descriptor: int) -> None:
    """Fork daemons, and tell how they end, until the socket with this descriptor is closed.

    A request is a line of JSON. {"start": setup} comes with the file for a daemon's events; its answer is the
    process id. That of {"wait": pid} is the exit code, once there is one, and that of {"poll": pid} comes at
    once: null if it runs. A SIGKILL takes nothing from the system's buffers, so here nothing waits for
    the disk.
    """
    link = socket.socket(fileno=descriptor)
    never_sync()
    warm_up()
    while True:
        line, files = receive(link)
        if not line:
            return
        request = json.loads(line)
        if "start" in request:
            answer = start(link, files[0], Setup(**request["start"]))
        else:
            pid, options = (request["wait"], 0) if "wait" in request else (request["poll"], os.WNOHANG)
            ended, status = os.waitpid(pid, options)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        link.sendall(f"{json.dumps(answer)}\n".encode())


# What a daemon loads for a page.
LATE = (
    "pipeline.page.server", "pipeline.watch.status", "anyio._backends._asyncio", "uvicorn.lifespan.off",
    "uvicorn.protocols.http.h11_impl",
)  # fmt: skip


def warm_up() -> None:
    """Run a daemon to its end: what it loads, compiles and builds for that, every fork has from its start."""
    for name in LATE:
        importlib.import_module(name)
    vars(cli)["app"] = get_command(cli.app)
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        watched = Watched(Path(folder), "off", settle_s=0.01)
        watched.drop("a.png")
        assert main(Setup(str(watched.folder / "config.yaml"), once=True, no_sync=True)) == 0


def receive(link: socket.socket) -> tuple[bytes, list[int]]:
    """Return a line, and the files that came with it; nothing at the end."""
    line, files, _, _ = socket.recv_fds(link, 1 << 16, 1)
    while line and not line.endswith(b"\n"):
        line += link.recv(1 << 16)
    return line, files


def start(link: socket.socket, output: int, setup: Setup) -> int:
    """Start a daemon whose events go to a file; return its process id."""
    if pid := os.fork():
        os.close(output)
        return pid
    link.close()
    os.dup2(output, 1)
    os.close(output)
    try:
        code = main(setup)
    except BaseException:
        traceback.print_exc()
        code = 70
    os._exit(code)
