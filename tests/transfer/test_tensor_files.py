from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.transfer.tensor_files import read_tensor_file, write_tensor_file


def tensors() -> dict[str, torch.Tensor]:
    values = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    return {
        "wide": values.double(),
        "plain": values,
        "narrow": values.bfloat16(),
        "turned": values.T,
        "whole": torch.arange(7),
        "flags": torch.tensor([True, False, True]),
        "one": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "a.safetensors", tensors(), {"key": "ü", "sha": "x"})
    found, metadata = read_tensor_file(tmp_path / "a.safetensors")
    assert metadata == {"key": "ü", "sha": "x"}
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_library_reads_it_too(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "a.safetensors", tensors(), {})
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_tensors_that_share_memory_are_written_each(tmp_path: Path, count: int) -> None:
    shared = torch.rand(4, 4)
    given = {str(index): shared[index:] for index in range(count)}
    write_tensor_file(tmp_path / "a", given, {"key": "k"})
    found, _ = read_tensor_file(tmp_path / "a")
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())
