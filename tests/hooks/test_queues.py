"""Queues of hooks: order, bounds, the end, and what is logged. Commands are replaced by functions."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.hooks import queues
from pipeline.hooks.command import Ended
from pipeline.hooks.queues import Event, HookQueues, check_hooks
from pipeline.spec.hooks import Hook

OK = Ended("", (), 0.1)


class Commands:
    """Stands for every command: `told` has what each got, `answer` decides how it ends."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.answer: Callable[[str, Callable[[], bool]], Ended] = lambda name, must_end: OK
        self.threads: set[int] = set()

    def __call__(self, words, data, folder, timeout_s, variables, must_end) -> Ended:
        self.threads.add(threading.get_ident())
        name = json.loads(data)["name"]
        self.told.append((words[0], name))
        return self.answer(name, must_end)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(queues, "run_command", made)
    return made


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, "pipeline")
    return lambda: [record.getMessage() for record in caplog.records]


def hook(name: str = "tell", *when: str, **fields: object) -> Hook:
    return Hook.model_validate({"when": list(when) or ["done"], "run": [name], **fields})


def event(name: str, kind: str = "done", **facts: object) -> Event:
    return Event(kind, name, {"name": name, **facts})  # type: ignore[arg-type]


def after(event_: threading.Event, seconds: float) -> Ended:
    event_.wait(seconds)
    return OK


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


def test_a_hook_is_told_in_order_of_what_it_asks_for(commands: Commands) -> None:
    hooks = HookQueues([hook("a", "done", "failed"), hook("b", "paused")])
    for number in range(50):
        hooks.tell(event(f"{number:02}", "failed" if number % 2 else "done"))
    hooks.tell(event("inbox", "paused"))
    hooks.tell(event("inbox", "resumed"))
    hooks.close()
    assert [name for program, name in commands.told if program == "a"] == [f"{n:02}" for n in range(50)]
    assert [name for program, name in commands.told if program == "b"] == ["inbox"]


def test_telling_does_not_wait_and_a_hook_that_hangs_delays_no_other(commands: Commands) -> None:
    released = threading.Event()
    commands.answer = lambda name, must_end: after(released, 20) if name == "1" else OK
    hooks = HookQueues([hook("slow"), hook("quick", "failed")])
    hooks.tell(event("1"))
    hooks.tell(event("2", "failed"))
    until(lambda: ("quick", "2") in commands.told)
    released.set()
    hooks.close()
    assert hooks.pending == 0


def test_a_system_without_another_thread_costs_events_and_no_more(
    commands: Commands, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hooks = HookQueues([hook()])
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        hooks.tell(event("1"))
    assert log() == ["hook tell: 1 event left out: can't start new thread"]
    hooks.tell(event("2"))
    hooks.close()
    assert commands.told == [("tell", "2")]


def test_the_end_comes_although_a_command_fails_in_an_unexpected_way(
    commands: Commands, log: Callable[[], list[str]]
) -> None:
    def fail(name: str, must_end: Callable[[], bool]) -> Ended:
        raise TypeError("a bug")

    commands.answer = fail
    hooks = HookQueues([hook()])
    hooks.tell(event("1"))
    hooks.close()
    assert hooks.failures == 1
    assert log() == ["hook tell (done, 1): unexpected TypeError: a bug"]


def test_a_full_queue_leaves_out_the_oldest_and_says_so(
    commands: Commands, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MOST_WAITING", 5)
    released = threading.Event()
    commands.answer = lambda name, must_end: after(released, 20)
    hooks = HookQueues([hook()])
    hooks.tell(event("first"))
    until(lambda: bool(commands.told))
    for number in range(12):
        hooks.tell(event(str(number)))
    assert hooks.pending == 6
    released.set()
    hooks.close()
    assert [name for _, name in commands.told] == ["first", "7", "8", "9", "10", "11"]
    warnings = [line for line in log() if "keep up" in line]
    assert warnings == [
        "hook tell: does not keep up: 5 events wait, and the oldest are left out",
        "hook tell: did not keep up: 7 events left out",
    ]


def test_a_thousand_pictures_a_minute_need_no_thousand_threads(commands: Commands) -> None:
    hooks = HookQueues([hook()])
    before = threading.active_count()
    most = before
    for number in range(1000):
        hooks.tell(event(str(number)))
        most = max(most, threading.active_count())
    hooks.close()
    assert most <= before + 1
    assert len(commands.told) == 1000


def test_an_idle_hook_has_no_thread(commands: Commands) -> None:
    hooks, before = HookQueues([hook()]), threading.active_count()
    for name in ("a", "b"):
        hooks.tell(event(name))
        until(lambda: not hooks.pending)
        until(lambda: threading.active_count() == before)
    assert [name for _, name in commands.told] == ["a", "b"]


def test_the_end_waits_for_every_event(commands: Commands, log: Callable[[], list[str]]) -> None:
    commands.answer = lambda name, must_end: OK
    hooks = HookQueues([hook()])
    for number in range(20):
        hooks.tell(event(str(number)))
    hooks.close()
    assert len(commands.told) == 20
    assert not [line for line in log() if "left out" in line]


def test_someone_who_waits_at_the_end_is_told_why(
    commands: Commands, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "PATIENCE_S", 0.0)
    commands.answer = lambda name, must_end: after(threading.Event(), 0.1)
    hooks = HookQueues([hook()])
    hooks.tell(event("a"))
    hooks.tell(event("b"))
    hooks.close()
    assert "waiting for hooks to be told of 2 events" in log()


def test_at_the_end_a_hook_that_reaches_its_time_limit_loses_its_other_events(
    commands: Commands, log: Callable[[], list[str]]
) -> None:
    released = threading.Event()

    def late(name: str, must_end: Callable[[], bool]) -> Ended:
        released.wait(20)
        return Ended("it was ended, as its time was over (timeout_s)", (), 30.0, was_late=True)

    commands.answer = late
    hooks = HookQueues([hook()])
    for name in "abc":
        hooks.tell(event(name))
    until(lambda: bool(commands.told))
    threading.Timer(0.05, released.set).start()
    hooks.close()
    assert [name for _, name in commands.told] == ["a"]
    assert "hook tell: 2 events left out: the command hangs, and style-pipeline ends" in log()


def test_whoever_has_to_stop_waits_for_a_moment_only(
    commands: Commands, log: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "STOP_S", 0.1)

    def hang(name: str, must_end: Callable[[], bool]) -> Ended:
        until(must_end)
        return Ended("it was ended, as style-pipeline ends")

    commands.answer = hang
    hooks = HookQueues([hook()])
    for name in "abc":
        hooks.tell(event(name))
    hooks.close(lambda: True)
    assert [name for _, name in commands.told] == ["a"]
    assert "hook tell: 2 events left out: they were not told before the end" in log()
    assert "hook tell (done, a): it was ended, as style-pipeline ends" in log()


def test_other_hooks_may_take_over_while_the_former_have_work(commands: Commands) -> None:
    released = threading.Event()
    commands.answer = lambda name, must_end: after(released, 20)
    hooks = HookQueues([hook("old")])
    hooks.tell(event("1"))
    hooks.tell(event("2"))
    hooks.use([hook("new")])
    hooks.tell(event("3"))
    assert hooks.pending == 3
    released.set()
    hooks.close()
    assert sorted(commands.told) == [("new", "3"), ("old", "1"), ("old", "2")]


def test_the_same_hooks_keep_their_queues(commands: Commands) -> None:
    hooks = HookQueues([hook()])
    (queue,) = hooks._queues
    hooks.use([hook()])
    assert hooks._queues == [queue]


def test_what_a_command_writes_is_logged_as_a_warning_if_it_fails(
    commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pipeline")
    outcomes = {
        "good": Ended("", ("hello",), 0.5),
        "bad": Ended("it ended with exit code 3", ("no route", "to host"), 0.5),
    }
    commands.answer = lambda name, must_end: outcomes[name]
    hooks = HookQueues([hook()])
    hooks.tell(event("good"))
    hooks.tell(event("bad", "done"))
    hooks.close()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "hook tell (done, good): it succeeded in 0.5 s"),
        ("INFO", "hook tell (done, good): hello"),
        ("WARNING", "hook tell (done, bad): it ended with exit code 3"),
        ("WARNING", "hook tell (done, bad): no route"),
        ("WARNING", "hook tell (done, bad): to host"),
    ]
    facts = caplog.records[2].facts  # type: ignore[attr-defined]
    assert facts == {
        "hook": "tell", "for": "done", "name": "bad", "seconds": 0.5, "error": "it ended with exit code 3",
    }  # fmt: skip


def test_an_event_is_json_in_ascii_and_variables() -> None:
    facts = {"path": "/a/\udcff\n.png", "seconds": 1.5, "error": "", "notes": ["x"], "record": None}
    told = event("\ud800", **facts)
    assert told.data().isascii()
    assert json.loads(told.data()) == {"event": "done", "name": "\ud800", **facts}
    assert told.variables() == {
        "STYLE_PIPELINE_EVENT": "done",
        "STYLE_PIPELINE_NAME": "\\ud800",
        "STYLE_PIPELINE_PATH": "/a/\udcff\n.png",
        "STYLE_PIPELINE_SECONDS": "1.5",
        "STYLE_PIPELINE_ERROR": "",
    }


def test_variables_are_what_the_environment_can_hold() -> None:
    variables = event("a\0b", error="x" * 10**6).variables()
    assert variables["STYLE_PIPELINE_NAME"] == "ab"
    assert len(variables["STYLE_PIPELINE_ERROR"]) == queues.VARIABLE


def test_programs_that_are_not_there_are_found_before_anything_begins(environment: Path) -> None:
    tell = environment / "tell.sh"
    tell.write_text("#!/bin/sh\n")
    with pytest.raises(UsageError) as caught:
        check_hooks(
            [hook("no-such-program"), hook(str(tell)), hook("true", folder="absent"), hook("sh")],
        )
    assert caught.value.lines == (
        "hooks: no-such-program: not found on the PATH.",
        f"hooks: {tell}: is not a program.",
        "hooks: absent: is not a folder, so true cannot run in it.",
    )
    tell.chmod(0o755)
    check_hooks([hook(str(tell)), hook("sh")])
