"""An actor without Ray: what it sends while a job runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FAKE_ENCODER, QUICK, FakeExecutor, picture_bytes
from ray_cluster import ClusterFake, keep_checkpoint

from pipeline.batch.digests import Digests
from pipeline.errors import DeviceError, DiskError, WeightsError
from pipeline.execution.ray import actor as actor_module
from pipeline.execution.ray.actor import Actor, Checkpoint, Hello, Message, Request, Scratch, Throttle
from pipeline.execution.worker_process import LOGGER, Answer
from pipeline.spec.config import Config
from pipeline.spec.jobs import Job, JobResult, StepProgress, Style, Task
from pipeline.spec.recipe import Recipe
from pipeline.version import VERSION

ENCODERS = {"auto": FAKE_ENCODER.digest}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where actors keep files; their handlers of the log are removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handlers = [*logging.getLogger(LOGGER).handlers]
    level = logging.getLogger(LOGGER).level
    yield tmp_path
    logging.getLogger(LOGGER).handlers[:] = handlers
    logging.getLogger(LOGGER).setLevel(level)


def make_actor(stage: Path, **acts: str) -> Actor:
    def make(config: Config) -> ClusterFake:
        return ClusterFake({"f": "fail", "m": "machine"}, config=config, stage=stage, acts=acts)

    return Actor(make, Config(), logging.INFO)


def make_task(folder: Path, stem: str = "a") -> Task:
    content, style = folder / f"{stem}.png", folder / "s.png"
    for path in (content, style):
        path.write_bytes(picture_bytes(path.stem))
    job = Job("night", content, Style("s", ((style, 1.0),)), Recipe(**QUICK), f"{stem}--s")
    digests = Digests(lambda: False)
    return Task(job, stem * 64, {path: digests[path] for path in job.input_paths})


def run(actor: Actor, *tasks: Task, checkpoints: dict[str, bytes] | None = None) -> list[Message]:
    return list(actor.run(Request(tasks, ENCODERS, checkpoints or {})))


def answer_of(messages: list[Message]) -> Answer:
    assert isinstance(messages[-1], Answer)
    return messages[-1]


def test_an_actor_says_when_it_is_ready(tmp_path: Path) -> None:
    said = make_actor(tmp_path).hello()
    assert isinstance(said, Hello)
    assert (said.version, said.device) == (VERSION, "fake0")


def test_a_device_that_is_not_there_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def device_name(executor: FakeExecutor) -> str:
        raise DeviceError("There is no GPU.", "Plug it in.")

    monkeypatch.setattr(FakeExecutor, "device_name", device_name)
    assert isinstance(make_actor(tmp_path).hello(), DeviceError)


def test_steps_and_checkpoints_come_before_the_answer(tmp_path: Path) -> None:
    messages = run(make_actor(tmp_path), make_task(tmp_path))
    assert isinstance(messages[0], StepProgress)
    sent = [message for message in messages if isinstance(message, Checkpoint)]
    assert [message.key for message in sent] == ["a" * 64] * 4
    (result,) = answer_of(messages).value
    assert (result.status, result.resumed_from_step) == ("done", 0)


def test_a_job_resumes_from_the_checkpoint_that_came_with_it(tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 64}.safetensors"
    keep_checkpoint(path, 3)
    messages = run(make_actor(tmp_path), make_task(tmp_path), checkpoints={"a" * 64: path.read_bytes()})
    (result,) = answer_of(messages).value
    assert result.resumed_from_step == 3
    assert len([message for message in messages if isinstance(message, Checkpoint)]) == 1


def test_a_stop_ends_the_job_and_all_that_follow(tmp_path: Path) -> None:
    actor = make_actor(tmp_path)
    actor.stop()
    for _ in range(2):
        messages = run(actor, make_task(tmp_path))
        assert answer_of(messages).value == [JobResult("stopped", versions=messages[-1].value[0].versions)]
        assert any(isinstance(message, Checkpoint) for message in messages)


def test_the_log_of_an_actor_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def device_name(executor: FakeExecutor) -> str:
        logging.getLogger(f"{LOGGER}.test").info("it is %s", "warm")
        return "fake0"

    monkeypatch.setattr(FakeExecutor, "device_name", device_name)
    actor = make_actor(tmp_path)
    actor.hello()
    (record,) = (m for m in run(actor, make_task(tmp_path)) if isinstance(m, logging.LogRecord))
    assert record.getMessage() == "it is warm"


def test_faults_of_the_machine_are_told_apart_from_those_of_jobs(tmp_path: Path) -> None:
    actor = make_actor(tmp_path)
    (failed,) = answer_of(run(actor, make_task(tmp_path, "f"))).value
    assert failed.status == "failed"
    assert isinstance(answer_of(run(actor, make_task(tmp_path, "m"))).error, DeviceError)


def test_a_file_that_changed_on_its_way_fails_its_job_alone(tmp_path: Path) -> None:
    a, b = make_task(tmp_path, "a"), make_task(tmp_path, "b")
    paths = [*a.job.input_paths, b.job.content]
    files = [b"other", a.job.style.images[0][0].read_bytes(), b.job.content.read_bytes()]
    messages = list(make_actor(tmp_path).run(Request([a, b], ENCODERS, {}, paths), *files))
    first, second = answer_of(messages).value
    assert (first.status, second.status) == ("failed", "done")
    assert first.error == f"{a.job.content}: the file changed while it was waiting."


def test_another_network_than_the_drivers_is_the_machines_fault(tmp_path: Path) -> None:
    (answer,) = make_actor(tmp_path).run(Request([make_task(tmp_path)], {"auto": "0" * 64}, {}))
    assert isinstance(answer, Answer)
    assert isinstance(answer.error, WeightsError)
    assert "The network auto is ffffffff on the node" in answer.error.message


def test_a_step_a_second_is_sent_and_every_snapshot() -> None:
    now = [0.0]
    throttle = Throttle(lambda: now[0])

    def step(number: int, key: str = "a", snapshot: bytes | None = None) -> StepProgress:
        return StepProgress(number, 9, 1, 1, 0.0, 0.0, 0.0, snapshot, key)

    assert [throttle.lets_through(step(1)), throttle.lets_through(step(1, "b"))] == [True, True]
    now[0] = 0.9
    assert not throttle.lets_through(step(2))
    assert throttle.lets_through(step(3, snapshot=b"picture"))
    now[0] = 1.8
    assert not throttle.lets_through(step(4))
    assert throttle.lets_through(step(4, "b"))


def test_a_scratch_folder_outlives_others_but_not_its_process(tmp_path: Path) -> None:
    first, second = Scratch(tmp_path), Scratch(tmp_path)
    assert first.path != second.path
    assert first.path.is_dir()
    abandoned = first.path.with_name("actor-abandoned")
    abandoned.mkdir()
    first.close()
    third = Scratch(tmp_path)
    assert not first.path.exists()
    assert not abandoned.exists()
    assert second.path.is_dir()
    for scratch in (second, third):
        scratch.close()
    assert list(third.path.parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders for temporary files are private")
@pytest.mark.parametrize("fault", ["open", "link", "other"])
def test_a_scratch_folder_that_is_not_private_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    Scratch(tmp_path).close()
    (base,) = tmp_path.iterdir()
    if fault == "open":
        base.chmod(0o755)
    elif fault == "link":
        base.symlink_to(base.rename(tmp_path / "elsewhere"))
    else:
        uid = os.getuid()
        base.rename(tmp_path / f"style-pipeline-ray-{uid + 1}")
        monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(DiskError, match="it is not a private folder of this user"):
        Scratch(tmp_path)


def test_large_checkpoints_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "LARGEST_SENT", 1)
    messages = run(make_actor(tmp_path), make_task(tmp_path))
    assert not any(isinstance(message, Checkpoint) for message in messages)
    (said,) = (message for message in messages if isinstance(message, logging.LogRecord))
    assert "is too large to send" in said.getMessage()
    assert answer_of(messages).value[0].status == "done"


def test_the_error_that_ends_an_actor_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    actor = make_actor(tmp_path, a="poison")
    actor._run(Request([make_task(tmp_path)], ENCODERS, {}), ())
    assert killed == [os.getpid()]
    assert "SystemExit: 0" in capfd.readouterr().err
