"""Paints a picture that does not fit untiled what `ulimit -v` leaves to this process; writes how it went."""

from __future__ import annotations

import json
import logging
import resource
import sys
from pathlib import Path

import torch
from small_jobs import small_task

from pipeline.execution.executors import InProcessExecutor
from pipeline.spec.config import read_config
from pipeline.transfer.memory import LIBRARY_ADDRESSES
from pipeline.transfer.usage import used_addresses

LEFT = 150 << 20


class Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    logger, messages = logging.getLogger("pipeline"), Messages()
    logger.setLevel(logging.DEBUG)
    logger.addHandler(messages)
    paths = {"cache_dir": folder / "cache", "state_dir": folder / "state"}
    settings = read_config(None).model_copy(update={"device": "cpu", **paths})
    limit = used_addresses() + LIBRARY_ADDRESSES + LEFT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    task = small_task(folder / "content.png", folder / "style.png", 1, size=600, steps=1)
    (result,) = InProcessExecutor(settings, threads=1).run([task], lambda progress: None, lambda: False)
    report = {"status": result.status, "error": result.error, "adjusted": result.adjusted}
    sys.stdout.write(json.dumps({**report, "failed": [t for t in messages.texts if "no memory" in t]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
