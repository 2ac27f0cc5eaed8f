from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from disks import fail_to_read

from pipeline.transfer.checkpoints import LossRow, RunState, read_checkpoint, write_checkpoint
from pipeline.transfer.headers import CHECKPOINT_FORMAT
from pipeline.transfer.stored import FileTensor, loaded, temporary_tensor
from pipeline.transfer.tensor_files import DamagedError, read_tensor_file, write_tensor_file

SHAPES, STEPS = [(4, 6), (8, 12)], [5, 3]
ROWS = [LossRow(step, 6, 3.0, 1.0, 1.5, 0.5, {"relu1_1": 1.5}, 0.1 * step) for step in range(1, 8)]


def state(**fields) -> RunState:
    canvas = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    optimizer = {"pairs": torch.ones(1, 4, 7), "valid": torch.ones(1, 2)}
    given = {"canvas": canvas, "best": canvas.clone(), "best_loss": 3.0, "optimizer": optimizer, "rows": ROWS}
    return RunState(**{"level": 1, "step": 2, **given, **fields})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "key.safetensors"


def test_what_is_written_is_read(path):
    write_checkpoint(path, state())
    found = read_checkpoint(path)
    assert found is not None
    assert (found.level, found.step, found.best_loss, found.rows) == (1, 2, 3.0, ROWS)
    assert isinstance(found.canvas, FileTensor)  # it is not held in memory
    assert torch.equal(loaded(found.canvas), state().canvas)
    assert torch.equal(loaded(found.optimizer["pairs"]), torch.ones(1, 4, 7))
    assert found.fits(SHAPES, STEPS)
    assert [file.name for file in path.parent.iterdir()] == ["key.safetensors"]


def test_what_is_in_a_file_is_written_as_if_it_were_not(path, tmp_path):
    write_checkpoint(path, state())
    expected = path.read_bytes()
    stored = {name: temporary_tensor(tmp_path, t.shape, t.dtype) for name, t in state().optimizer.items()}
    for name, tensor in state().optimizer.items():
        stored[name].write(0, tensor.flatten())
    write_checkpoint(path, state(optimizer=stored))
    assert path.read_bytes() == expected


def test_a_state_stays_readable_when_the_next_checkpoint_replaces_its_file(path):
    write_checkpoint(path, state())
    found = read_checkpoint(path)
    write_checkpoint(path, state(step=3, canvas=torch.zeros(1, 3, 8, 12)))
    assert torch.equal(loaded(found.canvas), state().canvas)


def test_without_a_file_there_is_none(path):
    assert read_checkpoint(path) is None


def test_a_flipped_bit_anywhere_is_found(path):
    write_checkpoint(path, state())
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 101):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DamagedError, match="damaged"):
            read_checkpoint(path)


def test_a_file_that_the_disk_cannot_read_is_found(path, monkeypatch):
    write_checkpoint(path, state())
    fail_to_read(monkeypatch)
    with pytest.raises(DamagedError, match="cannot be read"):
        read_checkpoint(path)


def test_a_file_cut_short_or_of_something_else_is_found(path):
    write_checkpoint(path, state())
    whole = path.read_bytes()
    for data in [*(whole[:length] for length in range(0, len(whole), 7)), whole + b"\0", bytes(100), b"no"]:
        path.write_bytes(data)
        with pytest.raises(DamagedError, match="damaged"):
            read_checkpoint(path)


def test_a_checkpoint_of_another_job_or_version_is_found(path):
    write_checkpoint(path, state())
    other = path.with_name("other.safetensors")
    path.rename(other)
    with pytest.raises(DamagedError, match="another job"):
        read_checkpoint(other)
    tensors, metadata = read_tensor_file(other)
    write_tensor_file(path, tensors, {**metadata, "key": "key", "format": "3"})
    with pytest.raises(DamagedError, match="another version"):
        read_checkpoint(path)
    write_tensor_file(path, tensors, {"key": "key", "format": CHECKPOINT_FORMAT, "state": '{"level": 1}'})
    with pytest.raises(DamagedError, match="damaged"):
        read_checkpoint(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedError, match="cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"level": 2},
        {"level": -1},
        {"step": 4},
        {"canvas": None},
        {"canvas": torch.zeros(1, 3, 4, 6)},
        {"canvas": torch.zeros(2, 3, 8, 12)},
        {"canvas": torch.zeros(1, 3, 8, 12).double()},
        {"canvas": torch.full((1, 3, 8, 12), math.nan)},
        {"best": torch.zeros(1, 3, 12, 8)},
        {"best": torch.full((1, 3, 8, 12), math.inf)},
        {"best_loss": math.nan},
        {"optimizer": {"valid": torch.ones(2, 2)}},
        {"rows": ROWS * 2},
    ],
)
def test_a_state_that_does_not_fit_its_job(fields):
    assert not state(**fields).fits(SHAPES, STEPS)


def test_a_state_that_fits_its_job():
    assert state().fits(SHAPES, STEPS)
    assert RunState().fits(SHAPES, STEPS)
    assert replace(state(), best=None, best_loss=math.inf, step=0, rows=[]).fits(SHAPES, STEPS)
