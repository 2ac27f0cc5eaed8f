"""What runs in an actor: one executor, which stays warm, and the messages that it sends while a job runs."""

from __future__ import annotations

import logging
import os
import platform
import queue
import shutil
import stat
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from pathlib import Path
from typing import TypeAlias

from ...errors import DiskError, JobError, MachineError, WeightsError
from ...spec.config import Config
from ...spec.jobs import JobResult, StepProgress, Task
from ...storage.temporary import remove_unlocked, unfinished_file, write_file
from ...version import VERSION
from ..checkpoints import checkpoint_path, remove_state
from ..executors import Executor
from ..worker_process import KILL, LOGGER, Answer, answer
from .inputs import Inputs

# Seconds between two steps of a job that are sent; one with a snapshot is always sent.
SEND_S = 1.0
# Larger checkpoints are not sent: one is in memory three times, here, in Ray's store and in the driver.
LARGEST_SENT = 1 << 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hello:
    """What an actor says when it is ready."""

    version: str
    device: str
    host: str
    pid: int


@dataclass(frozen=True)
class Request:
    """Tasks that may share a tensor, and what they need.

    `encoders` has the digests of encoders by name, `checkpoints` the files that jobs resume from by key.
    `sent` names the inputs that are sent along; without any, they are read from the paths in the tasks.
    """

    tasks: Sequence[Task]
    encoders: Mapping[str, str]
    checkpoints: Mapping[str, bytes]
    sent: Sequence[Path] = ()


@dataclass(frozen=True)
class Checkpoint:
    """The file of a job's latest checkpoint."""

    key: str
    data: bytes


# The answer comes last.
Message: TypeAlias = "Answer | StepProgress | Checkpoint | logging.LogRecord"


class Actor:
    """Runs the tasks of one request after another on the executor that `make` returns.

    State is kept on the disk of the node, in a folder of this process.
    """

    def __init__(self, make: Callable[[Config], Executor], config: Config, log_level: int) -> None:
        self._scratch = Scratch(Path(tempfile.gettempdir()))
        self._config = config.model_copy(update={"state_dir": self._scratch.path / "state"})
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stopped = threading.Event()
        # Always the same: OpenMP keeps threads for each thread that computes.
        self._thread = ThreadPoolExecutor(1)
        self._executor = make(self._config)
        logger = logging.getLogger(LOGGER)
        logger.addHandler(QueueHandler(self._messages))
        logger.setLevel(log_level)

    def hello(self) -> Hello | MachineError:
        """Load what every job needs."""
        try:
            device = self._thread.submit(self._executor.device_name).result()
        except MachineError as error:
            return error
        return Hello(VERSION, device, platform.node(), os.getpid())

    def run(self, request: Request, *files: bytes) -> Iterator[Message]:
        """Run tasks, and yield what happens, in the end the answer."""
        throttle = Throttle()
        self._thread.submit(self._run, request, files)
        while not isinstance(message := self._messages.get(), Answer):
            if not isinstance(message, StepProgress) or throttle.lets_through(message):
                yield message
        yield message

    def stop(self) -> None:
        """Let the running job end after its step or tile, and every later one before its first."""
        self._stopped.set()

    def live(self) -> None:
        """Wait for ever, so that the driver is told when this process ends."""
        threading.Event().wait()

    def close(self) -> None:
        """Remove what is on the disk."""
        self._scratch.close()

    def _run(self, request: Request, files: Sequence[bytes]) -> None:
        try:
            self._messages.put(self._answer(request, files))
        except BaseException:
            traceback.print_exc()  # line by line, into the logs of Ray on this node
            os.kill(os.getpid(), KILL)  # an exit code of 0 would tell Ray that the end was intended

    def _answer(self, request: Request, files: Sequence[bytes]) -> Answer:
        inputs = Inputs(self._scratch.path / "inputs", dict(zip(request.sent, files, strict=True)))
        channel = Channel(self._messages.put, self._stopped.is_set, self._config)
        results: dict[str, JobResult] = {}
        try:
            self._check_encoders(request.encoders)
            channel.write_checkpoints(request.checkpoints)
            tasks = []
            for task in request.tasks:
                try:
                    tasks.append(inputs.arrive(task))
                except JobError as error:
                    results[task.key] = JobResult.failure(error)
            ended = answer(self._executor, channel, "run", tasks) if tasks else Answer([])
            channel.send_checkpoints([task.key for task in tasks])
        except MachineError as error:
            return Answer(error=error)
        finally:
            inputs.remove()
            for task in request.tasks:
                remove_state(checkpoint_path(self._config, task.key))
        if ended.error is not None:
            return ended
        for task, result in zip(tasks, ended.value, strict=True):
            results[task.key] = inputs.with_original_paths(result)
        return Answer([results[task.key] for task in request.tasks])

    def _check_encoders(self, digests: Mapping[str, str]) -> None:
        for name, digest in digests.items():
            found = self._executor.encoder_info(name).digest
            if found != digest:
                raise WeightsError(
                    f"The network {name} is {found[:8]} on the node {platform.node()}, but {digest[:8]} "
                    "where the run was started.",
                    "Use the same version of style-pipeline on all nodes, and the same file in `weights`.",
                )


class Channel:
    """What the executor of an actor calls: it sends steps to the driver, and checkpoints when they change."""

    def __init__(
        self, put: Callable[[Message], None], should_stop: Callable[[], bool], config: Config
    ) -> None:
        self._put = put
        self.should_stop = should_stop
        self._config = config
        self._known: dict[str, int] = {}  # when the checkpoints that the driver has were modified
        self._said_large = False

    def send(self, progress: StepProgress, /) -> None:
        self._put(progress)
        self.send_checkpoints([progress.key])

    def send_checkpoints(self, keys: Sequence[str]) -> None:
        for key in keys:
            path = checkpoint_path(self._config, key)
            with suppress(FileNotFoundError):
                status = path.stat()
                if status.st_size > LARGEST_SENT:
                    self._say_large(status.st_size)
                elif self._known.get(key) != status.st_mtime_ns:
                    self._put(Checkpoint(key, path.read_bytes()))
                    self._known[key] = status.st_mtime_ns

    def _say_large(self, size: int) -> None:
        if not self._said_large:
            self._said_large = True
            logger.warning(
                "Ray: a checkpoint of %.1f GB on %s is too large to send; if its job is interrupted, "
                "it resumes from an earlier one, or starts over",
                size / 1e9,
                platform.node(),
            )

    def write_checkpoints(self, checkpoints: Mapping[str, bytes]) -> None:
        """Write what jobs resume from.

        Raises:
            DiskError: a file cannot be written.
        """
        for key, data in checkpoints.items():
            path = checkpoint_path(self._config, key)
            write_file(path, data)
            self._known[key] = path.stat().st_mtime_ns


class Throttle:
    """Lets through a step of each job every `SEND_S`, and those with a snapshot."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}

    def lets_through(self, progress: StepProgress) -> bool:
        now = self._clock()
        if progress.snapshot is None and now < self._next.get(progress.key, now):
            return False
        self._next[progress.key] = now + SEND_S
        return True


LOCK, FOLDER = ".lock-", "actor-"


class Scratch:
    """A folder of this process below `place`. What killed processes of this user left there is removed."""

    def __init__(self, place: Path) -> None:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        base = place / f"style-pipeline-ray-{user}"
        base.mkdir(mode=0o700, exist_ok=True)
        _check_private(base)
        for lock in base.glob(f"{LOCK}*"):
            remove_unlocked(lock)
        for folder in base.glob(f"{FOLDER}*"):
            if not (base / folder.name.replace(FOLDER, LOCK)).exists():
                shutil.rmtree(folder, ignore_errors=True)
        self._held = ExitStack()
        lock, _ = self._held.enter_context(unfinished_file(base, LOCK))  # locked while this process lives
        self.path = base / lock.name.replace(LOCK, FOLDER)
        self.path.mkdir(mode=0o700)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._held.close()


def _check_private(folder: Path) -> None:
    """Check that nobody else can put files into a folder whose name can be guessed.

    Raises:
        DiskError: it is of another user, open to others, or a link.
    """
    if not hasattr(os, "getuid"):  # Windows, where folders for temporary files are private
        return
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise DiskError(f"{folder}: it is not a private folder of this user.", "Remove it.")
