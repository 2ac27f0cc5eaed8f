"""A crash after any step of a run, with or without what was not yet synced, then recovery: the promises hold.

See `recorded` for what a step is. The models of a power loss: "journal" undoes the last changes of each file
system back to some moment, but never past a sync of anything there; "unordered" undoes any changes of
folders that were not synced themselves. In both, a file that was not synced may be empty or cut short.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import picture_bytes
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from recorded import Crash, Model, Recording, RecordingDisk
from world import MODELS, LedgerAfter, Ran, World

from pipeline.storage.files import Disk
from pipeline.storage.outbox import BatchFolder

# Every prefix of a few plain stories


@dataclass(frozen=True)
class Story:
    """What lies in the inbox and how the daemon is set; then it runs once."""

    drops: tuple[str, ...] = ("a.png",)
    faults: Mapping[str, Any] = field(default_factory=dict)
    originals: str = "archive"
    apart: tuple[str, ...] = ()
    eager: bool = False


STORIES = {
    "done": Story(),
    "across file systems": Story(apart=("archive", "quarantine", "outbox")),
}

LONG_STORIES = {
    "fails": Story(("bad.png",), {"bad": "fail"}),
    "left": Story(originals="leave"),
    "deleted": Story(originals="delete"),
    "in a subfolder, and fails": Story(("sub/a.png", "sub/bad.png"), {"bad": "fail"}),
    "fails across file systems": Story(("bad.png",), {"bad": "fail"}, apart=("quarantine",)),
    "taken at once": Story(eager=True),
    "two of one content name": Story(("a.png", "a.jpeg")),
}


def walk(story: Story, ledger: LedgerAfter = "kept") -> int:
    """Crash in every way after every step of a story, and recover; return how many states that made."""
    world = World(story.originals, story.apart)
    try:
        for name in story.drops:
            world.drop(name, picture_bytes(name))
        ran = world.run(story.faults, story.eager)
        assert ran.complete
        seen: set[object] = set()
        for kind, length in itertools.product(CRASHES, range(ran.length + 1)):
            for crash in CRASHES[kind](ran.recording, length):
                if (signature := ran.recording.signature(crash)) not in seen:
                    seen.add(signature)
                    world.published, world.taken, world.lost_power = [], {}, False
                    world.crash(ran, crash, ledger, power=kind != "killed")
                    check_recovery(world, story, f"{kind} after step {length}, {_last(ran, length)}: {crash}")
        return len(seen)
    finally:
        world.close()


def check_recovery(world: World, story: Story, where: str) -> None:
    """Check the promises before recovery, after it, and after another run, which has nothing to do."""
    try:
        world.check()
        again = world.run(story.faults)
        world.keep(again)
        assert again.complete
        world.check_finished()
    except AssertionError as error:
        raise AssertionError(where) from error


def _last(ran: Ran, length: int) -> str:
    return ran.recording.operations[length - 1].what if length else "nothing"


def killed(recording: Recording, length: int) -> Iterator[Crash]:
    """Nothing is dropped; a file that was just being written is half there."""
    node = recording.last_written(length)
    yield Crash(length, cut={} if node is None else {node: 0.5})


def bytes_dropped(recording: Recording, length: int) -> Iterator[Crash]:
    """Every name is kept, and every file that was not synced is cut."""
    yield Crash(length, cut=dict.fromkeys(recording.unsynced_files(length), 0.5))


def one_dropped(recording: Recording, length: int) -> Iterator[Crash]:
    """Any one change of a folder that was not synced is undone, with what cannot be without it."""
    for number in itertools.chain.from_iterable(recording.at_risk(length, "unordered")):
        yield Crash(length, recording.with_dependents([number], length))


def all_dropped(model: Model, recording: Recording, length: int) -> Iterator[Crash]:
    """Whatever can be is undone, and every file that was not synced is empty."""
    at_risk = itertools.chain.from_iterable(recording.at_risk(length, model))
    cut = dict.fromkeys(recording.unsynced_files(length), 0.0)
    yield Crash(length, recording.with_dependents(at_risk, length), cut)


CRASHES: dict[str, Callable[[Recording, int], Iterator[Crash]]] = {
    "killed": killed,
    "bytes dropped": bytes_dropped,
    "one dropped": one_dropped,
    **{f"all dropped, {model}": partial(all_dropped, model) for model in MODELS},
}


@pytest.mark.parametrize("story", STORIES)
def test_every_step_of_a_run_may_be_the_last(story: str) -> None:
    assert walk(STORIES[story]) > 30


@pytest.mark.faults
@pytest.mark.parametrize("ledger", ["kept", "old", "gone"])
@pytest.mark.parametrize("story", [*STORIES, *LONG_STORIES])
def test_every_step_of_more_runs_may_be_the_last(story: str, ledger: LedgerAfter) -> None:
    assert walk((STORIES | LONG_STORIES)[story], ledger) > 30


# An older result
OLD, NEW = picture_bytes("old"), picture_bytes("new")

KEYS = {"a" * 64: OLD, "b" * 64: NEW}


def make(outbox: Path, key: str, disk: Disk | None = None) -> BatchFolder:
    """Publish the result of a pair as it is now, or bring it back from before."""
    folder = BatchFolder(outbox, "night", disk)
    place = folder.places.choose("a--s", ".png", key, replaces=lambda record: True)
    if place.older:
        folder.publish_staged(folder.stage_older(place))
        folder.remove_older(place)
    elif not place.done:
        folder.publish_staged(
            folder.stage_result(place.name, ".png", KEYS[key], b"step\n", {"status": "done", "key": key})
        )
    return folder


@pytest.mark.parametrize("crashes", CRASHES)
@pytest.mark.parametrize("before", [["a"], ["a", "b"]], ids=["moved", "brought back"])
def test_every_step_that_moves_an_older_result_may_be_the_last(
    before: list[str], crashes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result before the last is there whole after any crash, and in the end both are, by their names."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    outbox, store = tmp_path / "disk", tmp_path / "store"
    store.mkdir()
    for letter in before:
        make(outbox, letter * 64)
    wanted = ("a" if before[-1] == "b" else "b") * 64
    kept = next(key for key in KEYS if key != wanted)
    recording = Recording(outbox, store)
    make(outbox, wanted, RecordingDisk(recording, lambda *_: None))
    assert len(recording.operations) > 25
    for length in range(len(recording.operations) + 1):
        for crash in CRASHES[crashes](recording, length):
            recording.rebuild(crash)
            left = [path.read_bytes() for path in outbox.rglob("*.png")]
            assert KEYS[kept] in left, recording.operations[length - 1].what
            with BatchFolder(outbox, "night").locked():
                folder = make(outbox, wanted)
            shown = {path.relative_to(folder.path).as_posix(): path for path in outbox.rglob("*.png")}
            older = f"older/a--s-{kept[:8]}"
            assert shown.pop("a--s.png").read_bytes() == KEYS[wanted]
            assert shown.pop(f"{older}.png").read_bytes() == KEYS[kept]
            assert [path.read_bytes() for path in shown.values()] in ([], [KEYS[wanted]])  # not yet cleared
            assert folder.paths.read_record("a--s")["key"] == wanted
            assert folder.paths.read_record(older)["key"] == kept
    recording.close()


# Any story
NAMES = st.sampled_from(["a.png", "b.png", "a.jpeg", "sub/a.png", "bad.png"])

FAULTS = st.sampled_from([{}, {"bad": "fail"}, {"a": "machine"}, {"a": "stop"}])

LEDGERS: st.SearchStrategy[LedgerAfter] = st.sampled_from(["kept", "kept", "old", "gone"])

PARTS = st.sampled_from([0.0, 0.5, 1.0])


class Crashes(RuleBasedStateMachine):
    """Drops, runs, crashes, losses, a consumer and a user who deletes the ledger, in any order."""

    world: World

    @initialize(
        originals=st.sampled_from(["archive", "leave", "delete"]),
        apart=st.sampled_from([(), ("archive", "quarantine"), ("archive", "quarantine", "outbox")]),
        styles=st.integers(1, 2),
        first=NAMES,
    )
    def begin(self, originals: str, apart: tuple[str, ...], styles: int, first: str) -> None:
        self.world = World(originals, apart, styles)
        self.drop(first, 0)

    @rule(name=NAMES, seed=st.integers(0, 1))
    def drop(self, name: str, seed: int) -> None:
        self.world.drop(name, picture_bytes(f"{name.removesuffix('.jpeg')} {seed}"))

    @rule(faults=FAULTS, eager=st.booleans())
    def run(self, faults: dict[str, Any], eager: bool) -> None:
        self.world.keep(self._run(faults, eager))

    @rule(faults=FAULTS, eager=st.booleans(), ledger=LEDGERS, data=st.data())
    def lose_power(
        self, faults: dict[str, Any], eager: bool, ledger: LedgerAfter, data: st.DataObject
    ) -> None:
        ran = self._run(faults, eager)
        self.world.crash(ran, self._power_loss(ran, data), ledger)

    @rule(faults=FAULTS, eager=st.booleans(), data=st.data())
    def kill(self, faults: dict[str, Any], eager: bool, data: st.DataObject) -> None:
        ran = self._run(faults, eager)
        length = data.draw(st.integers(0, ran.length), "steps")
        self.world.crash(ran, next(killed(ran.recording, length)), power=False)

    @precondition(lambda self: self.world.quarantine(Disk()).files())
    @rule(loses_power=st.booleans(), data=st.data())
    def retry(self, loses_power: bool, data: st.DataObject) -> None:
        ran = self.world.retry()
        if loses_power:
            self.world.crash(ran, self._power_loss(ran, data))
        else:
            self.world.keep(ran)

    @precondition(lambda self: self.world.images())
    @rule()
    def take(self) -> None:
        self.world.take()

    @rule()
    def delete_ledger(self) -> None:
        self.world.delete_ledger()

    @invariant()
    def promises(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.keep(self._run({}, False))
            finally:
                self.world.close()

    def _run(self, faults: dict[str, Any], eager: bool) -> Ran:
        """Run to the end, where more must hold; a crash may then undo it."""
        world, published, taken = self.world, list(self.world.published), dict(self.world.taken)
        ran = world.run(faults, eager)
        world.keep(ran)
        world.check()
        if ran.complete:
            world.check_finished()
        world.published, world.taken = published, taken
        return ran

    def _power_loss(self, ran: Ran, data: st.DataObject) -> Crash:
        recording = ran.recording
        length = data.draw(st.integers(0, ran.length), "steps")
        model = data.draw(st.sampled_from(MODELS), "model")
        dropped: list[int] = []
        for numbers in recording.at_risk(length, model):
            if model == "journal":
                dropped += numbers[data.draw(st.integers(0, len(numbers)), "lasted") :]
            else:
                dropped += [n for n in numbers if data.draw(st.booleans(), recording.operations[n].what)]
        cut = {node: data.draw(PARTS, "kept of a file") for node in recording.unsynced_files(length)}
        return Crash(length, recording.with_dependents(dropped, length), cut)


def run_machine(examples: int, steps: int, phases: Collection[Phase] = tuple(Phase)) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Crashes, settings=chosen)


def test_crashes_in_any_order_lose_nothing() -> None:
    run_machine(25, 8)


@pytest.mark.faults
def test_more_crashes_in_any_order_lose_nothing() -> None:
    run_machine(500, 15, [Phase.generate])
