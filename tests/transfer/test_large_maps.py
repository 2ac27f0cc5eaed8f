from __future__ import annotations

import mmap

import pytest
import torch

from pipeline.transfer import large_maps
from pipeline.transfer.large_maps import empty_map
from pipeline.transfer.usage import own_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_laid_out_as_torch_does(
    dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = empty_map((2, 3, 5, 7), dtype, CPU, channels_last)
    monkeypatch.setattr(large_maps, "LARGE_BYTES", 0)
    mapped = empty_map((2, 3, 5, 7), dtype, CPU, channels_last)
    assert (mapped.shape, mapped.stride(), mapped.dtype) == (small.shape, small.stride(), dtype)
    values = torch.randn(2, 3, 5, 7).to(dtype)
    mapped.copy_(values)
    assert torch.equal(mapped, values)


@pytest.mark.skipif(not own_bytes(), reason="the system does not say what a process has")
def test_it_is_given_back_with_its_last_tensor() -> None:
    before = own_bytes()
    kept = empty_map((1, 3, 4096, 2048), torch.float32, CPU).fill_(1)
    view = kept[:, :, :10]
    del kept
    assert own_bytes() - before > 90e6
    assert float(view.sum()) == 10 * 3 * 2048
    del view
    assert own_bytes() - before < 30e6


def test_no_memory_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", full)
    with pytest.raises(MemoryError):
        empty_map((1, 3, 4096, 2048), torch.float32, CPU)
