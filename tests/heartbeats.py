"""A heartbeat for tests, whose clock, display and service manager keep what they get."""

from __future__ import annotations

from pathlib import Path

from fakes import Clock, Recorder

from pipeline.spec.config import Config, WatchConfig
from pipeline.spec.jobs import Job, StepProgress, Style
from pipeline.spec.recipe import Recipe
from pipeline.storage.ledger import Ledger
from pipeline.watch.heartbeat import BEAT_S, Heartbeat, Queue
from pipeline.watch.service import ServiceManager

QUEUE = Queue(waiting=3, settling=2, done=5, quarantined=1)

JOB = Job("inbox", Path("/in/a.png"), Style("s", ()), Recipe(size=64, pyramid=0, steps=100), "a--s")


class Shown(Recorder):
    """A display that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str]] = []
        self.facts: list[dict[str, object]] = []
        self.queues: list[Queue] = []
        self.configs: list[Config] = []

    def notify(self, kind: str, text: str, **facts: object) -> None:
        self.events.append((kind, text))
        self.facts.append(facts)

    def queue(self, queue: Queue) -> None:
        self.queues.append(queue)

    def configured(self, config: Config) -> None:
        self.configs.append(config)

    def texts(self, kind: str) -> list[str]:
        return [text for event, text in self.events if event == kind]


class Manager(ServiceManager):
    """A service manager that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__({})
        self.messages: list[str] = []

    def _send(self, message: str) -> None:
        self.messages.append(message)


def make_config(folder: Path) -> Config:
    paths = {"outbox": Path("outbox"), "state_dir": Path("state"), "cache_dir": Path("cache")}
    return Config(**paths, watch=WatchConfig(min_free_mb=0)).resolved(folder)


class Beating:
    """A heartbeat with a clock, a display and a manager of its own."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.clock, self.shown, self.manager = Clock(), Shown(), Manager()
        self.heartbeat = Heartbeat(ledger, config, self.shown, self.manager, self.clock)

    def beat(self, queue: Queue = QUEUE, watching: bool = True) -> None:
        """Give a sign of life that is due."""
        self.clock.now += BEAT_S
        self.heartbeat.beat(queue, watching, {})


def step(number: int) -> StepProgress:
    return StepProgress(number, 100, 64, 48, 0.5, 0.2, 0.3, left_s=2.04 * (100 - number))
