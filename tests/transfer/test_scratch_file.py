from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor

from pipeline.errors import DiskError, ScratchFull
from pipeline.transfer import scratch_file
from pipeline.transfer.scratch_file import SPARE, ScratchFile


@dataclass(frozen=True)
class Held:
    name: str
    map_BCHW: Tensor
    by_layer: dict[str, Tensor]


def held(seed: int = 0) -> Held:
    torch.manual_seed(seed)
    map_BCHW = torch.randn(1, 5, 7, 9).to(torch.bfloat16, memory_format=torch.channels_last)
    bits = torch.randint(256, (33,), dtype=torch.uint8)
    return Held(f"seed {seed}", map_BCHW, {"bits": bits, "none": torch.empty(0)})


def size_of(value: Held) -> int:
    return value.map_BCHW.nbytes + sum(each.nbytes for each in value.by_layer.values())


def check(value: Held, expected: Held) -> None:
    assert value.name == expected.name
    assert torch.equal(value.map_BCHW, expected.map_BCHW)
    assert value.map_BCHW.stride() == expected.map_BCHW.stride()
    assert value.by_layer.keys() == expected.by_layer.keys()
    for name, tensor in value.by_layer.items():
        assert torch.equal(tensor, expected.by_layer[name])
        assert tensor.dtype == expected.by_layer[name].dtype


def test_what_is_put_there_comes_back_in_any_order(tmp_path: Path) -> None:
    file = ScratchFile(tmp_path / "scratch", 3 * size_of(held()))
    assert file.is_usable()
    for _ in range(2):
        file.clear()
        put: list[Callable[[], Held]] = [file.put(held(seed)) for seed in range(3)]
        for seed in (2, 0, 1):
            check(put[seed](), held(seed))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_it_is_made_when_it_is_needed(tmp_path: Path) -> None:
    ScratchFile(tmp_path / "scratch", 100)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("free", [SPARE * 1000, SPARE * 1000 - 1])
def test_it_leaves_space_to_others(free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(scratch_file.shutil, "disk_usage", lambda folder: usage)
    file = ScratchFile(tmp_path, 1000)
    assert file.is_usable() == file.is_usable() == (free == SPARE * 1000)


@pytest.mark.parametrize("error", [ScratchFull, DiskError])
def test_a_disk_that_refuses_is_asked_once(
    error: type[DiskError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*_: object) -> NoReturn:
        asked.append(1)
        raise error("The disk is full.", "Free some space.")

    monkeypatch.setattr(scratch_file, "temporary_tensor", refuse)
    file = ScratchFile(tmp_path, 1000)
    assert not file.is_usable()
    assert not file.is_usable()
    assert asked == [1]
