"""The process of a worker: what it logs, what kills it, and that it never outlives its parent."""

from __future__ import annotations

import ctypes
import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NoReturn

import pytest
from fakes import PidExecutor

from pipeline.errors import MachineError, WorkerLost
from pipeline.execution.worker import WorkerExecutor

HERE = Path(__file__).parents[1]
LONG = 20.0
MANY = 1_000_000


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


class Logging(PidExecutor):
    """Logs what it does, in a thread of its own too, as decoders have."""

    def check(self, path: Path) -> None:
        logger = logging.getLogger("pipeline.checks")
        logger.debug("not wanted")
        logger.info("checks %s", path.name)
        thread = threading.Thread(target=logger.warning, args=("cannot pickle %s", lambda: None))
        thread.start()
        thread.join()


def test_what_a_worker_logs_reaches_the_loggers_of_its_parent(caplog: pytest.LogCaptureFixture) -> None:
    """Those that its parent wants, as text, in the order in which they were written."""
    with caplog.at_level(logging.INFO, "pipeline"), closing(WorkerExecutor(Logging, LONG, MANY)) as worker:
        pid = int(worker.device_name())
        worker.check(Path("a.png"))
    said = [record for record in caplog.records if record.name == "pipeline.checks"]
    assert [(record.levelname, record.process) for record in said] == [("INFO", pid), ("WARNING", pid)]
    assert said[0].getMessage() == "checks a.png"
    assert said[1].getMessage().startswith("cannot pickle <function")


class LoggingForEver(PidExecutor):
    """Hangs while another of its threads logs."""

    def check(self, path: Path) -> None:
        while True:
            logging.getLogger("pipeline.checks").info("still there")
            time.sleep(0.001)


def test_what_a_worker_logs_is_no_heartbeat(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        caplog.at_level(logging.INFO, "pipeline"),
        closing(WorkerExecutor(LoggingForEver, LONG, MANY, tick_s=0.1)) as worker,
    ):
        worker.device_name()
        monkeypatch.setattr(worker, "timeout_s", 0.2)
        with pytest.raises(WorkerLost, match=r"was silent for 0\.2 s"):
            worker.check(Path("a.png"))
    assert "still there" in caplog.messages


def test_the_log_says_when_a_worker_starts_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG, "pipeline"),
        closing(WorkerExecutor(PidExecutor, LONG, MANY)) as worker,
    ):
        pid = worker.device_name()
    assert caplog.messages == [
        f"worker process {pid} started", f"worker process {pid} ended with exit code 0",
    ]  # fmt: skip


def test_no_room_for_a_process_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(process: SpawnProcess) -> NoReturn:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(MachineError, match=r"cannot be started \(Resource temporarily unavailable\)"):
        WorkerExecutor(PidExecutor, LONG, MANY).device_name()


def without_death_signal() -> Hanging:
    ctypes.CDLL(None).prctl(1, ctypes.c_ulong(0))
    return Hanging()


class Hanging(PidExecutor):
    """Reports that it hangs, and does."""

    def check(self, path: Path) -> None:
        os.write(1, b"hanging\n")
        threading.Event().wait()


class HoldingTheLock(Hanging):
    """Hangs as a decoder in C may: no other thread of Python ever gets its turn."""

    def check(self, path: Path) -> None:
        library = ctypes.PyDLL(None)  # calls of it keep the lock
        library.write(1, b"hanging\n", 8)
        library.pause()


@contextmanager
def parent_process(make: str, then: str = "", first: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Another process with a worker, whose process id it writes first. The worker shares its stdout."""
    code = (
        "import multiprocessing, os, signal, test_worker_process\n"
        "from pathlib import Path\n"
        "from pipeline.execution.worker import WorkerExecutor\n"
        f"worker = WorkerExecutor(test_worker_process.{make}, 600, 600)\n"
        f"{first}\n"
        "print(worker.device_name(), flush=True)\n"
        f"{then}"
    )
    path = os.pathsep.join([str(HERE), str(HERE / "execution"), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            yield parent
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            parent.kill()
            raise


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked to")
@pytest.mark.parametrize("make", ["HoldingTheLock", "without_death_signal"])
def test_the_worker_dies_with_its_parent(make: str) -> None:
    """By the kernel even where no thread gets its turn, and by a thread where the kernel was not asked."""
    with parent_process(make, "worker.check(Path('a.png'))") as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"hanging\n"
        parent.kill()
        # Comes to an end when nobody can write any more: neither the parent nor the worker is left.
        assert parent.communicate(timeout=LONG) == (b"", None)


def test_a_parent_that_forgets_to_close_ends_all_the_same() -> None:
    with parent_process("PidExecutor") as parent:
        parent.communicate(timeout=LONG)
    assert parent.returncode == 0


def test_the_very_first_worker_is_spared_signals_too() -> None:
    """multiprocessing starts a helper before its first process, and lifts the mask for it."""
    interrupt = "worker.start(); os.kill(multiprocessing.active_children()[0].pid, signal.SIGINT)"
    with parent_process("PidExecutor", first=interrupt) as parent:
        parent.communicate(timeout=LONG)
    assert parent.returncode == 0
