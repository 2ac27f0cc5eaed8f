"""A picture in tiles survives a kill at any tile, and finishes where memory is short."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import MakePicture

HERE = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kept", [[], ["kept"]], ids=["", "kept"])
def test_killed_at_every_tile_of_a_step_the_picture_is_the_same(
    make_picture: MakePicture, kept: list[str]
) -> None:
    content = make_picture("content.png", 1, (80, 70))
    make_picture("style.png", 2, (48, 48))
    command = [sys.executable, str(HERE / "tile_driver.py"), str(content.parent), *kept]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE, env={**os.environ, **threads}, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    *killed, last = report["ends"]
    assert set(killed) == {-signal.SIGKILL}
    assert len(killed) > 15  # tiles of both passes, of every segment
    assert last == 0
    *progress, forgotten = report["progress"]
    if kept:  # so no attempt counts against the picture
        assert all(map(operator.lt, [1, *progress], progress))
        assert progress[-1] == 2
    else:
        assert set(progress) == {1}
    assert forgotten == 0
    assert report["same"]
    assert report["resumed_from_step"] == 1
    assert list((content.parent / "state" / "checkpoints").iterdir()) == []
