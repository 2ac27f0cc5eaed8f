"""The events that hooks are still to be told, and the threads that run their commands beside the work.

Every hook has a queue and a thread of its own: one that hangs delays no other, and its events stay in order.
Telling a hook never waits. A queue that is full leaves out its oldest events, so that the last are told.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..spec.events import EventKind
from ..spec.hooks import Hook
from ..spec.text import counted, shortened
from .command import KILL_S, TERM_S, Ended, run_command

logger = logging.getLogger(__name__)

# Events of one hook that wait at most. The object of one is about a kilobyte.
MOST_WAITING = 1000
# When the program is to stop: how many seconds the hooks still get, all together.
STOP_S = 3.0
# Seconds after which someone who waits for hooks is told so.
PATIENCE_S = 1.0
# While it waits for hooks, it asks this often whether it must hurry.
LOOK_S = 0.1
# Lengths of a command in the log, and of a variable in the environment of one.
LABEL, VARIABLE = 60, 2000


@dataclass(frozen=True)
class Event:
    """Something that happened: what, about which picture, batch or folder, and the object for programs."""

    kind: EventKind
    name: str
    facts: Mapping[str, object]

    def data(self) -> bytes:
        """Return the JSON object, in ASCII: names need not be valid UTF-8."""
        return (json.dumps({"event": self.kind, **self.facts}) + "\n").encode()

    def variables(self) -> dict[str, str]:
        """Return what is text or a number as variables of the environment."""
        facts = {"event": self.kind, **self.facts}
        plain = {key: value for key, value in facts.items() if isinstance(value, str | int | float)}
        return {f"STYLE_PIPELINE_{key.upper()}": _variable(str(value)) for key, value in plain.items()}


class HookQueue:
    """One hook, the events that wait for it, and the thread that runs its command while there are any."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.failures = 0
        self._waiting: deque[Event] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_telling = False
        self._closing = threading.Event()
        self._ending = threading.Event()
        self._left_out = 0

    @property
    def pending(self) -> int:
        """How many events wait, or are being told now."""
        with self._lock:
            return len(self._waiting) + self._is_telling

    def put(self, event: Event) -> None:
        """Let the command be run for an event, as soon as it has been run for those before."""
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._left_out += 1
                if self._left_out == 1:
                    self._warn(f"does not keep up: {MOST_WAITING} events wait, and the oldest are left out")
            self._waiting.append(event)
            if self._thread is None:
                self._start()

    def close(self) -> None:
        """Tell no more than what waits, and that only while the command keeps to its time limit."""
        self._closing.set()

    def end(self) -> None:
        """Tell nothing more, and end the command that runs."""
        self._ending.set()
        self._leave_out("they were not told before the end")

    def join(self, seconds: float) -> None:
        """Wait until nothing is left to tell, for at most so many seconds."""
        if (thread := self._thread) is not None:
            thread.join(seconds)

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="style-pipeline hook", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:  # the system allows no more threads
            self._waiting.clear()
            self._warn(f"1 event left out: {error}")

    def _work(self) -> None:
        while (event := self._next()) is not None:
            ended = self._run(event)
            self.failures += bool(ended.problem)
            self._log(event, ended)
            if ended.was_late and self._closing.is_set():
                self._leave_out("the command hangs, and style-pipeline ends")

    def _run(self, event: Event) -> Ended:
        hook, must_end = self.hook, self._ending.is_set
        try:
            return run_command(
                hook.run, event.data(), hook.folder, hook.timeout_s, event.variables(), must_end
            )
        except Exception as error:  # a bug; if the thread died of it, `close` would wait forever
            return Ended(f"unexpected {type(error).__name__}: {error}")

    def _next(self) -> Event | None:
        """Return the next event; without one, the thread ends."""
        with self._lock:
            self._is_telling = bool(self._waiting) and not self._ending.is_set()
            if self._is_telling:
                return self._waiting.popleft()
            if self._left_out:
                self._warn(f"did not keep up: {counted(self._left_out, 'event')} left out")
            self._left_out = 0
            self._thread = None
            return None

    def _leave_out(self, why: str) -> None:
        with self._lock:
            left = len(self._waiting)
            self._waiting.clear()
        if left:
            self._warn(f"{counted(left, 'event')} left out: {why}")

    def _warn(self, text: str) -> None:
        facts = {"hook": self.hook.label}
        logger.warning("hook %s: %s", self._label, text, extra={"event": "hook", "facts": facts})

    def _log(self, event: Event, ended: Ended) -> None:
        """Log how the command ended, and what it wrote; both are warnings if it failed."""
        about = f"hook {self._label} ({event.kind}, {event.name})"
        outcome = ended.problem or f"it succeeded in {ended.seconds:.1f} s"
        level = logging.WARNING if ended.problem else logging.DEBUG
        facts = {"hook": self.hook.label, "for": event.kind, "name": event.name}
        more = {"seconds": round(ended.seconds, 3), "error": ended.problem}
        logger.log(level, "%s: %s", about, outcome, extra={"event": "hook", "facts": {**facts, **more}})
        level = max(level, logging.INFO)
        for line in ended.output:
            extra = {"event": "hook_output", "facts": {**facts, "line": line}}
            logger.log(level, "%s: %s", about, line, extra=extra)

    @property
    def _label(self) -> str:
        return shortened(self.hook.label, LABEL)


class HookQueues:
    """The queues of all hooks. Telling them neither waits nor raises."""

    def __init__(self, hooks: Sequence[Hook] = ()) -> None:
        self._queues = [HookQueue(hook) for hook in hooks]
        self._former: list[HookQueue] = []  # of an earlier configuration, and not empty yet

    def use(self, hooks: Sequence[Hook]) -> None:
        """Use other hooks from now on; what waits for the former ones is still told."""
        if [queue.hook for queue in self._queues] != [*hooks]:
            self._former = [queue for queue in (*self._former, *self._queues) if queue.pending]
            self._queues = [HookQueue(hook) for hook in hooks]

    def tell(self, event: Event) -> None:
        for queue in self._queues:
            if event.kind in queue.hook.when:
                queue.put(event)

    @property
    def pending(self) -> int:
        return sum(queue.pending for queue in (*self._former, *self._queues))

    @property
    def failures(self) -> int:
        """How often a command of the current hooks has failed."""
        return sum(queue.failures for queue in self._queues)

    def close(self, must_hurry: Callable[[], bool] = lambda: False) -> None:
        """Wait until every event was told, but no longer than `STOP_S` from when `must_hurry` says so."""
        queues = [*self._former, *self._queues]
        for queue in queues:
            queue.close()
        until, patient_until = math.inf, time.monotonic() + PATIENCE_S
        while (pending := self.pending) and time.monotonic() < until:
            if until == math.inf and must_hurry():
                until = time.monotonic() + STOP_S
            if time.monotonic() >= patient_until:
                patient_until = math.inf
                logger.info("waiting for hooks to be told of %s", counted(pending, "event"))
            _join(queues, LOOK_S)
        for queue in queues:
            queue.end()
        _join(queues, TERM_S + KILL_S + 1.0)


def _join(queues: Sequence[HookQueue], seconds: float) -> None:
    """Wait until nothing is left to tell in any of the queues, for at most so many seconds."""
    until = time.monotonic() + seconds
    for queue in queues:
        queue.join(max(0.0, until - time.monotonic()))


def check_hooks(hooks: Sequence[Hook]) -> None:
    """Check that the commands of all hooks could be run.

    Raises:
        UsageError: a program or a folder is not there.
    """
    problems = []
    for hook in hooks:
        program = hook.run[0]
        if not hook.folder.is_dir():
            problems.append(f"hooks: {hook.folder}: is not a folder, so {program} cannot run in it.")
        if shutil.which(program) is None:
            where = "is not a program" if os.path.dirname(program) else "not found on the PATH"
            problems.append(f"hooks: {program}: {where}.")
    if problems:
        raise UsageError.of_lines(problems, "Install it, make it executable, or correct config.yaml.")


def _variable(text: str) -> str:
    """Return text as the environment can hold it."""
    short = shortened(text, VARIABLE).replace("\0", "")
    return os.fsdecode(short.encode("utf-8", "backslashreplace")) if not _is_encodable(short) else short


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
