"""A picture in tiles survives a kill at any tile, and finishes where memory is short."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import MakePicture

HERE = Path(__file__).parents[1]


def driven(driver: str, folder: Path) -> Any:
    """Return the report of a driver."""
    command = [sys.executable, str(HERE / driver), str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE, env={**os.environ, **threads}, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_every_tile_of_a_step_the_picture_is_the_same(make_picture: MakePicture) -> None:
    """Whether those that resume compute the step again, or keep every tile on the disk."""
    content = make_picture("content.png", 1, (80, 70))
    make_picture("style.png", 2, (48, 48))
    computed_again, kept = driven("tile_driver.py", content.parent)
    for report in (computed_again, kept):
        *killed, last = report["ends"]
        assert set(killed) == {-signal.SIGKILL}
        assert len(killed) > 15  # tiles of both passes, of every segment
        assert last == 0
        assert report["progress"].pop() == 0  # forgotten
        assert report["same"]
        assert report["resumed_from_step"] == 1
    assert set(computed_again["progress"]) == {1}
    # So no attempt counts against the picture.
    assert all(map(operator.lt, [1, *kept["progress"]], kept["progress"]))
    assert kept["progress"][-1] == 2
    assert list((content.parent / "state" / "checkpoints").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what addresses are used")
def test_where_ulimit_leaves_little_a_picture_is_computed_in_tiles(make_picture: MakePicture) -> None:
    content = make_picture("content.png", 1, (600, 450))
    make_picture("style.png", 2, (48, 48))
    report = driven("limited_driver.py", content.parent)
    assert (report["status"], report["failed"]) == ("done", []), report["error"]
    assert report["adjusted"][0].startswith("tiles of ")
