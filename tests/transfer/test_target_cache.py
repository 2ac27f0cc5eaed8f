from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
import torch
from disks import fail_to_read
from safetensors.torch import save_file
from small_targets import same, targets

from pipeline.transfer.target_cache import FORMAT_VERSION, ColorMatch, StyleKey, TargetCache
from pipeline.transfer.targets import StyleTargets, stack_targets
from pipeline.transfer.tensor_files import write_tensor_file

CHANNELS = {"relu1_1": 4}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "targets"


def never() -> StyleTargets:
    raise AssertionError("computed again")


def test_computed_once_then_from_memory_then_from_disk(folder):
    cache = TargetCache(folder)
    first, hit = cache.fetch("k", CHANNELS, targets)
    assert not hit
    again, hit = cache.fetch("k", CHANNELS, never)
    assert hit
    assert again is first
    other_process, hit = TargetCache(folder).fetch("k", CHANNELS, never)
    assert hit
    assert same(other_process, first)


def test_without_a_folder_it_keeps_to_memory():
    cache = TargetCache(None)
    assert not cache.fetch("k", CHANNELS, targets)[1]
    assert cache.fetch("k", CHANNELS, never)[1]


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_an_unreadable_entry_is_a_miss_and_is_replaced(folder, damage):
    TargetCache(folder).fetch("k", CHANNELS, targets)
    entry = folder / "k.safetensors"
    entry.write_bytes(entry.read_bytes()[:-7] if damage is None else damage)
    assert not TargetCache(folder).fetch("k", CHANNELS, targets)[1]
    assert TargetCache(folder).fetch("k", CHANNELS, never)[1]


def test_an_entry_that_the_disk_cannot_read_is_a_miss(folder, monkeypatch):
    TargetCache(folder).fetch("k", CHANNELS, targets)
    with monkeypatch.context() as patch:
        fail_to_read(patch)
        assert not TargetCache(folder).fetch("k", CHANNELS, targets)[1]
    assert TargetCache(folder).fetch("k", CHANNELS, never)[1]


def test_an_entry_under_another_name_is_a_miss(folder):
    TargetCache(folder).fetch("k", CHANNELS, targets)
    os.rename(folder / "k.safetensors", folder / "other.safetensors")
    assert not TargetCache(folder).fetch("other", CHANNELS, targets)[1]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_anywhere_is_a_miss(folder):
    TargetCache(folder).fetch("k", CHANNELS, targets)
    entry = folder / "k.safetensors"
    whole = entry.read_bytes()
    for bit in range(0, 8 * len(whole), 13):
        entry.write_bytes(flipped(whole, bit))
        assert TargetCache(folder)._read("k", CHANNELS) is None, bit
    for length in range(0, len(whole), 3):
        entry.write_bytes(whole[:length])
        assert TargetCache(folder)._read("k", CHANNELS) is None, length
    entry.write_bytes(whole + b"\0")
    assert TargetCache(folder)._read("k", CHANNELS) is None
    entry.write_bytes(whole)
    assert same(TargetCache(folder).fetch("k", CHANNELS, never)[0], targets())


MEAN, SECOND = torch.zeros(1, 4), torch.zeros(1, 4, 4)


@pytest.mark.parametrize(
    "tensors",
    [
        {"relu1_1.mean": MEAN},
        {"relu1_1.mean": MEAN, "relu1_1.second": SECOND, "relu2_1.mean": MEAN.clone()},
        {"relu2_1.mean": MEAN, "relu2_1.second": SECOND},
        {"relu1_1.mean": MEAN[0], "relu1_1.second": SECOND},
        {"relu1_1.mean": torch.zeros(1, 3), "relu1_1.second": torch.zeros(1, 3, 3)},
        {"relu1_1.mean": MEAN.double(), "relu1_1.second": SECOND},
        {"relu1_1.mean": MEAN, "relu1_1.second": SECOND.half()},
        {"relu1_1.mean": MEAN * torch.nan, "relu1_1.second": SECOND},
        {"relu1_1.mean": MEAN, "relu1_1.second": SECOND + torch.inf},
    ],
)
def test_an_entry_of_other_layers_shapes_or_types_is_a_miss(folder, tensors):
    metadata = {"key": "k", "format": FORMAT_VERSION}
    write_tensor_file(folder / "k.safetensors", tensors, metadata)
    assert not TargetCache(folder).fetch("k", CHANNELS, targets)[1]
    assert same(TargetCache(folder).fetch("k", CHANNELS, never)[0], targets())


def test_an_entry_of_an_unknown_type_of_numbers_is_a_miss(folder):
    numbers = {"relu1_1.mean": MEAN.to(torch.float8_e4m3fn), "relu1_1.second": SECOND}
    TargetCache(folder).fetch("k", CHANNELS, targets)
    save_file(numbers, folder / "k.safetensors", {"key": "k", "format": FORMAT_VERSION})
    assert not TargetCache(folder).fetch("k", CHANNELS, targets)[1]
    assert TargetCache(folder).fetch("k", CHANNELS, never)[1]


def test_an_entry_of_another_version_is_a_miss(folder):
    tensors = {"relu1_1.mean": MEAN, "relu1_1.second": SECOND}
    write_tensor_file(folder / "k.safetensors", tensors, {"key": "k", "format": "2"})
    assert not TargetCache(folder).fetch("k", CHANNELS, targets)[1]


def test_bounded_on_disk_oldest_out_first(folder):
    TargetCache(folder).fetch("0", CHANNELS, targets)
    size = (folder / "0.safetensors").stat().st_size
    os.utime(folder / "0.safetensors", (1, 1))
    cache = TargetCache(folder, disk_bytes=3 * size)
    for number in range(1, 4):
        cache.fetch(str(number), CHANNELS, targets)
        os.utime(folder / f"{number}.safetensors", (number + 1, number + 1))
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == ["1", "2", "3"]
    TargetCache(folder).fetch("1", CHANNELS, never)  # used, so no longer the oldest
    cache.fetch("4", CHANNELS, targets)
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == ["1", "3", "4"]


def test_bounded_in_memory_least_recently_used_out_first():
    one = targets().memory_bytes
    cache = TargetCache(None, memory_bytes=2 * one)
    cache.fetch("a", CHANNELS, targets)
    cache.fetch("b", CHANNELS, targets)
    cache.fetch("a", CHANNELS, never)
    cache.fetch("c", CHANNELS, targets)
    cache.fetch("a", CHANNELS, never)
    assert not cache.fetch("b", CHANNELS, targets)[1]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    found, hit = TargetCache(blocker / "cache").fetch("k", CHANNELS, targets)
    assert not hit
    assert same(found, targets())


def test_nothing_unfinished_is_left(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    TargetCache(folder).fetch("k", CHANNELS, targets)
    assert [path.name for path in folder.iterdir()] == ["k.lock"]


def test_every_field_of_a_key_counts():
    match = ColorMatch("match", "covariance", "c" * 64, (64, 48))
    key = StyleKey("a" * 64, (1, 2), "b" * 64, ("relu1_1",), "max", "reflect", match)
    others = {
        "style_sha256": "d" * 64,
        "size": (2, 1),
        "weights_digest": "d" * 64,
        "layers": ("relu1_1", "relu2_1"),
        "pooling": "average",
        "padding": "zeros",
        "color_match": None,
    }
    assert others.keys() == {field.name for field in fields(StyleKey)}
    matches = [replace(match, color="luminance"), replace(match, method="histogram")]
    matches += [replace(match, content_sha256="d" * 64), replace(match, content_size=(48, 64))]
    changed = [replace(key, **{name: value}) for name, value in others.items()]
    changed += [replace(key, color_match=each) for each in matches]
    assert len({each.digest() for each in (key, *changed)}) == 1 + len(changed)
    assert key.digest() == replace(key).digest()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_shared_by_processes(folder):
    """Two processes write and read the same ten entries; every one of them reads whole entries."""
    script = (
        "import os, sys, torch\n"
        "from pathlib import Path\n"
        "from pipeline.transfer.losses import Moments\n"
        "from pipeline.transfer.target_cache import TargetCache\n"
        "from pipeline.transfer.targets import StyleTargets\n"
        "other = os.fork()\n"  # quicker than to load torch again
        "cache = TargetCache(Path(sys.argv[1]), disk_bytes=1 << 20, memory_bytes=1)\n"
        "for turn in range(40):\n"
        "    value = float(turn % 10)\n"
        "    moments = Moments(torch.full((1, 9), value), torch.full((1, 9, 9), value))\n"
        "    made = StyleTargets({'relu1_1': moments})\n"
        "    found, _ = cache.fetch(f'{turn % 10}', {'relu1_1': 9}, lambda: made)\n"
        "    assert float(found.layers['relu1_1'].second.sum()) == 81 * value\n"
        "assert other == 0 or os.waitpid(other, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)
    assert len([path for path in folder.iterdir() if path.suffix != ".lock"]) == 10


def test_many_at_once_compute_an_entry_once(tmp_path):
    """Each with a cache of its own on one folder, as processes have."""
    computed = []
    together = threading.Barrier(8)

    def fetch(_: int) -> bool:
        cache = TargetCache(tmp_path)
        together.wait()
        return cache.fetch("ab", CHANNELS, lambda: computed.append(1) or targets(1))[1]

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(fetch, range(8))) == [False] + [True] * 7
    assert computed == [1]


def test_a_folder_that_cannot_hold_a_lock_costs_time_only(tmp_path):
    (tmp_path / "file").write_text("no folder")
    computed, found = TargetCache(tmp_path / "file").fetch("ab", CHANNELS, lambda: targets(1))
    assert not found
    assert same(computed, targets(1))


def test_a_disk_without_locks_costs_time_only(tmp_path, monkeypatch):
    def refuse(_lock: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("pipeline.transfer.target_cache.FileLock.__enter__", refuse)
    computed, found = TargetCache(tmp_path).fetch("ab", CHANNELS, lambda: targets(1))
    assert not found
    assert same(computed, targets(1))


def test_spectra_are_kept_in_memory_and_join():
    cache = TargetCache(None)
    one, _ = cache.fetch("1", CHANNELS, lambda: targets(1), decomposed=True)
    again, found = cache.fetch("1", CHANNELS, never, decomposed=True)
    assert found
    assert again.layers["relu1_1"].spectrum is one.layers["relu1_1"].spectrum
    assert one.memory_bytes > targets(1).memory_bytes
    joined = stack_targets([one, cache.fetch("2", CHANNELS, lambda: targets(2), decomposed=True)[0]])
    values, vectors = joined.layers["relu1_1"].spectrum
    covariance = vectors @ torch.diag_embed(values.float()) @ vectors.transpose(1, 2)
    assert torch.allclose(covariance, joined.layers["relu1_1"].covariance, atol=1e-6)
    assert stack_targets([one, targets(2)]).layers["relu1_1"].spectrum is None


def test_the_cache_is_for_its_owner_alone(tmp_path):
    tmp_path.chmod(0o755)
    TargetCache(tmp_path / "cache" / "targets").fetch("ab", CHANNELS, targets)
    for folder in (tmp_path / "cache", tmp_path / "cache" / "targets"):
        assert folder.stat().st_mode & 0o077 == 0
