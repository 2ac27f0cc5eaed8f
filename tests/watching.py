"""A watched folder for tests: starts the daemon as a process, waits for what it says, checks the promises."""

from __future__ import annotations

import atexit
import io
import json
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import yaml
from fakes import QUICK, picture_bytes
from PIL import Image

from pipeline.storage.files import TEMPORARY_PREFIX
from pipeline.storage.paths import HIDDEN, claimed_folder
from pipeline.watch.markers import MARKER_SUFFIX

# Not run as a script: worker processes load the script of their parent, and this one loads the command line.
SERVE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import daemon_driver; daemon_driver"
# Never reached unless something is broken.
PATIENCE_S = 120.0
MODES = ("native", "polling", "off")


@dataclass
class Process:
    """A daemon as a process of a server, used like a subprocess.Popen."""

    server: Forks
    pid: int
    stdout: IO[str]
    returncode: int | None = None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, seconds: float) -> int:
        """Wait for the exit code."""
        wait_until(lambda: self.poll() is not None, "the daemon ends", seconds)
        assert self.returncode is not None
        return self.returncode


@dataclass
class Daemon:
    """A running daemon. `events` are those read so far."""

    process: Process
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Return the next event of a kind with these facts; fail if the daemon ends or falls silent."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise AssertionError(f"no {kind} {facts} after {self.kinds}") from None
            assert line is not None, f"ended without {kind} {facts}: {self.texts}"
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == kind and facts.items() <= event.items():
                return event

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Read what is still said, and return the exit code."""
        code = self.process.wait(PATIENCE_S)
        while (line := self._lines.get(timeout=PATIENCE_S)) is not None:
            self.events.append(json.loads(line))
        self._reader.join()
        self.process.stdout.close()
        return code

    @property
    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]

    @property
    def texts(self) -> list[str]:
        return [event["text"] for event in self.events]


@dataclass(frozen=True)
class Ended:
    """A daemon that has ended; a negative code is that of a signal."""

    code: int
    events: list[dict[str, Any]]

    def said(self, kind: str) -> list[str]:
        return [event["text"] for event in self.events if event["event"] == kind]


def _events(output: Path) -> list[dict[str, Any]]:
    # A kill may cut the last line short.
    return [json.loads(line) for line in output.read_text().splitlines() if line.endswith("}")]


class Forks:
    """A light process that forks daemons: quicker than one interpreter each."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair()
        command = [sys.executable, "-c", f"{SERVE}.serve({theirs.fileno()})"]
        with theirs:
            self._server = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._answers = self._link.makefile()

    def close(self) -> None:
        self._answers.close()
        self._link.close()
        self._server.wait()

    def ask(self, request: dict[str, Any], files: Iterable[int] = ()) -> Any:
        """Ask the server; see `daemon_driver.serve`."""
        socket.send_fds(self._link, [f"{json.dumps(request)}\n".encode()], [*files])
        return json.loads(self._answers.readline())

    def start(self, folder: Path, setup: dict[str, Any], output: int) -> int:
        """Start a daemon whose events go to a file descriptor; return its process id."""
        return int(self.ask({"start": {"config": str(folder / "config.yaml"), **setup}}, [output]))

    def run(self, folder: Path, setup: dict[str, Any]) -> Ended:
        return self.race(folder, setup, 1)[0]

    def race(self, folder: Path, setup: dict[str, Any], count: int) -> list[Ended]:
        """Run several daemons at once, each to its end."""
        outputs = [folder / f"events{number}" for number in range(count)]
        pids = []
        for output in outputs:
            with output.open("wb") as file:
                pids.append(self.start(folder, setup, file.fileno()))
        return [
            Ended(self.ask({"wait": pid}), _events(output)) for pid, output in zip(pids, outputs, strict=True)
        ]


@cache
def server(number: int) -> Forks:
    """Return a server, one of several that end with this process."""
    made = Forks()
    atexit.register(made.close)
    return made


class Watched:
    """An inbox with one style, its outbox and its state; settings are quick unless a test says otherwise."""

    def __init__(self, folder: Path, mode: str = "native", **watch: Any) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.outbox = folder / "outbox"
        self.archive = folder / "archive"
        self.quarantine = folder / "quarantine"
        self.state = folder / "state"
        self.claimed = claimed_folder(self.inbox)
        self.inputs: Counter[bytes] = Counter()
        self.watch = {
            "settle_s": 0.06, "settle_max_s": 0.5, "rescan_s": 0.1, "notify": mode, "min_free_mb": 0,
            "job_timeout_s": 60, **watch,
        }  # fmt: skip
        (self.inbox / "styles").mkdir(parents=True)
        (self.inbox / "styles" / "s.png").write_bytes(picture_bytes("the style"))
        self.configure()

    def configure(self, **keys: Any) -> Path:
        """Write config.yaml, with `keys` beside or instead of what a test needs."""
        config = {
            "outbox": "outbox", "state_dir": "state", "cache_dir": "cache", "recipe": QUICK,
            "watch": {"inbox": "inbox", **self.watch}, **keys,
        }  # fmt: skip
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    # Dropping

    def drop(self, name: str | bytes, data: bytes | None = None) -> Path:
        """Drop a picture as a careful program does: written elsewhere, then renamed in."""
        text = os.fsdecode(name)
        data = picture_bytes(ascii(text)) if data is None else data
        outside = self.folder / "outside"
        outside.write_bytes(data)
        path = self.inbox / text
        path.parent.mkdir(parents=True, exist_ok=True)
        outside.rename(path)
        self.inputs[data] += 1
        return path

    # Running

    def start(self, **setup: Any) -> Daemon:
        """Start a daemon; see `daemon_driver.Setup`."""
        read, write = os.pipe()
        pid = server(0).start(self.folder, setup, write)
        os.close(write)
        return Daemon(Process(server(0), pid, open(read)))

    def once(self, **setup: Any) -> Daemon:
        """Run a daemon to its end; its exit code is `process.returncode`."""
        daemon = self.start(once=True, **setup)
        daemon.wait()
        return daemon

    def fork(self, forks: Forks, **setup: Any) -> Ended:
        """Run a daemon to its end, as a quick fork; without `stop_after` or a kill it is to be `once`."""
        return forks.run(self.folder, setup)

    # What is there

    def originals(self) -> list[Path]:
        """Every file where an original may be: inbox, claimed, archive, quarantine."""
        own = {"lock", "holder.json", "error.json"}
        roots = (self.inbox, self.archive, self.quarantine)
        files = [
            path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()
        ]
        styles, control = self.inbox / "styles", self.inbox / HIDDEN / "control"
        files = [path for path in files if control not in path.parents]
        files = [path for path in files if not path.name.startswith(TEMPORARY_PREFIX)]  # no file yet
        files = [path for path in files if not (path.name.startswith(".") and path.suffix == MARKER_SUFFIX)]
        return [path for path in files if path.name not in own and styles not in path.parents]

    def images(self) -> list[Path]:
        """Every picture that can be seen in the outbox."""
        hidden = (".staged", ".style-pipeline", ".thumbs")
        files = (
            path for path in self.outbox.rglob("*") if path.suffix in {".png", ".jpg"} and path.is_file()
        )
        return sorted(path for path in files if not set(hidden) & set(path.relative_to(self.outbox).parts))

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in self.outbox.glob("*/logs/**/*.json")]

    def attempts(self) -> list[int]:
        path = self.state / "ledger.sqlite3"
        if not path.exists():
            return []
        database = sqlite3.connect(path)
        try:
            return [row[0] for row in database.execute("SELECT count FROM attempts_of")]
        except sqlite3.OperationalError:  # it is just being made
            return []
        finally:
            database.close()

    # The promises

    def assert_nothing_lost(self) -> None:
        """Every input's bytes exist, as often as they were dropped, and nowhere else."""
        found = Counter(path.read_bytes() for path in self.originals())
        assert found == self.inputs, [str(path.relative_to(self.folder)) for path in self.originals()]

    def assert_nothing_partial(self) -> None:
        """Whatever can be seen in the outbox is whole."""
        for path in self.images():
            Image.open(io.BytesIO(path.read_bytes())).load()
        for record in self.records():
            assert record["status"] in {"done", "failed"}

    def assert_attempts_within(self, limit: int = 3) -> None:
        assert all(count <= limit for count in self.attempts())

    def assert_promises(self) -> None:
        """What must hold at every moment, with no process alive."""
        self.assert_nothing_lost()
        self.assert_nothing_partial()
        self.assert_attempts_within()

    def assert_done(self, names: Iterable[str]) -> None:
        """These pictures, and no others, are published, each once, and their originals archived."""
        self.assert_promises()
        assert [path.relative_to(self.outbox / "inbox").as_posix() for path in self.images()] == sorted(names)
        done = [record["image"] for record in self.records() if record["status"] == "done"]
        assert sorted(done) == sorted(names)
        assert [path for path in self.originals() if self.archive not in path.parents] == []


def put(path: Path, data: bytes = b"data") -> Path:
    """Write a file, in folders that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Poll a condition that no event tells of; only tests of other processes need it."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"never happened: {what}")
