"""What is read of a checkpoint without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.transfer import checkpoints
from pipeline.transfer.checkpoints import LossRow, RunState, write_checkpoint
from pipeline.transfer.headers import steps_of_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """After three steps."""
    rows = [LossRow(step, 32, 1.0, 0.5, 0.5, 0.0, {}, 0.1) for step in (1, 2, 3)]
    path = tmp_path / f"{'a' * 64}.safetensors"
    write_checkpoint(path, RunState(step=3, canvas=torch.zeros(1, 3, 4, 4), rows=rows))
    return path


def test_the_steps_of_a_checkpoint_are_read_without_torch(checkpoint: Path) -> None:
    assert steps_of_checkpoint(checkpoint) == 3
    code = (
        "import sys; from pathlib import Path; from pipeline.transfer.headers import steps_of_checkpoint\n"
        "print(steps_of_checkpoint(Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True)
    assert done.stdout == "3 False\n", done.stderr


def test_what_a_run_would_not_go_on_with_has_no_steps(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps_of_checkpoint(checkpoint.with_name("absent.safetensors")) == 0
    other = checkpoint.with_name(f"{'b' * 64}.safetensors")
    other.write_bytes(checkpoint.read_bytes())
    assert steps_of_checkpoint(other) == 0
    other.write_bytes(checkpoint.read_bytes()[:100])
    assert steps_of_checkpoint(other) == 0
    monkeypatch.setattr(checkpoints, "CHECKPOINT_FORMAT", "0")
    write_checkpoint(checkpoint, RunState())
    assert steps_of_checkpoint(checkpoint) == 0
