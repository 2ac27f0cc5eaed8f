from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from sample_events import HOSTILE, ODD_NAMES, logged, make_finished, make_job, watch_everything

from pipeline.cli import eventlog
from pipeline.cli.eventlog import EventLog, RunLog, first_time
from pipeline.cli.logs import JsonFormatter
from pipeline.errors import WorkerLost
from pipeline.spec.jobs import EncoderInfo, StepProgress
from pipeline.spec.recipe import Recipe

# A run


def test_one_line_per_event() -> None:
    log = RunLog(total=3)
    with logged() as lines:
        log.encoder_chosen(EncoderInfo("vgg19-slim", "0123456789abcdef", "vgg19 is not here."))
        log.job_started(make_job(), "a--s")
        for step in range(1, 4):
            log.job_step("a--s", StepProgress(step, 7, 64, 48, 0.5, 0.2, 0.3))
        log.job_finished(make_finished("done", path=Path("/out/night/a--s.png"), seconds=12.34))
        log.job_finished(make_finished("skipped"))
        log.job_finished(make_finished("failed", error="/in/a.png: no picture.", next_step="Look at it."))
    assert lines == [
        "encoder vgg19-slim (01234567)",
        "vgg19 is not here.",
        "started a--s (64 px, 7 steps)",
        "[1/3] done a--s in 12.3 s: /out/night/a--s.png",
        "skipped 1, done already",
        "[3/3] failed a--s: /in/a.png: no picture. Look at it.",
    ]


def test_a_tile_of_a_long_step_is_logged_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.eventlog.STEP_EVERY_S", 0.0)
    log = RunLog(total=1)
    with logged() as lines:
        log.job_step("a--s", StepProgress(0, 7, 64, 48, nan, nan, nan, tile=3, tiles=8))
        log.job_step("a--s", StepProgress(1, 7, 64, 48, 0.5, 0.2, 0.3))
    assert lines == [
        "step 0/7 of a--s  tile 3 of 8  64 x 48",
        "step 1/7 of a--s  loss 0.5 (content 0.2, style 0.3)  64 x 48",
    ]


def test_a_job_that_was_stopped_is_not_counted() -> None:
    log = RunLog(total=2)
    with logged() as lines:
        log.job_finished(make_finished("stopped"))
        log.job_finished(make_finished("done", path=Path("/out/a.png")))
    first, second = lines
    assert first.startswith("[0/2] stopped a--s")
    assert second.startswith("[1/2] done")


def test_a_single_step_is_called_one() -> None:
    job = replace(make_job(), recipe=Recipe(size=64, pyramid=0, steps=1))
    with logged() as lines:
        RunLog(1).job_started(job, "a--s")
    assert lines == ["started a--s (64 px, 1 step)"]


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ODD_NAMES])
def test_no_name_breaks_a_line_of_a_run(name: str) -> None:
    log = RunLog(total=1)
    job = make_job(content=f"/in/{name}.png")
    failed = make_finished("failed", name, job=job, error=f"/in/{name}: bad.", notes=(f"{name}: odd",))
    with logged() as lines:
        log.job_started(job, name)
        log.worker_lost(job, WorkerLost("It ended."))
        log.job_finished(failed)
    assert len(lines) == 4
    for line in lines:
        assert line.isprintable()
        line.encode()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_shown_as_they_are(name: str) -> None:
    log = RunLog(total=1)
    failed = make_finished("failed", name, error=f"/in/{name}: cannot be read.", next_step="Look.")
    with logged() as lines:
        log.job_started(make_job(), name)
        log.job_finished(failed)
    assert lines == [
        f"started {name} (64 px, 7 steps)",
        f"[1/1] failed {name}: /in/{name}: cannot be read. Look.",
    ]


def test_what_was_deleted_is_not_said_to_be_done() -> None:
    log = RunLog(4)
    with logged() as lines:
        for missing in (False, True, True):
            log.job_finished(make_finished("skipped", missing=missing))
        log.job_finished(make_finished("done", path=Path("/out/a--s.png")))
    assert lines[:2] == ["skipped 1, done already", "skipped 2, deleted or renamed since"]


# A watched folder


def test_a_line_for_everything_a_daemon_does() -> None:
    with logged() as lines:
        watch_everything(EventLog())
    assert lines == [
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
    with logged(JsonFormatter()) as lines:
        watch_everything(EventLog())
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == [
        "watching", "encoder", "encoder", "started", "worker", "done", "failed", "quarantined",
    ]  # fmt: skip
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", event["time"])
        assert event["text"]
    watching, encoder, _, started, _, done, failed, quarantined = events
    assert (watching["inbox"], watching["settle_s"]) == ("/in", 2.0)
    assert (encoder["encoder"], encoder["digest"]) == ("vgg19-slim", "0123456789abcdef")
    assert (started["name"], started["steps"]) == ("a--s", 7)
    assert (done["status"], done["path"], done["seconds"]) == ("done", "/out/a--s.png", 12.34)
    assert (failed["error"], failed["next_step"]) == ("/in/a--s.png: bad.", "Look.")
    assert (quarantined["path"], quarantined["id"]) == ("a--s", "ID")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_name_breaks_a_line_of_a_watch(name: str, as_json: bool) -> None:
    with logged(JsonFormatter() if as_json else None) as lines:
        watch_everything(EventLog(), name)
    for line in lines:
        assert line.splitlines() == [line]
        assert line.isprintable()
        line.encode()
    if as_json:
        assert [json.loads(line) for line in lines][-1]["path"] == name
    elif name in ODD_NAMES:
        assert sum(name in line for line in lines) >= 4


@pytest.mark.parametrize("for_programs", [False, True])
def test_a_job_of_a_dropped_picture_fails_without_a_line_of_its_own(for_programs: bool) -> None:
    """The daemon quarantines the picture and says why; a program still gets the whole of it."""
    job = replace(make_job("/inbox/.style-pipeline/claimed/ID/a.png"), origin=Path("/inbox/a.png"))
    log = EventLog(for_programs=for_programs)
    with logged(JsonFormatter()) as lines:
        log.job_finished(make_finished("failed", job=job, error="It broke."))
        log.job_finished(make_finished("done", job=job, path=Path("/out/a.png")))
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == (["failed", "done"] if for_programs else ["done"])
    assert {event["content"] for event in events} == {"/inbox/a.png"}
    assert events[0]["error"] == ("It broke." if for_programs else "")


# Both


@pytest.mark.parametrize("log", [RunLog(1), EventLog()])
def test_what_was_left_out_of_a_picture_is_said(log: EventLog) -> None:
    with logged() as lines:
        log.job_finished(make_finished("done", notes=("dance.gif: one frame.",)))
    assert lines[-1] == "note: dance.gif: one frame."


@pytest.mark.parametrize(
    ("level", "steps"), [(logging.INFO, [3, 6, 9]), (logging.DEBUG, [*range(1, 10)]), (logging.WARNING, [])]
)
def test_steps_of_a_long_job_are_said_now_and_then(
    level: int, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(eventlog.time, "monotonic", lambda: now[0])
    log = EventLog()
    with logged(JsonFormatter(), level) as lines:
        for step in range(1, 10):
            now[0] += 10
            log.job_step("a--s", StepProgress(step, 9, 64, 48, 0.5, 0.2, 0.3))
    assert [json.loads(line)["step"] for line in lines] == steps


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_a_signal_is_answered_whatever_else_is_said(level: int) -> None:
    with logged(level=level) as lines:
        RunLog(1).stopping()
    assert lines == ["Stopping; what is done is kept. Once more to stop at once."]


def test_of_a_quiet_log_warnings_and_errors_are_left() -> None:
    with logged(level=logging.WARNING) as lines:
        watch_everything(RunLog(2))
    assert lines == [
        "a--s.png: The worker ended.",
        "[2/2] failed a--s: /in/a--s.png: bad. Look.",
        "quarantined a--s",
    ]


# A note about the encoder


def test_a_note_about_the_encoder_is_said_once(tmp_path: Path) -> None:
    encoder = EncoderInfo("vgg19-slim", "0123456789abcdef", "vgg19 is not here.")
    first, *others = "encoder vgg19-slim (01234567)", "vgg19 is not here."
    for expected in ([first, *others], [first]):
        with logged() as lines:
            RunLog(1, first_time(tmp_path)).encoder_chosen(encoder)
        assert lines == expected
    with logged() as lines:
        EventLog(first_time(tmp_path)).encoder_chosen(encoder)
        EventLog(first_time(tmp_path)).encoder_chosen(replace(encoder, note="No network."))
    assert lines == [first, first, "No network."]


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
