"""Jobs with the bundled encoder on very small pictures, run in this process. The fixtures are in conftest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.execution.executors import InProcessExecutor
from pipeline.spec.jobs import Job, JobResult, Style, Task
from pipeline.spec.recipe import Recipe

# To give so small a picture its palette takes as long as its steps, and the deeper layers most of the rest.
SMALL = {
    "encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 3, "margin": 0, "precision": "float32",
    "recolor": False, "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0}, "content_layers": {"relu2_1": 1.0},
}  # fmt: skip
# For jobs that are to have both.
WHOLE = {name: getattr(Recipe(), name) for name in ("recolor", "style_layers", "content_layers")}


def small_task(content: Path, style: Path, number: int, **fields: Any) -> Task:
    job = Job("night", content, Style("s", ((style, 1.0),)), Recipe(**{**SMALL, **fields}), str(number))
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in job.input_paths}
    return Task(job, f"{number:064x}", digests)


def run(
    executor: InProcessExecutor, tasks: Sequence[Task], should_stop: Callable[[], bool] = lambda: False
) -> list[JobResult]:
    return executor.run(tasks, lambda progress: None, should_stop)


def pixels(result: JobResult) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(result.image)), int)
