from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeExecutor, Workshop
from rich.cells import cell_len
from rich.console import Console

from pipeline.batch.runner import Runner
from pipeline.batch.summary import Finished, Status, Summary
from pipeline.cli import display
from pipeline.cli.display import (
    JsonLines,
    LiveDisplay,
    LogLines,
    WatchLive,
    WatchLog,
    duration,
    failure_lines,
    finished_line,
    finished_object,
    first_time,
    summary_line,
)
from pipeline.errors import WorkerLost
from pipeline.spec.jobs import EncoderInfo, Job, StepProgress, Style
from pipeline.spec.recipe import Recipe
from pipeline.spec.text import counted
from pipeline.storage.files import one_line
from pipeline.watch.heartbeat import Queue

# Whatever a file may be called: markup, a link, an emoji's code, other letters, and long.
ODD_NAMES = [
    "photo [bold]--[/red] x",
    "[link=http:x]a[/link]",
    "a:smile:b :warning: c",
    "Übung 字 ☂--naïve",
    "{task.description} %s {0}",
    "x" * 180,
    "back\\slash \\[a]",
]
HOSTILE = [*ODD_NAMES, "caf\udce9", "a\nb", "a\r\nb", "\x1b[31mred", "\x85\u2028", "\0"]


def make_job(content: str = "/in/a.png", style: str = "s") -> Job:
    recipe = Recipe(size=64, pyramid=0, steps=7)
    return Job("night", Path(content), Style(style, ((Path("/in/s.png"), 1.0),)), recipe, "a--s")


def make_finished(status: Status, name: str = "a--s", **changes: Any) -> Finished:
    return Finished(changes.pop("job", make_job()), name, status, "k" * 64, **changes)


def console(width: int = 60, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=terminal, color_system=None), file


def lines(file: io.StringIO) -> list[str]:
    """What was written, without the time of day."""
    written = file.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in written), written
    return [line[9:] for line in written]


# Log lines


def test_one_line_per_event() -> None:
    screen, file = console()
    log = LogLines(screen, total=3)
    log.encoder_chosen(EncoderInfo("vgg19-slim", "0123456789abcdef", "vgg19 is not here."))
    log.job_started(make_job(), "a--s")
    for step in range(1, 4):
        log.job_step("a--s", StepProgress(step, 7, 64, 48, 0.5, 0.2, 0.3))
    log.job_finished(make_finished("done", path=Path("/out/night/a--s.png"), seconds=12.34))
    log.job_finished(make_finished("skipped"))
    log.job_finished(make_finished("failed", error="/in/a.png: no picture.", next_step="Look at it."))
    assert lines(file) == [
        "encoder vgg19-slim (01234567)",
        "vgg19 is not here.",
        "started a--s (64 px, 7 steps)",
        "[1/3] done a--s in 12.3 s: /out/night/a--s.png",
        "skipped 1, done already",
        "[3/3] failed a--s: /in/a.png: no picture. Look at it.",
    ]


def test_a_job_that_was_stopped_is_not_counted() -> None:
    screen, file = console()
    log = LogLines(screen, total=2)
    log.job_finished(make_finished("stopped"))
    log.job_finished(make_finished("done", path=Path("/out/a.png")))
    first, second = lines(file)
    assert first.startswith("[0/2] stopped a--s")
    assert second.startswith("[1/2] done")


def test_a_single_step_and_a_single_picture_are_said_so() -> None:
    screen, file = console()
    job = replace(make_job(), recipe=Recipe(size=64, pyramid=0, steps=1))
    LogLines(screen, 1).job_started(job, "a--s")
    assert lines(file) == ["started a--s (64 px, 1 step)"]
    assert summary_line(make_summary(1, skipped=1), "/out").startswith("Nothing to do: the picture is there")


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_plurals_agree(number: int, text: str) -> None:
    assert counted(number, "file") == text


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ODD_NAMES])
def test_no_name_breaks_a_line_of_a_run(name: str) -> None:
    screen, file = console(width=40)
    log = LogLines(screen, total=1)
    job = make_job(content=f"/in/{name}.png")
    log.job_started(job, name)
    log.worker_lost(job, WorkerLost("It ended."))
    log.job_finished(
        make_finished("failed", name, job=job, error=f"/in/{name}: bad.", notes=(f"{name}: odd",))
    )
    assert len(lines(file)) == 4
    assert all(line.isprintable() for line in file.getvalue().split("\n"))
    file.getvalue().encode()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_shown_as_they_are(name: str) -> None:
    screen, file = console(width=40)
    log = LogLines(screen, total=1)
    log.job_started(make_job(), name)
    log.job_finished(make_finished("failed", name, error=f"/in/{name}: cannot be read.", next_step="Look."))
    started, failed = lines(file)
    assert started == f"started {name} (64 px, 7 steps)"
    assert failed == f"[1/1] failed {name}: /in/{name}: cannot be read. Look."


def test_a_log_is_plain_text() -> None:
    """No colours and no cursor movements: it is for files and cron."""
    screen, file = console(terminal=True)
    LogLines(screen, total=1).job_finished(make_finished("done", path=Path("/out/1 'two' 3.png")))
    assert "\x1b" not in file.getvalue()


# The live display


LONG = "photo-of-the-harbour-at-night--the-great-wave-off-kanagawa"


def shown(live: LiveDisplay, width: int = 120) -> list[str]:
    """What the live display shows now on a terminal of a width, a line each."""
    live.console.width = width
    screen, file = console(width, terminal=True)
    screen.print(live._table())
    return file.getvalue().splitlines()


def test_the_live_display_shows_batch_step_size_and_loss() -> None:
    screen, file = console(width=120, terminal=True)
    with LiveDisplay(screen, total=2) as live:
        live.encoder_chosen(EncoderInfo("vgg19", "0123456789abcdef"))
        live.job_started(make_job(), "a--s")
        assert [line.split() for line in shown(live)] == [["batch", "0/2"], ["a--s", "0/7"]]
        live.job_step("a--s", StepProgress(3, 9, 64, 48, 0.123456, 0.1, 0.02))
        batch, job = shown(live)
        assert "0/2" in batch
        for part in ("3/9", " left", "64 x 48", "loss 0.1235", "content 0.1, style 0.02"):
            assert part in job
        live.job_finished(make_finished("done", path=Path("/out/a--s.png"), seconds=1))
        (batch,) = shown(live)
        assert "1/2" in batch
        live.job_finished(make_finished("skipped", "b--s"))
        assert "2/2" in shown(live)[0]
    assert "done a--s" in file.getvalue()
    assert "encoder vgg19" in file.getvalue()


@pytest.mark.parametrize(("width", "bar"), [(60, 12), (80, 15), (100, 15), (120, 15)])
def test_bar_count_and_time_left_come_first(width: int, bar: int) -> None:
    now = [100.0]
    live = LiveDisplay(console(width, terminal=True)[0], 28, lambda: now[0])
    live.job_started(make_job(), LONG)
    now[0] += 3600
    live.job_step(LONG, StepProgress(300, 300, 512, 341, 0.5, 0.2, 0.3))
    batch, job = shown(live, width)
    assert max(map(cell_len, (batch, job))) <= width - 4
    assert "0/28 " in batch
    assert batch.rstrip().endswith("27 h 0 min left")
    assert job.count("━") >= bar
    assert "300/300  0.0 s left" in job
    assert job.startswith("photo-of-the-ha")
    assert ("512 x 341" in job, "loss 0.5" in job) == (width >= 100, width >= 100)


def test_what_has_no_room_at_all_leaves_the_count() -> None:
    live = LiveDisplay(console(20, terminal=True)[0], 28)
    live.job_started(make_job(), LONG)
    assert all(cell_len(line) <= 20 for line in shown(live, 20))
    assert "0/28" in shown(live, 20)[0]


def test_the_first_time_left_is_what_was_seen_before() -> None:
    now = [100.0]
    live = LiveDisplay(
        console()[0], 5, lambda: now[0], expected=lambda recipe, encoder: 60.0 if encoder else 0.0
    )
    assert live.remaining_seconds() is None
    live.encoder_chosen(EncoderInfo("vgg19", "0123456789abcdef"))
    live.job_finished(make_finished("skipped"))
    live.job_started(make_job(), "a--s")
    assert live.remaining_seconds() == 4 * 60
    now[0] += 120  # it takes twice as long
    live.job_finished(make_finished("done", path=Path("/out/a--s.png")))
    assert live.remaining_seconds() == 3 * 90


def test_without_any_speed_known_the_time_left_comes_with_the_first_step() -> None:
    now = [100.0]
    live = LiveDisplay(console()[0], 2, lambda: now[0])
    live.job_started(make_job(), "a--s")
    assert live.remaining_seconds() is None
    now[0] += 10
    live.job_step("a--s", StepProgress(1, 4, 64, 48, 0.5, 0.2, 0.3))
    assert live.remaining_seconds() == 70


def test_after_a_signal_the_live_display_says_so_and_leaves_no_bar() -> None:
    screen, file = console(width=100, terminal=True)
    with LiveDisplay(screen, total=2) as live:
        live.job_started(make_job(), "a--s")
        live.job_step("a--s", StepProgress(3, 9, 64, 48, 0.5, 0.1, 0.02))
        live.stopping()
        assert shown(live)[0].startswith("Stopping after the current step")
    text = file.getvalue()
    assert text.rindex("\x1b[?25h") > text.index("\x1b[?25l")  # the cursor is there, even after a kill
    assert text.endswith("\x1b[2K")  # erased


def test_a_signal_is_told_of_past_all_buffers() -> None:
    written: list[str] = []
    LogLines(console()[0], 1, written.append).stopping()
    assert written == ["Stopping after the current step; once more to stop at once."]

    def refuse(line: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    LogLines(console()[0], 1, refuse).stopping()


def test_a_note_about_the_encoder_is_said_once(tmp_path: Path) -> None:
    encoder = EncoderInfo("vgg19-slim", "0123456789abcdef", "vgg19 is not here.")
    said = []
    for _ in range(2):
        screen, file = console()
        LogLines(screen, 1, is_news=first_time(tmp_path)).encoder_chosen(encoder)
        said.append(lines(file))
    assert said == [
        ["encoder vgg19-slim (01234567)", "vgg19 is not here."],
        ["encoder vgg19-slim (01234567)"],
    ]
    written: list[str] = []
    WatchLog(written.append, False, first_time(tmp_path)).encoder_chosen(encoder)
    assert len(written) == 1
    other = replace(encoder, note="No network.")
    WatchLog(written.append, False, first_time(tmp_path)).encoder_chosen(other)
    assert written[-1].endswith("No network.")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_what_was_said_is_kept_for_its_owner_alone_and_said_again_where_it_cannot_be(tmp_path: Path) -> None:
    state = tmp_path / "home/state"
    assert first_time(state)("a note")
    assert [folder.stat().st_mode & 0o777 for folder in (state.parent, state, state / "said")] == [0o700] * 3
    (tmp_path / "file").touch()
    is_news = first_time(tmp_path / "file")
    assert is_news("a note")
    assert is_news("a note")


def test_a_state_that_may_not_be_looked_at_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    assert first_time(tmp_path)("a note")


def test_a_skipped_job_needs_no_start() -> None:
    screen, _ = console(terminal=True)
    with LiveDisplay(screen, total=1) as live:
        live.job_finished(make_finished("skipped"))


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(name) < 100])
def test_the_live_display_shows_any_name_on_one_line(name: str) -> None:
    live = LiveDisplay(console(400, terminal=True)[0], total=1)
    live.job_started(make_job(), name)
    _, job = shown(live, 400)
    assert one_line(name)[:30] in job
    assert job.isprintable()


# JSON


def failures(*errors: str) -> list[dict[str, str]]:
    names = (f"{number}--s" for number in range(99))
    return [
        {"name": name, "key": "", "error": error, "next_step": "Look."}
        for name, error in zip(names, errors, strict=False)
    ]


def test_failures_of_one_input_are_told_together() -> None:
    summary = make_summary(9, failed=6, failures=failures("s bad.", "x bad.", *["s bad."] * 4))
    assert failure_lines(summary) == [
        "failed 0--s, 2--s, 3--s and 2 more: s bad. Look.",
        "failed 1--s: x bad. Look.",
    ]
    many = make_summary(20, failed=12, failures=failures(*(f"{number} bad." for number in range(12))))
    assert len(failure_lines(many)) == 11
    assert failure_lines(many)[-1] == "and 2 other faults"


def test_what_was_left_out_of_a_picture_is_told() -> None:
    screen, log = console()
    LogLines(screen, 1).job_finished(make_finished("done", notes=("dance.gif: one frame.",)))
    assert log.getvalue().splitlines()[-1].endswith("note: dance.gif: one frame.")
    lines: list[str] = []
    WatchLog(lines.append, as_json=False).job_finished(
        make_finished("done", notes=("dance.gif: one frame.",))
    )
    assert lines[-1].endswith("note: dance.gif: one frame.")


def test_one_object_per_finished_job_and_nothing_else() -> None:
    screen, log = console()
    stream = io.StringIO()
    shown = JsonLines(screen, 3, stream)
    shown.encoder_chosen(EncoderInfo("vgg19", "0123456789abcdef", "a note"))
    shown.job_started(make_job(), "a--s")
    shown.job_step("a--s", StepProgress(1, 7, 64, 48, 0.5, 0.2, 0.3))
    assert stream.getvalue() == ""
    shown.job_finished(make_finished("done", path=Path("/out/a--s.png"), seconds=1.23456))
    shown.job_finished(make_finished("failed", error="It broke.", next_step="Mend it."))
    shown.job_finished(make_finished("stopped"))
    done, failed, stopped = map(json.loads, stream.getvalue().splitlines())
    assert done == {
        "status": "done",
        "missing": False,
        "name": "a--s",
        "key": "k" * 64,
        "content": "/in/a.png",
        "style": "s",
        "path": "/out/a--s.png",
        "seconds": 1.235,
        "error": "",
        "next_step": "",
        "notes": [],
    }
    assert (failed["status"], failed["error"], failed["next_step"]) == ("failed", "It broke.", "Mend it.")
    assert failed["path"] is None
    assert stopped["status"] == "stopped"
    assert "done a--s" in log.getvalue()


@pytest.mark.parametrize("name", [*ODD_NAMES, "caf\udce9", "a\nb"])
def test_objects_hold_any_name_on_one_line(name: str) -> None:
    screen, _ = console()
    stream = io.StringIO()
    job = make_job(content=f"/in/{name}.png", style=name)
    JsonLines(screen, 1, stream).job_finished(make_finished("skipped", name, job=job))
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().isascii()
    read = json.loads(stream.getvalue())
    assert (read["name"], read["content"], read["style"]) == (name, f"/in/{name}.png", name)


def test_an_object_is_written_at_once() -> None:
    """Whoever reads the pipe sees a job when it is finished, not when the batch is."""

    class Pipe(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    pipe = Pipe()
    JsonLines(console()[0], 1, pipe).job_finished(make_finished("skipped"))
    assert pipe.flushed >= 1


# Sentences


@pytest.mark.parametrize(
    ("finished", "line"),
    [
        (
            make_finished("done", path=Path("/out/a.png"), seconds=75),
            "done a--s in 1 min: /out/a.png",
        ),
        (make_finished("skipped", path=Path("/out/a.png")), "skipped a--s: done already"),
        (make_finished("stopped"), "stopped a--s: goes on from here next time"),
        (make_finished("failed", error="It broke."), "failed a--s: It broke."),
        (make_finished("failed", error="It broke.", next_step="Mend it."), "failed a--s: It broke. Mend it."),
    ],
    ids=["done", "skipped", "stopped", "failed", "failed with a next step"],
)
def test_a_finished_job_is_one_sentence(finished: Finished, line: str) -> None:
    assert finished_line(finished) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.4, "59.4 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min"),
        (60, "1 min"),
        (119, "2 min"),
        (3599, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (5400, "1 h 30 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_time_spans_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def make_summary(jobs: int, **counts: Any) -> Summary:
    return Summary("night", jobs, seconds=counts.pop("seconds", 90.0), **counts)


@pytest.mark.parametrize(
    ("summary", "parts", "absent"),
    [
        (make_summary(3, done=3, seconds=9), ["3 done", "9.0 s"], ["failed", "already", "not begun"]),
        (make_summary(3, done=1, skipped=2), ["1 done", "2 there already"], ["failed", "not begun"]),
        (
            make_summary(3, skipped=2, missing=1),
            ["Nothing to do: 2 there", "1 deleted", "--missing"],
            ["all"],
        ),
        (
            make_summary(3, failed=1, reason="max_failures"),
            ["2 not begun or not finished (stopped after 1 failure: max_failures)"],
            ["deleted"],
        ),
        (make_summary(1, missing=1), ["Nothing to do: 1 deleted", "makes it again"], ["there already"]),
        (make_summary(3, done=2, missing=1), ["2 done, 1 deleted or renamed"], ["not begun"]),
        (make_summary(3, done=2, failed=1), ["2 done", "1 failed", "/out/night/summary.json"], ["not begun"]),
        (make_summary(5, done=2, stopped=True), ["2 done", "3 not begun or not finished"], ["failed"]),
        (make_summary(4, skipped=4), ["Nothing to do", "4"], ["failed", "not begun"]),
    ],
    ids=[
        "done",
        "skipped",
        "nothing but missing",
        "too many failures",
        "nothing but one missing",
        "missing",
        "failed",
        "stopped",
        "nothing",
    ],
)
def test_the_last_line_says_how_it_went(summary: Summary, parts: list[str], absent: list[str]) -> None:
    line = summary_line(summary, "/out/night")
    assert "\n" not in line
    assert "/out/night" in line
    assert [part for part in parts if part not in line] == []
    assert [part for part in absent if part in line] == []


def test_a_finished_object_is_plain_data() -> None:
    plain = finished_object(make_finished("done", path=Path("/out/a.png")))
    assert json.loads(json.dumps(plain)) == plain


# With a real run


@pytest.mark.parametrize(
    "make", [LogLines, LiveDisplay, lambda c, n: JsonLines(c, n, io.StringIO())], ids=["log", "live", "json"]
)
def test_every_display_follows_a_run(make: Callable[[Console, int], LogLines], workshop: Workshop) -> None:
    from pipeline.storage.ledger import Ledger
    from pipeline.storage.outbox import BatchFolder

    screen, file = console(width=200)
    batch = workshop.read()
    shown = make(screen, len(batch))
    ledger = Ledger(workshop.state)
    runner = Runner(BatchFolder(workshop.outbox, batch.name), ledger, FakeExecutor({"a": "fail"}), shown)
    summary = runner.run(batch.jobs, len(batch))
    ledger.close()
    assert shown.finished == 4
    text = file.getvalue()
    assert text.count("told to fail") == 2
    assert text.count("] done b--") == 2
    assert "a note" in text
    assert "2 failed" in summary_line(summary, str(workshop.batch_folder))


# A watched folder

QUEUE = Queue(waiting=3, settling=2, done=5, quarantined=1)


def watch_everything(log: WatchLog, name: str = "a--s") -> None:
    """Let a daemon's whole life be shown."""
    job = make_job(content=f"/in/{name}.png", style=name)
    log.notify("watching", "watching /in; results go to /out", inbox="/in", settle_s=2.0)
    log.encoder_chosen(EncoderInfo("vgg19-slim", "0123456789abcdef", "vgg19 is not here."))
    log.queue(QUEUE)
    log.job_started(job, name)
    log.job_step("a--s", StepProgress(3, 7, 64, 48, 0.5, 0.2, 0.3))
    log.worker_lost(job, WorkerLost("The worker ended."))
    log.job_finished(make_finished("done", name, job=job, path=Path(f"/out/{name}.png"), seconds=12.34))
    log.job_finished(make_finished("failed", name, job=job, error=f"/in/{name}.png: bad.", next_step="Look."))
    log.notify("quarantined", f"quarantined {name}", path=name, id="ID")


def test_a_line_for_everything_a_daemon_does() -> None:
    written: list[str] = []
    watch_everything(WatchLog(written.append, as_json=False))
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in written)
    assert [line[20:] for line in written] == [
        "watching /in; results go to /out",
        "encoder vgg19-slim (01234567)",
        "vgg19 is not here.",
        "started a--s (64 px, 7 steps)",
        "a--s.png: The worker ended.",
        "done a--s in 12.3 s: /out/a--s.png",
        "failed a--s: /in/a--s.png: bad. Look.",
        "quarantined a--s",
    ]


def test_an_object_for_everything_a_daemon_does() -> None:
    written: list[str] = []
    watch_everything(WatchLog(written.append, as_json=True))
    events = [json.loads(line) for line in written]
    assert [event["event"] for event in events] == [
        "watching", "encoder", "encoder", "started", "worker", "done", "failed", "quarantined",
    ]  # fmt: skip
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", event["time"])
        assert event["text"]
    watching, encoder, _, started, _, done, failed, aside = events
    assert (watching["inbox"], watching["settle_s"]) == ("/in", 2.0)
    assert (encoder["encoder"], encoder["digest"]) == ("vgg19-slim", "0123456789abcdef")
    assert (started["name"], started["steps"]) == ("a--s", 7)
    assert (done["status"], done["path"], done["seconds"]) == ("done", "/out/a--s.png", 12.34)
    assert (failed["error"], failed["next_step"]) == ("/in/a--s.png: bad.", "Look.")
    assert (aside["path"], aside["id"]) == ("a--s", "ID")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_name_breaks_a_line_of_a_watch(name: str, as_json: bool) -> None:
    written: list[str] = []
    watch_everything(WatchLog(written.append, as_json), name)
    for line in written:
        assert line.splitlines() == [line]
        assert line.isprintable()
        line.encode()
    if as_json:
        assert [json.loads(line) for line in written][-1]["path"] == name
    elif name in ODD_NAMES:
        assert sum(name in line for line in written) >= 4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Übung 字", "Übung 字"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("caf\udce9", "caf\\udce9"),
        ("\x1b[31m\u2028", "\\x1b[31m\\u2028"),
        ("", ""),
    ],
)
def test_any_text_is_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_long_job_is_told_of_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    written: list[str] = []
    log = WatchLog(written.append, as_json=True)
    for step in range(1, 10):
        now[0] += 10
        log.job_step("a--s", StepProgress(step, 9, 64, 48, 0.5, 0.2, 0.3))
    assert [json.loads(line)["step"] for line in written] == [3, 6, 9]


class Disk:
    """Takes lines as long as it is not full."""

    def __init__(self) -> None:
        self.full = False
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines.append(line)


@pytest.mark.parametrize("as_json", [False, True])
def test_lines_that_cannot_be_written_are_counted(as_json: bool) -> None:
    disk = Disk()
    log = WatchLog(disk.write, as_json)
    for number, disk.full in enumerate([False, True, True, True, False, False, True, False]):
        log.notify("word", f"line {number}")
    texts = [json.loads(line)["text"] if as_json else line[20:] for line in disk.lines]
    assert [text for text in texts if text.startswith("line")] == ["line 0", "line 4", "line 5", "line 7"]
    assert [re.findall(r"\d+ lines?$", text) for text in texts] == [[], ["3 lines"], [], [], ["1 line"], []]
    if as_json:
        assert [json.loads(line).get("lines") for line in disk.lines] == [None, 3, None, None, 1, None]


def test_a_line_about_lost_lines_may_be_lost_itself() -> None:
    def write(line: str) -> None:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        room.pop()
        written.append(line[20:])

    room: list[None] = []
    written: list[str] = []
    log = WatchLog(write, as_json=False)
    for places in (0, 1, 2):
        room[:] = [None] * places
        log.notify("word", f"line {places}")
    assert [text.endswith("1 line") or text for text in written] == [True, True, "line 2"]


def test_a_job_of_a_dropped_picture_fails_without_a_line_of_its_own() -> None:
    """The daemon quarantines the picture and says why; a program still gets the whole of it."""
    text: list[str] = []
    objects: list[str] = []
    job = replace(make_job("/inbox/.style-pipeline/claimed/ID/a.png"), origin=Path("/inbox/a.png"))
    for log in (WatchLog(text.append, as_json=False), WatchLog(objects.append, as_json=True)):
        log.job_finished(make_finished("failed", job=job, error="It broke."))
        log.job_finished(make_finished("done", job=job, path=Path("/out/a.png")))
    assert [line[20:] for line in text] == ["done a--s in 0.0 s: /out/a.png"]
    failed, done = map(json.loads, objects)
    assert (failed["event"], failed["error"], done["event"]) == ("failed", "It broke.", "done")
    assert failed["content"] == done["content"] == "/inbox/a.png"


class Watched:
    """A live display on a terminal of a width of one's choice, with a clock."""

    def __init__(self, width: int = 80) -> None:
        self.now = 100.0
        self.screen, self.file = console(width, terminal=True)
        self.live = WatchLive(self.screen, lambda: self.now)

    def step(self, number: int, seconds: float = 2.0) -> None:
        self.now += seconds
        self.live.job_step("a--s", StepProgress(number, 300, 64, 48, 0.5, 0.2, 0.3))

    def row(self) -> str:
        """What the row shows now."""
        self.file.truncate(0)
        self.file.seek(0)
        self.live.queue(self.shown)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.file.getvalue())
        assert "\n" not in text
        return text.rstrip()

    shown = QUEUE


def test_the_live_watch_shows_queue_and_job() -> None:
    watched = Watched()
    with watched.live as live:
        assert watched.row() == "waiting 3 wait, 2 settling, 5 done, 1 quarantined"
        live.job_started(make_job(), "a--s")
        assert re.fullmatch(r"a--s \W* ?0/7  3 wait, 2 settling, 5 done, 1 quarantined", watched.row())
        for number in range(1, 41):
            watched.step(number)
        watched.shown = Queue(2, 0, 6, 0)
        assert re.fullmatch(r"a--s \W*40/300  9 min left  2 wait, 6 done", watched.row())
        live.job_finished(make_finished("done", path=Path("/out/a--s.png"), seconds=1))
        assert watched.row() == "waiting 2 wait, 6 done"


@pytest.mark.parametrize("width", [200, 80, 50, 20])
@pytest.mark.parametrize("name", ["wedding/day1/a-very-long-name--starry_night", "字" * 40, "a--s"])
def test_the_row_of_the_live_watch_fits(name: str, width: int) -> None:
    watched = Watched(width)
    watched.shown = Queue(12, 3, 456, 7)
    with watched.live as live:
        live.job_started(make_job(), name)
        watched.step(1)
        watched.step(40, 600)
        row = watched.row()
        assert cell_len(row) <= width
        assert row[0] == name[0]
        if width >= 80:
            assert row.endswith("40/300  1 h 5 min left  12 wait, 3 settling, 456 done, 7 quarantined")


def test_a_running_job_is_not_drawn_at_every_step() -> None:
    watched = Watched()
    with watched.live as live:
        live.job_started(make_job(), "a--s")
        watched.row()
        before = watched.file.getvalue()
        watched.step(1, seconds=0.01)
        assert watched.file.getvalue() == before
        watched.step(2, seconds=1)
        assert "2/300" in watched.file.getvalue()


def test_a_terminal_that_went_away_ends_no_watch() -> None:
    class Terminal(io.StringIO):
        gone = False

        def write(self, text: str) -> int:
            if self.gone:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    file = Terminal()
    screen = Console(file=file, width=80, force_terminal=True, color_system=None)
    with WatchLive(screen) as live:
        file.gone = True
        watch_everything(live)
        live.queue(QUEUE)
        file.gone = False
        live.notify("word", "here again")
        assert re.search(r"lost before this: \d+ lines", file.getvalue())
        assert "here again" in file.getvalue()
        file.gone = True


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(name) < 100])
def test_the_live_watch_shows_every_event_whatever_the_name(name: str) -> None:
    screen, file = console(width=400, terminal=True)
    with WatchLive(screen) as live:
        watch_everything(live, name)
    text = file.getvalue()
    text.encode()
    assert f"quarantined {one_line(name)}\n" in text
    assert "The worker ended." in text


def test_what_was_deleted_is_not_said_to_be_done() -> None:
    on, file = console()
    shown = LogLines(on, 4)
    for missing in (False, True, True):
        shown.job_finished(make_finished("skipped", missing=missing))
    shown.job_finished(make_finished("done", path=Path("/out/a--s.png")))
    assert lines(file)[:2] == [
        "skipped 1, done already",
        "skipped 2, deleted or renamed since",
    ]
