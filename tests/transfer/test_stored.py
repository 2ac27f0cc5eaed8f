from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import DiskError, ScratchFull
from pipeline.transfer import stored as module
from pipeline.transfer.file_map import FileMap
from pipeline.transfer.stored import (
    SPARE,
    FileTensor,
    OpenFile,
    copy_stored,
    joined,
    loaded,
    parts_of,
    row_of,
    spare_tensor,
    temporary_tensor,
)
from pipeline.transfer.tiles import Box


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool])
def test_what_is_copied_to_a_file_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    values = numbers(1, 5, 7, dtype=dtype)
    stored = temporary_tensor(tmp_path, values.shape, dtype)
    assert not loaded(stored).any()
    copy_stored(values, stored)
    again = torch.zeros_like(values)
    copy_stored(stored, again)
    assert torch.equal(again, values)
    assert torch.equal(loaded(stored), values)
    assert stored.nbytes == values.nbytes


def test_parts_are_read_and_written_in_place(tmp_path: Path) -> None:
    stored = temporary_tensor(tmp_path, (1, 4, 6), torch.float32)
    stored.write(7, torch.arange(5))
    assert stored.read(6, 7).tolist() == [0, 0, 1, 2, 3, 4, 0]
    assert [len(part) for part in parts_of(stored, 10)] == [10, 10, 4]
    assert torch.equal(torch.cat([*parts_of(stored, 10)]), loaded(stored).flatten())
    values = numbers(3, 4)
    assert torch.equal(torch.cat([*parts_of(values.T, 5)]), values.T.flatten())


def test_what_can_be_computed_again_leaves_space_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    usage = shutil.disk_usage(tmp_path)
    for free in (SPARE * 4000 - 1, SPARE * 4000):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        stored = spare_tensor(tmp_path / "scratch", (10, 100), torch.float32, "features")
        assert (stored is not None) == (free == SPARE * 4000)
    assert stored is not None
    assert not loaded(stored).any()
    (record,) = caplog.records
    reason = "3.2e-05 GB are free, and 3.2e-05 would have to be"
    assert record.message == f"features are not kept in {tmp_path}/scratch but computed again: {reason}"


def test_a_folder_that_cannot_be_written_keeps_nothing_that_can_be_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_bytes(b"")
    assert spare_tensor(tmp_path / "file/scratch", (1,), torch.float32, "features") is None
    assert "features are not kept in" in caplog.text
    assert "its free space cannot be read" in caplog.text


def test_boxes_of_a_map_in_a_file(tmp_path: Path) -> None:
    map_BCHW = numbers(2, 3, 7, 9, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    stored = FileMap(temporary_tensor(tmp_path, (2, 7, 9, 3), torch.bfloat16), torch.device("cpu"))
    for box in (Box(0, 4, 0, 9), Box(4, 7, 0, 5), Box(4, 7, 5, 9)):
        stored.write(box, box.of(map_BCHW))
    for box in (Box(0, 7, 0, 9), Box(2, 6, 3, 8), Box(6, 7, 8, 9)):
        read_BCHW = stored.read(box)
        assert torch.equal(read_BCHW, box.of(map_BCHW))
        assert read_BCHW.is_contiguous(memory_format=torch.channels_last)


def test_scalars_and_rows(tmp_path: Path) -> None:
    stored = temporary_tensor(tmp_path, (1,), torch.int64)
    copy_stored(torch.tensor([3]), stored)
    assert loaded(row_of(stored, 0)).tolist() == [3]
    assert joined([stored]) is stored
    assert loaded(joined([stored, torch.tensor([4])])).tolist() == [3, 4]
    assert row_of(numbers(3, 2), 1).shape == (1, 2)


def test_a_full_disk_is_said_at_once_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ScratchFull, match=r"scratch: 0\.004 GB are needed there for the history"):
        temporary_tensor(tmp_path / "scratch", (1, 1000, 1000), torch.float32)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_file_cut_short_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(10))
    stored = FileTensor(OpenFile(path.open("rb", buffering=0), str(path)), (4,), torch.float32)
    with pytest.raises(DiskError, match=r"short: cannot be read \(it is cut short\)"):
        loaded(stored)


def test_nothing_is_left_behind_by_a_process_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, signal, torch
from pathlib import Path
from pipeline.transfer.stored import temporary_tensor
kept = temporary_tensor(Path({str(tmp_path)!r}), (1, 1000), torch.float32)
kept.write(0, torch.ones(1000))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert list(tmp_path.iterdir()) == []
