"""The live pictures of running jobs: written by processes that may die, read by others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from watching import put

from pipeline.errors import DiskError
from pipeline.storage.live import COLUMNS, LOOK_S, NEW_S, Live, LiveFolder, is_looked_at, look, read_live

LIVE = Live(
    key="k" * 64,
    batch="night",
    name="a--s",
    drop="",
    content=Path(os.fsdecode(b"/in/caf\xe9.png")),
    style="s",
    styles=((Path("/in/s.png"), 1.0),),
    level=2,
    levels=3,
    width=64,
    height=48,
    step=3,
    steps=9,
    seconds=1.5,
    left_s=None,
    losses=dict.fromkeys(COLUMNS, (1.0, 2.0)),
    updated=1234.5,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from test_storage_live import LIVE, LiveFolder
folder = LiveFolder(Path(sys.argv[1]))
folder.write(LIVE, b"picture")
print("written", flush=True)
sys.stdin.read()
"""


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    with closing(LiveFolder(tmp_path)) as folder:
        folder.write(LIVE, b"picture")
        (found,) = read_live(tmp_path)
        assert found.picture is not None
        assert found.picture.read_bytes() == b"picture"
        assert replace(found, picture=None, version=0) == LIVE
        folder.write(replace(LIVE, step=4), b"later")
        (later,) = read_live(tmp_path)
        assert (later.step, later.version != found.version) == (4, True)
        folder.write(replace(LIVE, key="other", name="a--r"), b"")
        assert [live.name for live in read_live(tmp_path)] == ["a--r", "a--s"]
        folder.remove(LIVE.key)
        folder.remove("never there")
        assert [live.name for live in read_live(tmp_path)] == ["a--r"]
    assert read_live(tmp_path) == []
    assert list((tmp_path / "live").iterdir()) == []


def test_a_look_is_over_after_a_while_however_the_viewer_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_looked_at(tmp_path)
    look(tmp_path)
    assert is_looked_at(tmp_path)
    real = time.time
    for jump, looked in ((LOOK_S - 1, True), (LOOK_S + 1, False), (-1e6, False)):
        monkeypatch.setattr("time.time", lambda jump=jump: real() + jump)
        assert is_looked_at(tmp_path) == looked
    assert (tmp_path / "live").stat().st_mode & 0o77 == 0


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    put(tmp_path / "state")
    with pytest.raises(DiskError, match="state"):
        look(tmp_path / "state")
    assert not is_looked_at(tmp_path / "state")


def test_what_a_killed_process_left_is_not_shown_and_removed_by_the_next(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    assert [live.name for live in read_live(tmp_path)] == ["a--s"]
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read_live(tmp_path) == []
    (left,) = (tmp_path / "live").iterdir()
    for age, is_left in ((0, True), (NEW_S + 1, False)):
        os.utime(left, (time.time() - age, time.time() - age))
        with closing(LiveFolder(tmp_path)) as folder:
            folder.write(LIVE, b"")
            assert left.exists() == is_left
            assert len(read_live(tmp_path)) == 1


def test_what_another_version_wrote_is_left_out(tmp_path: Path) -> None:
    with closing(LiveFolder(tmp_path)) as folder:
        folder.write(LIVE, b"")
        for data in (b"", b"{}", b'{"key": "k", "stage": 2}'):
            put(folder.folder / "other.json", data)
            assert [live.key for live in read_live(tmp_path)] == [LIVE.key]
