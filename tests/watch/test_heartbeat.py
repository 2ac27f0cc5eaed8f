from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from heartbeats import JOB, QUEUE, Beating, step

from pipeline.batch.summary import Finished
from pipeline.errors import DeviceError, DiskError, PipelineError, WorkerLost
from pipeline.spec.config import Config
from pipeline.spec.jobs import EncoderInfo
from pipeline.storage.ledger import Ledger
from pipeline.watch.heartbeat import BEAT_S, Queue

# The heartbeat


def test_beats_come_at_most_once_a_second(beating: Beating, ledger: Ledger, config: Config) -> None:
    beating.heartbeat.beat(QUEUE, True, {})
    for _ in range(9):
        beating.clock.now += BEAT_S / 10
        beating.heartbeat.beat(Queue(0, 0, 0, 0), False, {})
    assert beating.shown.queues == [QUEUE]
    assert beating.manager.messages == [f"WATCHDOG=1\nSTATUS={QUEUE}"]
    assert ledger.read_daemon(config.watch.inbox) | {"watching": True, **asdict(QUEUE)} == (
        ledger.read_daemon(config.watch.inbox)
    )
    beating.clock.now += BEAT_S / 10
    beating.heartbeat.beat(Queue(0, 0, 9, 0), True, {})
    assert [queue.done for queue in beating.shown.queues] == [5, 9]
    assert len(beating.manager.messages) == 2


def test_the_beginning_and_the_end_of_a_job_are_told_at_once(
    beating: Beating, ledger: Ledger, config: Config
) -> None:
    beating.beat()
    for tell, running in (
        (lambda: beating.heartbeat.job_started(JOB, "a--s"), True),
        (lambda: beating.heartbeat.job_finished(Finished(JOB, "a--s", "done")), False),
    ):
        tell()
        beating.heartbeat.beat(QUEUE, True, {})
        assert (ledger.read_daemon(config.watch.inbox)["running"] is not None) == running
        beating.heartbeat.job_step("a--s", step(3)) if running else None
    assert len(beating.shown.queues) == 3


def test_a_queue_in_a_few_words() -> None:
    assert str(QUEUE) == "3 waiting, 2 settling, 5 done, 1 quarantined"


def test_a_queue_in_a_row_of_a_terminal() -> None:
    assert QUEUE.short == "3 waiting, 2 settling, 5 done, 1 quarantined"
    assert Queue(0, 0, 0, 0).short == "0 waiting, 0 done"


def test_the_manager_is_notified_of_start_and_end(beating: Beating) -> None:
    beating.heartbeat.service.ready()
    beating.beat()
    beating.heartbeat.service.stopping()
    assert [message.split("\n")[0] for message in beating.manager.messages] == [
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_the_same_pause_is_reported_once(beating: Beating) -> None:
    full, gone = DiskError("/out: full.", "Free space."), DeviceError("cuda:0 is gone.", "Look.")
    for error in (full, full, DiskError("/out: full.", "Free space."), gone, full):
        beating.heartbeat.paused(error)
    assert [text for _, text in beating.shown.events] == [
        "paused: /out: full. Free space.",
        "paused: cuda:0 is gone. Look.",
        "paused: /out: full. Free space.",
    ]
    assert beating.shown.facts[0] == {"error": "/out: full.", "next_step": "Free space."}
    beating.shown.events.clear()
    beating.heartbeat.resumed()
    beating.heartbeat.resumed()
    assert beating.shown.events == [("resumed", "resumed")]
    beating.heartbeat.paused(full)
    assert len(beating.shown.events) == 2  # a new pause


def test_a_fault_is_the_same_however_much_space_is_left(beating: Beating) -> None:
    for free in (12, 9, 9, 12):
        beating.heartbeat.paused(DiskError(f"/out: {free} MB free, 500 MB needed."))
        assert beating.heartbeat.state["paused"] == f"/out: {free} MB free, 500 MB needed."
    assert beating.shown.events == [("paused", "paused: /out: 12 MB free, 500 MB needed.")]
    beating.heartbeat.resumed()
    beating.heartbeat.paused(DiskError("/out: 9 MB free, 500 MB needed."))
    assert len(beating.shown.events) == 3
    for disk in ("/disk1", "/disk2"):
        beating.heartbeat.paused(DiskError(f"{disk}: cannot be read."))
    assert len(beating.shown.events) == 5


def test_a_ledger_that_cannot_be_written_is_reported_once_and_survived(
    beating: Beating, ledger: Ledger, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise DiskError("the ledger cannot be used.", "Free space.")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write_daemon", refuse)
        for _ in range(5):
            beating.beat()
            beating.heartbeat.resumed()  # as the daemon says after every step that went well
    assert beating.shown.events == [("ledger", "the ledger cannot be used. Free space.")]
    assert len(beating.shown.queues) == len(beating.manager.messages) == 5  # it continues
    beating.beat()
    assert ledger.read_daemon(config.watch.inbox)["waiting"] == 3
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write_daemon", refuse)
        beating.beat()
    assert len(beating.shown.events) == 2  # it is a new trouble


def test_encoder_and_device_are_reported_when_they_change(beating: Beating) -> None:
    slim, full = EncoderInfo("vgg19-slim", "0" * 64), EncoderInfo("vgg19", "1" * 64)
    for encoder in (slim, slim, full):
        beating.heartbeat.encoder_chosen(encoder)
    for device in ("cpu", "cpu", "cuda:0"):
        beating.heartbeat.device_chosen(device)
    assert beating.shown.encoders == [slim, full]
    assert beating.shown.events == [("device", "device cpu"), ("device", "device cuda:0")]
    assert (beating.heartbeat.state["encoder"], beating.heartbeat.state["device"]) == ("vgg19", "cuda:0")


def test_events_of_the_runner_are_passed_on(beating: Beating) -> None:
    heartbeat, shown = beating.heartbeat, beating.shown
    finished = Finished(JOB, "a--s", "done")
    heartbeat.job_started(JOB, "a--s")
    heartbeat.job_step("a--s", step(1))
    heartbeat.worker_lost(JOB, WorkerLost("The worker ended."))
    heartbeat.job_finished(finished)
    assert (shown.started, shown.steps, shown.lost) == (["a--s"], [step(1)], ["The worker ended."])
    assert shown.finished == [finished]
    assert heartbeat.running is None


def test_a_fault_is_any_error(beating: Beating) -> None:
    beating.heartbeat.paused(PipelineError("Odd."))
    assert beating.shown.events == [("paused", "paused: Odd.")]
