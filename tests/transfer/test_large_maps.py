from __future__ import annotations

import mmap
import re
import weakref
from pathlib import Path

import pytest
import torch

from pipeline.transfer import large_maps
from pipeline.transfer.large_maps import close_gaps, empty_map

CPU = torch.device("cpu")
SMAPS = Path("/proc/self/smaps")  # see proc(5)


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


def test_it_is_given_back_with_its_last_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    mappings: list[weakref.ref[mmap.mmap]] = []

    class Mapping(mmap.mmap):
        def __init__(self, *_: object, **__: object) -> None:
            mappings.append(weakref.ref(self))

    monkeypatch.setattr(mmap, "mmap", Mapping)
    kept = empty_map((1, 3, 4096, 2048), torch.float32, CPU).fill_(1)
    view = kept[:, :, :10]
    del kept
    (mapping,) = mappings
    assert mapping() is not None
    assert float(view.sum()) == 10 * 3 * 2048
    del view
    assert mapping() is None


@pytest.mark.parametrize(("own", "is_released"), [(1000, False), (1001, True)])
def test_gaps_are_closed_only_where_the_process_has_more_than_it_may(
    own: int, is_released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    monkeypatch.setattr(large_maps, "own_bytes", lambda: own)
    monkeypatch.setattr(large_maps, "release_freed_memory", lambda: released.append(1))
    small, large = (torch.empty(1, 1, rows, 4096, dtype=torch.uint8) for rows in (4095, 4096))
    close_gaps(small, 1000)
    assert not released
    close_gaps(large, 1000)
    assert bool(released) == is_released
    released.clear()
    close_gaps(large)
    assert released


@pytest.mark.skipif(not SMAPS.exists(), reason="the system does not say what a mapping takes")
def test_it_counts_as_memory_of_the_process() -> None:
    kept = empty_map((1, 3, 4096, 2048), torch.float32, CPU).fill_(1)
    assert own_bytes_at(kept.data_ptr()) >= kept.nbytes


def own_bytes_at(address: int) -> int:
    """Return how much memory, not shared with others, the mapping has that an address is in."""
    found = False
    for line in SMAPS.read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            first, end = (int(each, 16) for each in bounds.groups())
            found = first <= address < end
        elif found and line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10
    return 0


def test_no_memory_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: int, **options: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", full)
    with pytest.raises(MemoryError):
        empty_map((1, 3, 4096, 2048), torch.float32, CPU)
