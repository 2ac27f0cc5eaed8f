from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.spec.batches import Batch


def pairs(batch: Batch) -> list[tuple[str, str]]:
    return [(job.content.name, job.style.name) for job in batch.jobs()]


def failure(read: Any, text: str, **kw: Any) -> list[str]:
    """The lines of the error, without the manifest's own path: `LINE: KEY: TEXT`."""
    with pytest.raises(UsageError) as caught:
        read(text, **kw)
    assert caught.value.exit_code == 2
    lines = caught.value.message.splitlines()
    assert all("night.yaml:" in line for line in lines), lines
    return [line.partition("night.yaml:")[2] for line in lines]


ONE = "contents: [photos/a.jpg]\nstyles: [styles/s.png]\n"


# What becomes of the lists
