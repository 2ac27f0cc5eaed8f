"""What tests of crashes share: scenarios, and a kill at any point of one."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import picture_bytes
from watching import MODES, Forks, Watched

from pipeline.storage.outbox import BatchFolder

Record = Callable[[str, object], None]

Each = Callable[[Callable[[Forks, int], None], Iterable[int]], int]


# Quick to settle: nothing here writes slowly.
SETTLE_S = 0.01


# One mode in the quick part, all three in the long.
EACH_MODE = ["off", *(pytest.param(mode, marks=pytest.mark.faults) for mode in MODES if mode != "off")]


@dataclass(frozen=True)
class Scenario:
    """What is dropped, and what must become of it. `bad` fails; `done` are the pictures published."""

    watch: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    batch: str = "inbox"
    done: tuple[str, ...] = ("a--s.png", "b--s.png")
    bad: tuple[str, ...] = ()

    def prepare(self, folder: Path, mode: str = "off") -> Watched:
        folder.mkdir()
        watched = Watched(folder, mode, settle_s=SETTLE_S, **self.watch)
        if self.batch == "inbox":
            watched.drop("a.png")
            watched.drop("b.png")
        else:
            drop_manifest(watched, self.batch)
        return watched

    def check_now(self, watched: Watched) -> None:
        """What must hold at every moment."""
        watched.assert_nothing_partial()
        watched.assert_attempts_within(3)
        if self.keeps_originals:
            watched.assert_nothing_lost()
        found = [path.relative_to(watched.outbox / self.batch).as_posix() for path in watched.images()]
        assert set(found) <= set(self.done)

    def check_end(self, watched: Watched) -> None:
        """What must hold when nothing is left to do."""
        self.check_now(watched)
        found = [path.relative_to(watched.outbox / self.batch).as_posix() for path in watched.images()]
        assert found == sorted(self.done)
        records = [record["image"] for record in watched.records() if record["status"] == "done"]
        assert sorted(records) == sorted(self.done)
        assert sorted(path.name for path in watched.quarantine.glob("*/*.png")) == sorted(self.bad)
        reports = [json.loads(path.read_bytes()) for path in watched.quarantine.glob("*/error.json")]
        assert sorted(report["file"] for report in reports) == sorted(self.bad)
        self.check_attempts(watched)
        assert leftovers(watched) == []
        kept = {path.parent for path in watched.originals() if watched.quarantine not in path.parents}
        assert kept == ({watched.archive} if self.watch.get("originals", "archive") == "archive" else set())

    def check_attempts(self, watched: Watched) -> None:
        assert watched.attempts() == []

    @property
    def keeps_originals(self) -> bool:
        return self.watch.get("originals") != "delete"


class Left(Scenario):
    """Originals stay in the inbox, each with a marker."""

    def check_now(self, watched: Watched) -> None:
        markers = [path for path in watched.inbox.iterdir() if path.name.endswith(".done")]
        for marker in markers:
            assert set(json.loads(marker.read_bytes())) == {"inode", "size", "mtime_ns"}
        originals = [path for path in watched.originals() if not path.name.endswith(".done")]
        assert {path.read_bytes() for path in originals} == set(watched.inputs)
        assert len(originals) == len(watched.inputs)
        watched.assert_nothing_partial()
        watched.assert_attempts_within(3)

    def check_end(self, watched: Watched) -> None:
        self.check_now(watched)
        assert [path.name for path in watched.images()] == sorted(self.done)
        assert sorted(path.name for path in watched.inbox.iterdir() if path.is_file()) == [
            ".a.png.done", ".b.png.done", "a.png", "b.png",
        ]  # fmt: skip


@dataclass(frozen=True)
class Changed(Scenario):
    """A manifest of which one picture was made before, from another content: its result has to move."""

    batch: str = "night"
    done: tuple[str, ...] = ("a--s.png", "b--s.png", f"older/a--s-{'e' * 8}.png")

    def prepare(self, folder: Path, mode: str = "off") -> Watched:
        watched = super().prepare(folder, mode)
        style = {"images": [{"path": str(watched.inbox / "styles/s.png")}]}
        content = {"path": str(folder / "a.png")}
        record = {"status": "done", "key": "e" * 64, "content": content, "style": style}
        batch = BatchFolder(watched.outbox, self.batch)
        batch.publish_staged(batch.stage_result("a--s", ".png", picture_bytes("old"), b"", record))
        return watched

    def check_now(self, watched: Watched) -> None:
        super().check_now(watched)
        assert picture_bytes("old") in [path.read_bytes() for path in watched.images()]


def drop_manifest(watched: Watched, batch: str) -> None:
    """Drop a manifest of two pictures that lie elsewhere."""
    for name in ("a", "b"):
        (watched.folder / f"{name}.png").write_bytes(picture_bytes(name))
    style = watched.inbox / "styles" / "s.png"
    contents = [str(watched.folder / "a.png"), str(watched.folder / "b.png")]
    manifest = {"batch": batch, "contents": contents, "styles": [str(style)]}
    watched.drop("list.yaml", yaml.safe_dump(manifest).encode())


def leftovers(watched: Watched) -> list[Path]:
    """Whatever of a step that was cut off is still there when all is done."""
    stages = [path for stage in watched.outbox.glob("*/.staged") for path in stage.iterdir()]
    unfinished = watched.folder.rglob(".unfinished-*")
    return [*stages, *unfinished, *watched.claimed.iterdir()]


PLAIN = Scenario()

SCENARIOS = {
    "a picture fails": Scenario(setup={"faults": {"a": "fail"}}, done=("b--s.png",), bad=("a.png",)),
    "delete": Scenario({"originals": "delete"}),
    "leave": Left({"originals": "leave"}),
    "manifest": Scenario(batch="night"),
    "manifest, changed": Changed(),
    "other file system": Scenario(setup={"across": ["/claimed/"]}),
    "other file system, leave": Left({"originals": "leave"}, {"across": ["/claimed/"]}),
}

COUNTED: dict[int, int] = {}


def count_points(forks: Forks, scenario: Scenario, folder: Path) -> int:
    """Return how many points an undisturbed run passes."""
    if id(scenario) not in COUNTED:
        watched = scenario.prepare(folder)
        ended = watched.fork(forks, once=True, kill_at=-1, **scenario.setup)
        assert ended.code == (1 if scenario.bad else 0), ended
        scenario.check_end(watched)
        COUNTED[id(scenario)] = len(ended.said("point"))
    return COUNTED[id(scenario)]


# 1: SIGKILL at every named point


def kill_twice(
    forks: Forks,
    scenario: Scenario,
    folder: Path,
    point: int,
    mode: str = "off",
    between: Callable[[Watched], None] = lambda watched: None,
) -> None:
    """SIGKILL at a point, start again, SIGKILL there again, start again: all ends well."""
    watched = scenario.prepare(folder, mode)
    for _ in range(2):
        ended = watched.fork(forks, once=True, kill_at=point, **scenario.setup)
        assert ended.code in {-signal.SIGKILL, 0, 1}, ended
        scenario_now(scenario, watched)
        between(watched)
    ended = watched.fork(forks, once=True, **scenario.setup)
    assert ended.code in ({0, 1} if scenario.bad else {0}), ended
    scenario.check_end(watched)
    shutil.rmtree(folder)


def scenario_now(scenario: Scenario, watched: Watched) -> None:
    """Check what must hold after a kill. A file copied to another file system may be there twice by then."""
    if "across" not in scenario.setup:
        scenario.check_now(watched)
    else:
        watched.assert_nothing_partial()
        assert {path.read_bytes() for path in watched.originals()} >= set(watched.inputs)
