"""The intake by itself; test_daemon and test_faults_* have the rest."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fakes import FakeExecutor, picture_bytes
from heartbeats import Manager, Shown
from watching import Watched, put

from pipeline.spec.config import read_config
from pipeline.storage.ledger import Ledger
from pipeline.watch.backlog import Backlog
from pipeline.watch.claims import Claim
from pipeline.watch.events import Waker
from pipeline.watch.heartbeat import Heartbeat
from pipeline.watch.intake import Rejected
from pipeline.watch.owner import Owner
from pipeline.watch.settling import OBSERVATIONS
from pipeline.watch.setup import Context, Setup, WatchOptions


class World:
    """A watched folder and the parts of its daemon, whose clock is put forward by hand."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.watched, self.now, self.shown = (
            Watched(folder, "off", settle_s=1, settle_max_s=60),
            1000.0,
            Shown(),
        )
        config = read_config(folder / "config.yaml")
        heartbeat = Heartbeat(ledger, config, self.shown, Manager())
        waker = Waker(self.watched.inbox, "off")
        context = Context(
            WatchOptions(), ledger, heartbeat, waker, lambda config, tick: FakeExecutor(), clock=self.clock
        )
        self.backlog = Backlog()
        owner = Owner(self.watched.inbox, context.disk)
        self.setup = Setup(config, context, owner, self.backlog, lambda: None, lambda: None)
        self.setup.prepare()

    def clock(self) -> float:
        return self.now

    def settle(self) -> None:
        for _ in range(OBSERVATIONS):
            self.setup.watcher.scan()
            self.now += 1

    def next(self) -> Claim | Rejected | None:
        return self.setup.intake.next()


@pytest.fixture
def world(tmp_path: Path, no_sync: None) -> Iterator[World]:
    with closing(Ledger(tmp_path / "state")) as ledger:
        yield World(tmp_path, ledger)


def test_nothing_is_taken_before_it_has_settled(world: World) -> None:
    world.watched.drop("a.png")
    world.setup.watcher.scan()
    assert world.next() is None
    world.settle()
    claim = world.next()
    assert isinstance(claim, Claim)
    assert claim.relative == Path("a.png")
    assert claim.path.is_file()
    assert world.next() is None


def test_a_manifest_with_a_mistake_comes_before_all_else(world: World) -> None:
    for name in ("a.png", "b.png"):
        world.watched.drop(name)
    world.settle()
    first = world.next()
    assert isinstance(first, Claim)
    world.backlog.add(first)
    world.watched.drop("bad.yaml", b"contnets: [a.png]\n")
    world.settle()
    rejected = world.next()
    assert isinstance(rejected, Rejected)
    assert "contnets" in rejected.error.message
    assert world.next() == first


def test_a_manifest_waits_while_a_style_that_it_names_is_being_copied(world: World) -> None:
    """Also for one that its pattern matches only later; what the library passes over it does not wait for."""
    styles = world.watched.inbox / "styles"
    put(world.watched.folder / "photos/p.png", picture_bytes("p"))
    put(styles / "folder/new.png", picture_bytes("in a folder"))
    world.watched.drop(
        "night.yaml", b"contents: [../photos/p.png]\nstyles: ['styles/n*.png', styles/folder/new.png]\n"
    )
    put(styles / "new.png", picture_bytes("new")[:30])
    world.settle()
    put(styles / "new.png", picture_bytes("new"))
    world.setup.watcher.scan()
    assert world.next() is None
    world.settle()
    put(styles / "next.png", picture_bytes("next")[:30])
    world.setup.watcher.scan()
    assert world.next() is None
    assert world.shown.texts("waits") == [
        "night.yaml: waits: still being copied: styles/new.png",
        "night.yaml: waits: still being copied: styles/next.png",
    ]
    world.settle()
    claim = world.next()
    assert isinstance(claim, Claim)
    assert claim.relative == Path("night.yaml")


def test_a_manifest_that_was_read_waits_for_a_style_that_came_after(world: World) -> None:
    styles = world.watched.inbox / "styles"
    put(world.watched.folder / "photos/p.png", picture_bytes("p"))
    put(styles / "n.png", picture_bytes("n"))
    world.watched.drop("a.png")
    world.watched.drop("night.yaml", b"contents: [../photos/p.png]\nstyles: ['styles/n*.png']\n")
    world.settle()
    first = world.next()
    assert isinstance(first, Claim)
    assert first.relative == Path("a.png")
    put(styles / "new.png", picture_bytes("new")[:30])
    world.setup.watcher.scan()
    assert world.next() is None
    put(styles / "new.png", picture_bytes("new"))
    world.settle()
    claim = world.next()
    assert isinstance(claim, Claim)
    assert claim.relative == Path("night.yaml")


def test_a_style_that_goes_away_during_its_check_is_checked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    styles, away = world.watched.inbox / "styles", world.watched.folder / "away"
    world.watched.drop("a.png")
    world.settle()
    check = FakeExecutor.check

    def vanish(executor: FakeExecutor, path: Path) -> None:
        if path.parent == styles:
            styles.rename(away)
        check(executor, path)

    monkeypatch.setattr(FakeExecutor, "check", vanish)
    assert world.next() is None
    away.rename(styles)
    monkeypatch.undo()
    world.setup.watcher.scan()
    claim = world.next()
    assert isinstance(claim, Claim)
    assert world.shown.texts("ignored") == []


def test_a_claim_that_waits_for_its_turn_holds_up_nothing_else(world: World) -> None:
    for name in ("a.png", "b.png"):
        world.watched.drop(name)
    world.settle()
    first = world.next()
    assert isinstance(first, Claim)
    world.backlog.add(first, not_before=world.now + 5)
    second = world.next()
    assert isinstance(second, Claim)
    assert {first.relative.name, second.relative.name} == {"a.png", "b.png"}
    assert world.next() is None
    world.now += 5
    assert world.next() == first


def test_the_log_says_why_a_drop_is_not_taken(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.watched.drop("half.png", b"no picture")
    world.watched.drop("gone.png")
    world.settle()
    (world.watched.inbox / "gone.png").unlink()
    with caplog.at_level(logging.DEBUG, "pipeline.watch"):
        assert world.next() is None
    reasons = {record.getMessage().partition(":")[0]: record.getMessage() for record in caplog.records}
    assert "waits to become a whole picture" in reasons["half.png"]
    assert "taken or changed since the last scan" in reasons["gone.png"]


def test_a_file_that_cannot_be_moved_is_decoded_once_and_taken_when_it_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(FakeExecutor, "check", lambda executor, path: decoded.append(path.name))
    disk = world.setup.watcher.disk
    rename = disk.rename

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(disk, "rename", refuse)
    world.watched.drop("a.png")
    world.settle()
    for _ in range(3):
        assert world.next() is None
        world.setup.watcher.scan()
    assert decoded == ["s.png", "a.png"]
    (text,) = world.shown.texts("refused")
    assert text.startswith("a.png: cannot be taken (Permission denied). Let this program")
    assert world.setup.watcher.broken == {"a.png": text.removeprefix("a.png: ")}  # as `status` shows
    monkeypatch.setattr(disk, "rename", rename)  # its folder may be written to now
    assert isinstance(world.next(), Claim)
    assert world.setup.watcher.broken == {}
    assert decoded == ["s.png", "a.png"]


def test_a_slow_start_takes_no_time_from_what_settles(world: World) -> None:
    """A large outbox, or a busy machine, must not let `--once` end before it has taken anything."""
    world.watched.drop("a.png")
    watcher = world.setup.watcher
    world.now += 1000
    for _ in range(OBSERVATIONS + 2):
        world.now += 0.1
        watcher.scan()
        assert watcher.is_still_settling()
    world.settle()
    assert not watcher.is_still_settling()
    assert [str(seen.relative) for seen in watcher.ready] == ["a.png"]
