from __future__ import annotations

import errno
import io
import logging
import re
from math import nan
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from sample_events import HOSTILE, QUEUE, console, make_finished, make_job, watch_everything

from pipeline.cli.display import Display
from pipeline.cli.eventlog import EventLog, is_not_shown_live
from pipeline.cli.live import Forecast, LiveRows
from pipeline.cli.logs import LineHandler, TextFormatter, logging_to
from pipeline.cli.streams import guarded
from pipeline.spec.jobs import EncoderInfo, StepProgress
from pipeline.spec.text import one_line
from pipeline.watch.heartbeat import Queue

LONG = "photo-of-the-harbour-at-night--the-great-wave-off-kanagawa"


def shown(live: LiveRows, width: int = 120) -> list[str]:
    """What the live display shows now on a terminal of a width, a line each."""
    live.console.width = width
    screen, file = console(width, terminal=True)
    screen.print(live.render())
    return file.getvalue().splitlines()


def test_the_live_display_shows_batch_step_size_and_loss() -> None:
    screen, file = console(width=120, terminal=True)
    with LiveRows(screen, Forecast(2)) as live:
        live.encoder_chosen(EncoderInfo("vgg19", "0123456789abcdef"))
        live.job_started(make_job(), "a--s")
        assert [line.split() for line in shown(live)] == [["batch", "0/2"], ["a--s", "0/7"]]
        live.job_step("a--s", StepProgress(3, 9, 64, 48, 0.123456, 0.1, 0.02, left_s=9))
        batch, job = shown(live)
        assert "0/2" in batch
        for part in ("3/9", " left", "64 x 48", "loss 0.1235", "content 0.1, style 0.02"):
            assert part in job
        live.job_finished(make_finished("done", path=Path("/out/a--s.png"), seconds=1))
        (batch,) = shown(live)
        assert "1/2" in batch
        live.job_finished(make_finished("skipped", "b--s"))
        assert "2/2" in shown(live)[0]
    assert file.getvalue().endswith("\x1b[2K")  # erased


def test_a_step_that_takes_long_shows_its_tile() -> None:
    screen, _ = console(width=120, terminal=True)
    live = LiveRows(screen)
    live.job_started(make_job(), "a--s")
    live.job_step("a--s", StepProgress(0, 9, 64, 48, nan, nan, nan, tile=1, tiles=8))
    (job,) = shown(live)
    assert "0/9" in job
    assert "tile 1 of 8" in job
    assert "nan" not in job
    live.job_step("a--s", StepProgress(4, 9, 64, 48, 0.5, 0.2, 0.3, tile=4, tiles=8))
    (half,) = live._rows()
    assert half.done + half.begun == 4.5
    live.job_step("a--s", StepProgress(5, 9, 64, 48, 0.5, 0.2, 0.3))
    (job,) = shown(live)
    assert "5/9" in job
    assert "tile" not in job


@pytest.mark.parametrize(("width", "bar"), [(60, 12), (80, 15), (100, 15), (120, 15)])
def test_bar_count_and_time_left_come_first(width: int, bar: int) -> None:
    now = [100.0]
    screen, _ = console(width, terminal=True)
    live = LiveRows(screen, Forecast(28, clock=lambda: now[0]))
    live.job_started(make_job(), LONG)
    now[0] += 3600
    live.job_step(LONG, StepProgress(300, 300, 512, 341, 0.5, 0.2, 0.3, left_s=0))
    batch, job = shown(live, width)
    assert max(map(cell_len, (batch, job))) <= width - 4
    assert "0/28 " in batch
    assert batch.rstrip().endswith("27 h 0 min left")
    assert job.count("━") >= bar
    assert "300/300  0.0 s left" in job
    assert job.startswith("photo-of-the-ha")
    assert ("512 x 341" in job, "loss 0.5" in job) == (width >= 100, width >= 100)


def test_what_has_no_room_at_all_leaves_the_count() -> None:
    live = LiveRows(console(20, terminal=True)[0], Forecast(28))
    live.job_started(make_job(), LONG)
    assert all(cell_len(line) <= 20 for line in shown(live, 20))
    assert "0/28" in shown(live, 20)[0]


def test_the_first_time_left_is_what_was_seen_before() -> None:
    now = [100.0]
    forecast = Forecast(5, lambda recipe, encoder: 60.0 if encoder else 0.0, lambda: now[0])
    assert forecast.remaining_seconds() is None
    forecast.job_finished(make_finished("skipped"), was_running=False)
    forecast.job_started(make_job().recipe, "vgg19")
    assert forecast.remaining_seconds() == 4 * 60
    now[0] += 120  # it takes twice as long
    forecast.job_finished(make_finished("done", path=Path("/out/a--s.png")), was_running=True)
    assert forecast.remaining_seconds() == 3 * 90


def test_without_any_speed_known_the_time_left_comes_with_the_first_step() -> None:
    now = [100.0]
    live = LiveRows(console()[0], Forecast(2, clock=lambda: now[0]))
    live.job_started(make_job(), "a--s")
    assert " left" not in shown(live)[0]
    now[0] += 10
    live.job_step("a--s", StepProgress(1, 4, 64, 48, 0.5, 0.2, 0.3))
    assert shown(live)[0].rstrip().endswith("0/2  1 min left")
    assert live.forecast.remaining_seconds(running=1 / 4) == 70


def test_after_a_signal_the_live_display_says_so_and_leaves_no_bar() -> None:
    screen, file = console(width=100, terminal=True)
    with LiveRows(screen, Forecast(2)) as live:
        live.job_started(make_job(), "a--s")
        live.job_step("a--s", StepProgress(3, 9, 64, 48, 0.5, 0.1, 0.02))
        live.stopping()
        assert shown(live)[0].startswith("Stopping; what is done is kept")
    text = file.getvalue()
    assert text.rindex("\x1b[?25h") > text.index("\x1b[?25l")  # the cursor is there, even after a kill
    assert text.endswith("\x1b[2K")  # erased


def test_a_skipped_job_needs_no_start() -> None:
    screen, _ = console(terminal=True)
    with LiveRows(screen, Forecast(1)) as live:
        live.job_finished(make_finished("skipped"))


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(name) < 100])
def test_the_live_display_shows_any_name_on_one_line(name: str) -> None:
    live = LiveRows(console(400, terminal=True)[0], Forecast(1))
    live.job_started(make_job(), name)
    _, job = shown(live, 400)
    assert one_line(name)[:30] in job
    assert job.isprintable()


# A watched folder


def row(live: LiveRows, queue: Queue = QUEUE, width: int = 80) -> str:
    """What the live display of a watched folder shows now."""
    live.queue(queue)
    (line,) = shown(live, width)
    return line.rstrip()


def test_the_live_watch_shows_queue_and_job() -> None:
    live = LiveRows(console(80, terminal=True)[0])
    assert shown(live) == ["starting"]
    assert row(live) == "3 waiting, 2 settling, 5 done, 1 quarantined"
    live.job_started(make_job(), "a--s")
    assert re.fullmatch(r"a--s \W* ?0/7  3 waiting, 2 settling, 5 done, 1 quarantined", row(live))
    live.job_step("a--s", StepProgress(40, 300, 64, 48, 0.5, 0.2, 0.3, left_s=520))
    queue = Queue(2, 0, 6, 0)
    assert re.match(r"a--s \W*40/300  9 min left  2 waiting, 6 done", row(live, queue))
    live.job_finished(make_finished("done", path=Path("/out/a--s.png"), seconds=1))
    assert row(live, queue) == "2 waiting, 6 done"
    live.notify("stopping", "stopping")
    assert shown(live, 80)[0].startswith("Stopping; what is done is kept")


def test_the_live_watch_says_that_someone_paused_it() -> None:
    live = LiveRows(console(80, terminal=True)[0])
    live.notify("paused_by_user", "paused by a user")
    assert shown(live, 80)[0].startswith("Paused by a user; `style-pipeline resume`")
    live.notify("stopping", "stopping")
    assert shown(live, 80)[0].startswith("Stopping; what is done is kept")
    live = LiveRows(console(80, terminal=True)[0])
    live.notify("paused_by_user", "paused by a user")
    live.notify("resumed_by_user", "resumed by a user")
    assert shown(live, 80) == ["starting"]


@pytest.mark.parametrize("width", [200, 80, 50, 20])
@pytest.mark.parametrize("name", ["wedding/day1/a-very-long-name--starry_night", "字" * 40, "a--s"])
def test_the_row_of_the_live_watch_fits(name: str, width: int) -> None:
    live = LiveRows(console(width, terminal=True)[0])
    live.job_started(make_job(), name)
    live.job_step(name, StepProgress(40, 300, 64, 48, 0.5, 0.2, 0.3, left_s=3900))
    line = row(live, Queue(12, 3, 456, 7), width)
    assert cell_len(line) <= width
    assert line[0] == name[0]
    if width >= 80:
        assert "40/300  1 h 5 min left  12 waiting, 3 settling, 456 done, 7 quarantined" in line
    assert ("loss 0.5" in line) == (width >= 200)


# Beside the log


def test_lines_of_the_log_are_printed_whole_above_the_rows() -> None:
    """With brackets and longer than the terminal, but not those that the rows show already."""
    screen, file = console(width=40, terminal=True)
    long = f"read [bold]{'x' * 100}[/bold]"
    with LiveRows(screen, Forecast(2)) as rows:
        handler = LineHandler(rows.print, TextFormatter(datefmt="%H:%M:%S"))
        handler.addFilter(is_not_shown_live)
        with logging_to(handler, logging.DEBUG):
            display = Display(EventLog(), rows)
            display.job_started(make_job(), "a--s")
            display.job_step("a--s", StepProgress(3, 7, 64, 48, 0.5, 0.2, 0.3))
            logging.getLogger("pipeline.somewhere").info(long)
            display.stopping()
            display.notify("word", "the end")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")
    assert re.findall(r"^\d\d:\d\d:\d\d (.*)$", text, re.MULTILINE) == [long, "the end"]


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(name) < 100])
def test_the_live_watch_shows_every_event_whatever_the_name(name: str) -> None:
    screen, file = console(width=400, terminal=True)
    with LiveRows(screen) as rows, logging_to(LineHandler(rows.print, TextFormatter()), logging.INFO):
        watch_everything(Display(rows, EventLog()), name)
    text = file.getvalue()
    text.encode()
    assert f"quarantined {one_line(name)}\n" in text
    assert "The worker ended." in text


def test_a_terminal_that_went_away_ends_no_watch() -> None:
    class Terminal(io.RawIOBase):
        gone = False
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            if self.gone:
                raise OSError(errno.EIO, "Input/output error")
            self.written += bytes(data)
            return len(data)

    terminal = Terminal()
    stderr = io.TextIOWrapper(io.BufferedWriter(terminal))
    screen = Console(file=guarded(stderr, 2), width=80, force_terminal=True, color_system=None)
    with LiveRows(screen) as rows, logging_to(LineHandler(rows.print, TextFormatter()), logging.INFO):
        terminal.gone = True
        display = Display(EventLog(), rows)
        watch_everything(display)
        terminal.gone = False
        display.notify("word", "here again")
        assert b"here again" in terminal.written
        assert b"The worker ended" not in terminal.written
        terminal.gone = True


def test_a_pause_ends_the_rows_of_what_ran() -> None:
    screen, _ = console(width=80, terminal=True)
    live = LiveRows(screen)
    live.queue(Queue(2, 0, 0, 0))
    live.job_started(make_job(), "a--s")
    assert shown(live, 80)[0].startswith("a--s")
    live.notify("paused", "paused: the disk is full")
    assert shown(live, 80) == [Queue(2, 0, 0, 0).short]
