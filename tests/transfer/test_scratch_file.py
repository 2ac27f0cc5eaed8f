from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.transfer import scratch_file
from pipeline.transfer.scratch_file import ScratchFile


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
    for _ in range(2):
        assert file.open()
        put: list[Callable[[], Held]] = [file.put(held(seed)) for seed in range(3)]
        for seed in (2, 0, 1):
            check(put[seed](), held(seed))
    with pytest.raises(AssertionError):
        file.put(held(3))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_it_is_made_when_it_is_opened(tmp_path: Path) -> None:
    file = ScratchFile(tmp_path / "scratch", 100)
    assert not (tmp_path / "scratch").exists()
    assert file.open()
    assert (tmp_path / "scratch").exists()


def test_the_disk_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(scratch_file, "spare_tensor", lambda *_: asked.append(1))
    file = ScratchFile(tmp_path, 1000)
    assert not file.open()
    assert not file.open()
    assert asked == [1]
