from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Clock
from hypothesis import given
from hypothesis import strategies as st

from pipeline.watch.inbox import Identity, Seen
from pipeline.watch.settling import Settling


def seen(name: str = "a.png", version: int = 0) -> Seen:
    return Seen(Path(name), Identity(1, 2, 3, version, 4))


class TestSettling:
    """Two seconds to settle, a minute at most."""

    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.clock, self.written = Clock(), set[Path]()
        self.settling = Settling(self.clock, 2, 60, lambda relative: relative in self.written)

    def observe(self, *files: Seen, after: float = 0) -> list[Seen]:
        self.clock.now += after
        self.settling.observe(files)
        return self.settling.ready

    def settle(self, *files: Seen) -> None:
        for _ in range(3):
            self.observe(*files, after=1)

    def test_three_observations_over_the_time_are_needed(self) -> None:
        assert self.observe(seen()) == []
        assert self.observe(seen(), after=1) == []
        assert self.observe(seen(), after=1) == [seen()]
        assert self.settling.waiting == 0

    def test_two_observations_are_too_few_however_long(self) -> None:
        assert self.observe(seen()) == []
        assert self.observe(seen(), after=1000) == []
        assert self.observe(seen()) == [seen()]

    def test_many_observations_are_not_enough_in_no_time(self) -> None:
        for _ in range(100):
            assert self.observe(seen(), after=0.01) == []
        assert self.settling.waiting == 1

    def test_time_without_an_observation_settles_nothing(self) -> None:
        for _ in range(3):
            self.observe(seen())
        self.clock.now += 100
        assert self.settling.ready == []

    @pytest.mark.parametrize("part", ["device", "inode", "size", "mtime_ns", "ctime_ns"])
    def test_a_change_starts_again(self, part: str) -> None:
        changed = replace(seen(), identity=replace(seen().identity, **{part: 99}))
        self.observe(seen())
        self.observe(seen(), after=1)
        assert self.observe(changed, after=1) == []
        assert self.observe(changed, after=1) == []
        assert self.observe(changed, after=1) == [changed]

    def test_a_settled_file_that_changes_starts_again(self) -> None:
        self.settle(seen())
        assert self.observe(seen(version=1), after=1) == []
        assert self.settling.waiting == 1

    def test_going_back_to_an_old_identity_starts_again(self) -> None:
        self.observe(seen(version=0))
        self.observe(seen(version=1), after=1)
        self.observe(seen(version=0), after=1)
        assert self.observe(seen(version=0), after=1) == []
        assert self.observe(seen(version=0), after=1) == [seen(version=0)]

    @pytest.mark.parametrize("version", [-(10**18), 0, 10**20])
    def test_times_of_files_do_not_matter(self, version: int) -> None:
        self.settle(seen(version=version))
        assert self.settling.ready == [seen(version=version)]

    def test_a_file_that_was_away_starts_again(self) -> None:
        self.observe(seen())
        self.observe(seen(), after=1)
        self.observe(after=1)
        assert self.observe(seen(), after=1) == []

    def test_in_the_order_in_which_they_settled(self) -> None:
        self.observe(seen("z"))
        self.observe(seen("b"), seen("z"), after=1)
        self.observe(seen("a"), seen("b"), seen("z"), after=1)
        assert self.observe(seen("a"), seen("b"), seen("z"), after=1) == [seen("z"), seen("b")]
        assert self.observe(seen("a"), seen("b"), seen("z"), after=1) == [seen("z"), seen("b"), seen("a")]

    def test_settled_at_once_longest_unchanged_first(self) -> None:
        self.observe(seen("z"))
        self.observe(seen("a"), seen("c"), seen("z"), after=0.5)
        self.observe(seen("a"), seen("c"), seen("z"), after=0.5)
        expected = [seen("z"), seen("a"), seen("c")]
        assert self.observe(seen("a"), seen("c"), seen("z"), after=5) == expected

    def test_an_open_writer_holds_it_back(self) -> None:
        self.written.add(Path("a.png"))
        self.settle(seen("a.png"), seen("b.png"))
        assert self.settling.ready == [seen("b.png")]
        assert self.observe(seen("a.png"), after=1000) == []
        self.written.clear()
        assert self.observe(seen("a.png")) == [seen("a.png")]

    def test_writers_are_asked_for_last(self) -> None:
        asked: list[Path] = []
        settling = Settling(self.clock, 2, 60, lambda relative: bool(asked.append(relative)))
        for _ in range(5):
            settling.observe([seen()])
            self.clock.now += 0.9
        assert asked == [Path("a.png")]

    def test_an_unreadable_file_comes_back_when_it_changes(self) -> None:
        self.settle(seen(), seen("b"))
        self.settling.mark_unreadable(seen(), "cut off")
        assert self.settling.ready == [seen("b")]
        assert self.settling.unreadable == {Path("a.png"): "cut off"}
        assert self.settling.waiting == 1
        assert self.observe(seen(), after=10) == []
        self.settle(seen(version=1))
        assert self.settling.ready == [seen(version=1)]
        assert not self.settling.is_overdue(seen(version=1))
        assert self.settling.unreadable == {}

    def test_an_unreadable_file_comes_back_when_its_time_is_up(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        assert self.observe(seen(), after=57.9) == []
        assert not self.settling.is_overdue(seen())
        assert self.observe(seen(), after=0.1) == [seen()]
        assert self.settling.is_overdue(seen())
        self.settling.mark_unreadable(seen(), "still cut off")
        assert self.settling.ready == [seen()]

    def test_a_file_that_was_refused_stays_ready_and_the_reason_goes_when_it_changes(self) -> None:
        self.settle(seen(), seen("b"))
        self.settling.mark_refused(seen(), "may not be moved")
        assert self.settling.ready == [seen(), seen("b")]
        assert self.observe(seen(), after=1) == [seen()]
        assert self.settling.refused == {Path("a.png"): "may not be moved"}
        self.settle(seen(version=1))
        assert self.settling.refused == {}

    def test_a_mark_is_for_one_identity(self) -> None:
        self.settle(seen(version=1))
        self.settling.mark_unreadable(seen(version=0), "an old look")
        self.settling.mark_unreadable(seen("unknown"), "never followed")
        assert self.settling.ready == [seen(version=1)]
        assert not self.settling.is_overdue(seen("unknown"))

    def test_forgetting(self) -> None:
        self.settle(seen(), seen("b"))
        self.settling.forget(seen())
        self.settling.forget(seen("unknown"))
        assert self.settling.ready == [seen("b")]
        assert self.observe(seen(), seen("b"), after=1) == [seen("b")]

    def test_forgetting_an_old_identity_keeps_the_new_one(self) -> None:
        self.settle(seen(version=1))
        self.settling.forget(seen(version=0))
        assert self.settling.ready == [seen(version=1)]

    def test_memory_does_not_outlive_the_files(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        self.observe(after=1)
        assert (self.settling.unreadable, self.settling.waiting) == ({}, 0)
        self.settle(seen())
        assert self.settling.ready == [seen()]

    def test_nothing_is_due_when_nothing_waits(self) -> None:
        assert self.settling.next_due_s() is None
        self.settle(seen())
        assert self.settling.next_due_s() is None

    def test_scans_are_due_often_enough_and_not_too_often(self) -> None:
        self.observe(seen())
        assert self.settling.next_due_s() == 0.5
        self.observe(seen(), after=1.9)
        assert self.settling.next_due_s() == pytest.approx(0.1)
        self.clock.now += 0.09
        assert self.settling.next_due_s() == 0.02
        self.clock.now += 100
        assert self.settling.next_due_s() == 0.02

    def test_a_file_held_open_is_not_asked_for_without_a_pause(self) -> None:
        self.written.add(Path("a.png"))
        self.settle(seen())
        assert self.observe(seen(), after=100) == []
        assert self.settling.next_due_s() == 0.5

    def test_an_unreadable_file_is_due_when_its_time_is_up(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        assert self.settling.next_due_s() == 58
        self.clock.now += 10
        assert self.settling.next_due_s() == 48

    def test_the_soonest_counts(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        self.observe(seen(), seen("new"), after=1)
        assert self.settling.next_due_s() == 0.5

    def test_following_what_is_due_settles_in_little_more_than_the_time(self) -> None:
        started, scans = self.clock.now, 0
        while not self.observe(seen(), after=self.settling.next_due_s() or 0):
            scans += 1
        assert 2 <= self.clock.now - started <= 2.1
        assert scans <= 6


def steps() -> st.SearchStrategy[list[tuple[float, dict[str, int]]]]:
    """Scans, each after some seconds: which files are there, in which version."""
    files = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1), max_size=3)
    return st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.5, 1.0, 2.0, 5.0]), files), max_size=30)


@given(steps(), st.sampled_from([0.25, 1.0, 2.0]))
def test_a_file_is_ready_after_three_equal_observations_over_the_time(
    scans: list[tuple[float, dict[str, int]]], settle_s: float
) -> None:
    clock = Clock()
    settling = Settling(clock, settle_s, 60)
    history: list[tuple[float, dict[str, int]]] = []
    for wait, files in scans:
        clock.now += wait
        settling.observe([seen(name, version) for name, version in sorted(files.items())])
        history.append((clock.now, files))
        expected = {seen(name, files[name]) for name in files if has_settled(history, name, settle_s)}
        assert set(settling.ready) == expected
        assert len(settling.ready) + settling.waiting == len(files)
        assert (settling.next_due_s() is None) == (settling.waiting == 0)


def has_settled(history: list[tuple[float, dict[str, int]]], name: str, settle_s: float) -> bool:
    """The definition, word by word: the last looks in a row that show the file as it is now."""
    version = history[-1][1][name]
    times = []
    for time, files in reversed(history):
        if files.get(name) != version:
            break
        times.append(time)
    return len(times) >= 3 and times[0] - times[-1] >= settle_s


@given(steps(), st.floats(0.01, 100), st.dictionaries(st.sampled_from("abc"), st.integers(0, 1), min_size=1))
def test_whatever_happened_files_left_alone_become_ready(
    scans: list[tuple[float, dict[str, int]]], settle_s: float, last: dict[str, int]
) -> None:
    clock = Clock()
    settling = Settling(clock, settle_s, 1000)
    for wait, files in scans:
        clock.now += wait
        settling.observe([seen(name, version) for name, version in files.items()])
    files_ = [seen(name, version) for name, version in last.items()]
    settling.observe(files_)
    started = clock.now
    while (due := settling.next_due_s()) is not None:
        assert clock.now - started <= 1.5 * settle_s + 0.1, "it should have settled"
        clock.now += due
        settling.observe(files_)
    assert set(settling.ready) == set(files_)
