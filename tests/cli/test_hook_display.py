"""What hooks are told: docs/hooks.md promises these fields."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sample_events import HOSTILE, make_finished, make_job, watch_everything

from pipeline.batch.summary import Summary
from pipeline.cli.hook_display import FIELDS, MAX_FAILURES, HookDisplay
from pipeline.hooks.queues import Event, HookQueues
from pipeline.spec.config import Config

FOLDER = Path("/out/night")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What hooks are told, as objects."""
    found: list[dict[str, Any]] = []

    def tell(queues: HookQueues, event: Event) -> None:
        found.append(json.loads(event.data()))

    monkeypatch.setattr(HookQueues, "tell", tell)
    return found


def display(is_run: bool = True) -> HookDisplay:
    config = Config(outbox=Path("/out"), state_dir=Path("/state"), cache_dir=Path("/cache"))
    return HookDisplay(config.resolved(Path("/studio")), is_run)


def summary(**changes: Any) -> Summary:
    return Summary("night", 4, **{"done": 2, "failed": 1, "skipped": 1, **changes})


def test_a_picture_that_is_done(told: list[dict[str, Any]]) -> None:
    path = FOLDER / "a--s.png"
    display().job_finished(make_finished("done", path=path, seconds=12.34, notes=("odd",)))
    (event,) = told
    datetime.fromisoformat(event.pop("time"))
    assert event == {
        "event": "done",
        "text": "done a--s in 12.3 s: /out/night/a--s.png",
        "batch": "night",
        "name": "a--s",
        "status": "done",
        "folder": "/out/night",
        "path": "/out/night/a--s.png",
        "seconds": 12.34,
        "error": "",
        "next_step": "",
        "content": "/in/a.png",
        "style": "s",
        "record": "/out/night/logs/a--s.json",
        "log": "/out/night/logs/a--s.csv",
        "quarantine": None,
        "notes": ["odd"],
    }


def test_a_picture_that_failed(told: list[dict[str, Any]]) -> None:
    display().job_finished(make_finished("failed", error="/in/a.png: bad.", next_step="Look."))
    (event,) = told
    assert event["event"] == event["status"] == "failed"
    assert event["text"] == "failed a--s: /in/a.png: bad. Look."
    assert (event["error"], event["next_step"]) == ("/in/a.png: bad.", "Look.")
    assert event["path"] is event["log"] is None


@pytest.mark.parametrize("status", ["skipped", "stopped", "postponed"])
def test_a_picture_that_was_not_made_is_no_news(told: list[dict[str, Any]], status: Any) -> None:
    display().job_finished(make_finished(status))
    assert told == []


def test_a_dropped_picture_has_failed_once_and_in_quarantine(told: list[dict[str, Any]]) -> None:
    """However many styles it was to be made in."""
    hooks, job = display(is_run=False), make_job()
    dropped = type(job)(**{**vars(job), "drop": "ID", "origin": Path("/studio/inbox/sub/a.png")})
    hooks.job_finished(make_finished("failed", job=dropped, error="bad.", next_step="Look."))
    assert told == []
    facts = {"error": "bad.", "next_step": "Look.", "where": "/studio/quarantine/ID/a.png"}
    hooks.notify("quarantined", "quarantined sub/a.png: bad.", path="sub/a.png", id="ID", **facts)
    (event,) = told
    assert event["event"] == "failed"
    assert event["name"] == "sub/a.png"
    assert event["content"] == "/studio/inbox/sub/a.png"
    assert event["quarantine"] == "/studio/quarantine/ID/a.png"
    assert event["batch"] is event["style"] is event["path"] is None


def test_a_dropped_picture_is_known_by_where_it_was_dropped(told: list[dict[str, Any]]) -> None:
    job = make_job()
    dropped = type(job)(**{**vars(job), "drop": "ID", "origin": Path("/studio/inbox/a.png")})
    display(is_run=False).job_finished(make_finished("done", job=dropped, path=FOLDER / "a--s.png"))
    assert told[0]["content"] == "/studio/inbox/a.png"


def test_a_pause_and_its_end(told: list[dict[str, Any]]) -> None:
    hooks = display(is_run=False)
    hooks.notify("paused", "paused: Full. Free some space.", error="Full.", next_step="Free some space.")
    hooks.notify("resumed", "resumed")
    hooks.notify("settled", "settled a.png", path="a.png")
    paused, resumed = told
    assert paused["event"] == paused["status"] == "paused"
    assert (paused["error"], paused["next_step"]) == ("Full.", "Free some space.")
    assert (paused["inbox"], paused["outbox"], paused["name"]) == ("/studio/inbox", "/out", "inbox")
    assert resumed["event"] == "resumed"
    assert resumed["error"] == ""


def test_the_end_of_a_run_is_told_when_all_is_written(told: list[dict[str, Any]], tmp_path: Path) -> None:
    hooks, whole = display(), summary(seconds=60.0)
    whole.failures.append({"name": "b--s", "key": "k", "error": "bad.", "next_step": "Look."})
    hooks.batch_ended(whole, tmp_path)
    assert told == []
    hooks.close()
    (event,) = told
    datetime.fromisoformat(event.pop("time"))
    assert event == {
        **{name: value for name, value in FIELDS.items() if name != "time"},
        "event": "batch_ended",
        "text": event["text"],
        "batch": "night",
        "name": "night",
        "status": "finished",
        "folder": str(tmp_path),
        "seconds": 60.0,
        **{"jobs": 4, "done": 2, "failed": 1, "skipped": 1, "missing": 0, "left": 0},
        "failures": [{"name": "b--s", "error": "bad.", "next_step": "Look."}],
        "summary": str(tmp_path / "summary.json"),
        "sheet": str(tmp_path / "index.html"),
    }
    assert event["text"].startswith("2 done, 1 there already, 1 failed")


def test_a_run_that_had_nothing_to_do_is_no_news(told: list[dict[str, Any]]) -> None:
    hooks = display()
    hooks.batch_ended(summary(done=0, failed=0, skipped=4), FOLDER)
    hooks.close()
    assert told == []


def test_a_fault_ends_a_run_and_is_named(told: list[dict[str, Any]]) -> None:
    hooks = display()
    hooks.batch_ended(summary(done=0, failed=0, reason="fault", fault="The disk is full."), FOLDER)
    hooks.close()
    (event,) = told
    assert event["status"] == "fault"
    assert event["text"] == event["error"] == "The disk is full."
    assert event["sheet"] == "/out/night/index.html"


@pytest.mark.parametrize(
    ("reason", "is_told"),
    [("finished", True), ("max_failures", True), ("fault", False), ("stopped", False), ("deadline", False)],
)
def test_a_batch_of_the_daemon_has_ended_when_nothing_is_left_to_resume(
    told: list[dict[str, Any]], reason: Any, is_told: bool
) -> None:
    hooks = display(is_run=False)
    hooks.batch_ended(summary(reason=reason), FOLDER)
    assert bool(told) == is_told
    hooks.close()
    assert bool(told) == is_told


def test_long_texts_and_many_failures_are_cut_off(told: list[dict[str, Any]]) -> None:
    """The object stays small: a queue may hold a thousand, and a variable has a limit."""
    hooks, long = display(is_run=False), "x" * 1_000_000
    failure = {"name": "a", "key": "k", "error": long, "next_step": long}
    hooks.batch_ended(summary(failures=[failure] * 1000), FOLDER)
    hooks.job_finished(make_finished("failed", error=long, next_step=long))
    assert len(told[0]["failures"]) == MAX_FAILURES
    assert all(len(json.dumps(event)) < 100_000 for event in told)


@pytest.mark.parametrize("name", HOSTILE)
def test_every_event_has_the_same_fields_whatever_the_name(told: list[dict[str, Any]], name: str) -> None:
    watch_everything(display(is_run=False), name)
    assert [event["event"] for event in told] == ["done", "failed", "failed", "batch_ended"]
    for event in told:
        assert {"event", *FIELDS} <= event.keys()
        paths = {"folder", "path", "content", "record", "log", "quarantine", "summary", "sheet"}
        assert all(event[key] is None or event[key].startswith("/") for key in paths & event.keys())


def test_a_new_configuration_brings_its_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[object] = []
    monkeypatch.setattr(HookQueues, "use", lambda queues, hooks: used.append(hooks))
    config = Config.model_validate({"hooks": {"when": "done", "run": "true"}})
    display().configured(config)
    assert used == [config.hooks]


@pytest.fixture
def hurries(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    found: list[bool] = []
    monkeypatch.setattr(HookQueues, "close", lambda queues, must_hurry: found.append(must_hurry()))
    return found


def test_the_end_is_quick_after_a_signal(hurries: list[bool]) -> None:
    calm, stopped = display(), display()
    stopped.stopping()
    calm.close()
    stopped.close()
    assert hurries == [False, True]
