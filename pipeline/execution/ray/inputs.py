"""The inputs of a job on another machine: read there by their paths, or sent along and checked on arrival."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import DiskError
from ...spec.jobs import Job, JobResult, Masks, Style, Task
from ...storage.files import disk_errors
from ..inputs import changed_error


class Inputs:
    """The inputs of one request on the machine that runs it. `sent` holds those that were sent along.

    A file that was sent is written below `folder` under its whole path, so that names in results stay.
    """

    def __init__(self, folder: Path, sent: Mapping[Path, bytes]) -> None:
        self._folder = folder
        self._sent = sent

    def arrive(self, task: Task) -> Task:
        """Return a task whose inputs are on this machine.

        Raises:
            JobError: a file that was sent is not what it was when the job's key was made.
            DiskError: a folder is not on this machine, or a file that was sent cannot be written.
        """
        if not self._sent:
            self._check_folders(task)
            return task
        places = {path: self._write(path, task.digests[path]) for path in task.job.input_paths}
        digests = {places[path]: task.digests[path] for path in places}
        return replace(task, job=moved(task.job, places), digests=digests)

    def _write(self, path: Path, digest: str) -> Path:
        data, place = self._sent[path], self._folder / path.relative_to(path.anchor)
        if digest_of(data) != digest:
            raise changed_error(path)
        with disk_errors(place, "an input cannot be written"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return place

    def _check_folders(self, task: Task) -> None:
        for path in task.job.input_paths:
            # `Path.is_dir` raises where the folder may not be read, or its share is stale.
            if not os.path.isdir(path.parent):
                raise DiskError(
                    f"{path.parent}: there is no such folder on the node {platform.node()}.",
                    "Mount it on every node, or send the pictures to the nodes with --ray-ship.",
                )

    def with_original_paths(self, result: JobResult) -> JobResult:
        """Return the same result with the paths of the driver in its texts."""

        def original(text: str) -> str:
            return text.replace(str(self._folder), "")

        notes = tuple(map(original, result.notes))
        return replace(result, error=original(result.error), notes=notes, details=original(result.details))

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def moved(job: Job, places: Mapping[Path, Path]) -> Job:
    """Return a job whose inputs are elsewhere."""
    style = Style(job.style.name, tuple((places[path], share) for path, share in job.style.images))
    recipe = job.recipe
    if job.init_path is not None:
        recipe = recipe.model_copy(update={"init": str(places[job.init_path])})
    masks = None if job.masks is None else Masks(places[job.masks.content], job.masks.colors)
    return replace(job, content=places[job.content], style=style, recipe=recipe, masks=masks)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def paths_of(tasks: Sequence[Task]) -> list[Path]:
    """Return the inputs of tasks, each once."""
    return list(dict.fromkeys(path for task in tasks for path in task.job.input_paths))
