from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DiskError, JobError
from pipeline.execution.provenance import provenance
from pipeline.execution.ray.inputs import Inputs
from pipeline.spec.jobs import Job, JobResult, Masks, Style, Task
from pipeline.spec.recipe import Recipe
from pipeline.vgg.weights import EncoderWeights

NAMES = ("photos/me.jpg", "styles/me.jpg", "start.png", "mask.png")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A job that has every kind of input, and two of one name."""
    content, style, start, mask = (tmp_path / name for name in NAMES)
    job = Job(
        "night",
        content,
        Style("s", ((style, 1.0),)),
        Recipe(init=str(start)),
        "me--me",
        masks=Masks(mask, ((0, 0, 0),)),
    )
    digests = {path: hashlib.sha256(path.name.encode()).hexdigest() for path in job.input_paths}
    return Task(job, "k" * 64, digests)


def sent(task: Task) -> dict[Path, bytes]:
    return {path: path.name.encode() for path in task.job.input_paths}


def test_what_was_sent_is_read_from_a_folder_of_its_own(task: Task, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path / "inputs", sent(task))
    arrived = inputs.arrive(task)
    assert arrived.key == task.key
    assert not {*arrived.job.input_paths} & {*task.job.input_paths}
    for here, there in zip(arrived.job.input_paths, task.job.input_paths, strict=True):
        assert here.read_bytes() == there.name.encode()
        assert arrived.digests[here] == task.digests[there]
    inputs.remove()
    assert not arrived.job.content.exists()


def test_a_picture_says_that_it_was_made_from_the_same_files(task: Task, tmp_path: Path) -> None:
    weights = EncoderWeights("vgg19-slim", tmp_path / "weights", "d" * 64)
    arrived = Inputs(tmp_path / "inputs", sent(task)).arrive(task)
    assert provenance(arrived.job, "k", weights) == provenance(task.job, "k", weights)


def test_what_is_not_what_it_was_fails_its_job(task: Task, tmp_path: Path) -> None:
    data = sent(task) | {task.job.content: b"other"}
    with pytest.raises(JobError, match=r"photos/me\.jpg: the file changed while it was waiting"):
        Inputs(tmp_path / "inputs", data).arrive(task)


def test_texts_name_the_paths_of_the_driver(task: Task, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path / "inputs", sent(task))
    content = inputs.arrive(task).job.content
    result = JobResult("failed", error=f"{content}: bad", notes=(f"{content}: odd",), details=f"in {content}")
    back = inputs.with_original_paths(result)
    there = task.job.content
    assert (back.error, back.notes, back.details) == (f"{there}: bad", (f"{there}: odd",), f"in {there}")


def test_inputs_on_a_shared_file_system_stay_where_they_are(task: Task, tmp_path: Path) -> None:
    for path in task.job.input_paths:
        path.parent.mkdir(exist_ok=True)
    assert Inputs(tmp_path / "inputs", {}).arrive(task) is task


def test_a_node_without_the_folder_is_at_fault(task: Task, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"photos: there is no such folder on the node .* --ray-ship"):
        Inputs(tmp_path / "inputs", {}).arrive(task)


def test_a_folder_that_cannot_be_looked_up_is_the_nodes_fault(task: Task, tmp_path: Path) -> None:
    unknown = replace(task, job=replace(task.job, content=tmp_path / ("long" * 99) / "me.jpg"))
    with pytest.raises(DiskError, match="there is no such folder on the node"):
        Inputs(tmp_path / "inputs", {}).arrive(unknown)
