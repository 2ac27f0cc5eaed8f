"""The training script runs from end to end on a tiny teacher, and what it writes is an encoder."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_weights

from pipeline.neural.encoder import TORCHVISION_INDEX, Encoder

SCRIPT = Path(__file__).parent.parent / "tools/distill_encoder.py"


@pytest.fixture
def distill(monkeypatch, make_picture):
    """Return a function that trains for two steps in each phase: (weights, reports)."""
    spec = importlib.util.spec_from_file_location("distill_encoder", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for seed in range(3):
        make_picture(f"pictures/{seed}.png", seed, (48, 40))

    def run(teacher: Path, *flags: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        small = {"side": 32, "batch": 2, "block-steps": 2, "steps": 2, "report-every": 1, "hold-out": 3}
        arguments = ["--teacher", str(teacher), "--images", "pictures", "--out", "slim.safetensors"]
        sizes = [f"--{key}={value}" for key, value in small.items()]
        monkeypatch.setattr(sys, "argv", ["distill_encoder.py", *arguments, *sizes, *flags])
        module.main()
        return load_file("slim.safetensors"), json.loads(Path("slim.training.json").read_text())

    return run


def test_learns_from_a_checkpoint_wider_than_itself_and_resumes(distill):
    weights = tiny_weights(width=160)
    features = {
        f"features.{index}.{part}": weights[f"{name}.{part}"]
        for name, index in TORCHVISION_INDEX.items()
        for part in ("weight", "bias")
    }
    torch.save(features, "teacher.pth")
    student, reports = distill(Path("teacher.pth"))
    assert [report["phase"] for report in reports] == ["blocks"] * 2 + ["end to end"] * 2
    assert all(report["held_out"] > 0 for report in reports)
    assert {tensor.dtype for tensor in student.values()} == {torch.float16}
    encoder = Encoder({key: value.float() for key, value in student.items()}, ["relu5_1"])
    assert encoder(torch.rand(1, 3, 32, 32))["relu5_1"].shape[1] == 128
    again, _ = distill(Path("teacher.pth"), "--resume", "slim.safetensors")
    assert any(not torch.equal(again[key], student[key]) for key in student)


def test_a_teacher_in_safetensors(distill):
    save_file(tiny_weights(width=4), "teacher.safetensors")
    with pytest.raises(SystemExit, match="narrower"):
        distill(Path("teacher.safetensors"))
