from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fakes import FakeExecutor
from test_daemon import Shown, Watched

from pipeline.errors import DiskError
from pipeline.spec.config import Config, read_config
from pipeline.watch.daemon import watch_inbox
from pipeline.watch.events import Waker
from pipeline.watch.setup import WatchOptions
from pipeline.watch.sheets import END_S, PAUSE, Sheets

CONFIG = Config().resolved(Path("/work"))
A, B = Path("/outbox/a"), Path("/outbox/b")


class Renewing:
    """Notes which sheets are renewed, on a clock of its own."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.renewed: list[Path] = []
        self.incomplete = 0
        self.fault: DiskError | None = None
        self.sheets = Sheets(self.renew, lambda: self.now)

    def renew(self, folder: Path, originals: tuple[tuple[Path, Path], ...], limit_s: float) -> bool:
        assert originals == ((Path("/work/inbox"), Path("/work/archive")),)
        self.now += self.seconds
        self.renewed.append(folder)
        if self.fault:
            raise self.fault
        self.incomplete -= 1
        return self.incomplete < 0

    def idle(self, seconds: float) -> None:
        """Do nothing else for some time."""
        until = self.now + seconds
        while self.now < until:
            self.sheets.renew_if_due(FakeExecutor(), CONFIG)
            self.now += 1


def test_a_sheet_is_renewed_once_for_all_changes_before() -> None:
    one = Renewing()
    one.idle(5)
    assert one.renewed == []
    one.sheets.note_change(A)
    one.sheets.note_change(A)
    one.idle(200)
    assert one.renewed == [A]


def test_renewals_take_a_small_share_of_the_time() -> None:
    one = Renewing(seconds=3)
    for _ in range(2000):
        one.sheets.note_change(A)
        one.sheets.note_change(B)
        one.idle(1)
    assert 3 * len(one.renewed) / one.now == pytest.approx(1 / PAUSE, rel=0.1)
    assert set(one.renewed) == {A, B}


def test_a_sheet_whose_thumbnails_took_too_long_is_continued_later() -> None:
    one = Renewing()
    one.incomplete = 2
    one.sheets.note_change(A)
    one.idle(500)
    assert one.renewed == [A, A, A]


def test_at_the_end_all_are_renewed_at_once_but_not_for_ever() -> None:
    one = Renewing()
    one.sheets.note_change(A)
    one.idle(1)
    one.sheets.note_change(A)
    one.sheets.note_change(B)
    one.sheets.renew_all(FakeExecutor(), CONFIG)
    assert one.renewed == [A, A, B]
    one.incomplete = 10_000
    one.sheets.note_change(A)
    one.sheets.renew_all(FakeExecutor(), CONFIG)
    assert len(one.renewed) == 3 + END_S


def test_a_sheet_that_cannot_be_written_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    one = Renewing()
    one.fault = DiskError("index.html: is someone's.", "Move it.")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            one.sheets.note_change(A)
            one.idle(100)
    assert one.renewed == [A, A, A]
    assert caplog.messages == ["the sheet of a was not written: index.html: is someone's. Move it."]


def test_without_a_way_to_renew_them_there_are_no_sheets() -> None:
    sheets = Sheets()
    sheets.note_change(A)
    sheets.renew_if_due(FakeExecutor(), CONFIG)
    sheets.renew_all(FakeExecutor(), CONFIG)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_daemon_renews_the_sheets_of_its_batches_unless_it_was_stopped(
    tmp_path: Path, stopped: bool
) -> None:
    watched, renewed, done = Watched(tmp_path), [], []
    watched.drop("a.png")
    watched.drop("b.png")

    def renew(folder: Path, originals: object, limit_s: float) -> bool:
        renewed.append((folder, len(done)))
        return True

    class Counting(Shown):
        def job_finished(self, finished: object) -> None:
            done.append(finished)

    config, waker = read_config(watched.folder / "config.yaml"), Waker(watched.inbox, "off")
    watch_inbox(
        config, WatchOptions(once=True), Counting(), lambda config, tick: FakeExecutor(), waker,
        should_stop=lambda: stopped and len(done) == 2, renew_sheet=renew,
    )  # fmt: skip
    folder = watched.folder / "outbox/inbox"
    assert renewed[0] == (folder, 1)
    assert ((folder, 2) in renewed) is not stopped


def test_a_daemon_that_starts_checks_the_sheets_of_its_own_batches(tmp_path: Path) -> None:
    watched, renewed = Watched(tmp_path), []
    for name in ("inbox", "other"):
        (watched.folder / "outbox" / name).mkdir(parents=True)

    def renew(folder: Path, originals: object, limit_s: float) -> bool:
        renewed.append(folder.name)
        return True

    config, waker = read_config(watched.folder / "config.yaml"), Waker(watched.inbox, "off")
    watch_inbox(
        config, WatchOptions(), Shown(), lambda config, tick: FakeExecutor(), waker,
        should_stop=lambda: bool(renewed), renew_sheet=renew,
    )  # fmt: skip
    assert renewed == ["inbox"]
