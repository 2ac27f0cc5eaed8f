from __future__ import annotations

import pytest
import torch

from pipeline.spec.recipe import Recipe
from pipeline.transfer import memory
from pipeline.transfer.devices import DevicePlan
from pipeline.transfer.memory import MemoryModel, picture_bytes, style_bytes

VGG = {"conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv3_1": 256, "conv4_1": 512, "conv5_1": 512}
CPU, GPU = (DevicePlan(device, "", "bfloat16", 0) for device in ("cpu", "cuda:0"))


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch):
    monkeypatch.setattr(memory, "own_bytes", lambda: 0)
    monkeypatch.setattr(memory, "others_bytes", lambda: 0)
    monkeypatch.setattr(memory, "LIBRARY_BYTES", 0)


def test_memory_grows_with_pixels_width_precision_and_history():
    recipe = Recipe(margin=0)
    plain = picture_bytes(recipe, VGG, 512, 512, 2)
    assert picture_bytes(recipe, VGG, 1024, 512, 2) == 2 * plain
    assert picture_bytes(recipe, VGG, 512, 512, 4) > 1.3 * plain
    assert picture_bytes(recipe, {"conv1_1": 16}, 512, 512, 2) < 0.6 * plain
    assert picture_bytes(Recipe(margin=16), VGG, 480, 480, 2) == plain
    canvas = 12 * 512 * 512
    assert picture_bytes(Recipe(margin=0, history=11), VGG, 512, 512, 2) == plain + 2 * canvas
    assert picture_bytes(Recipe(margin=0, optimizer="adam"), VGG, 512, 512, 2) == plain - 18 * canvas


def test_memory_of_a_style_grows_with_its_pixels_and_what_is_kept_of_it():
    """Measured: 769 bytes a pixel with the first layers of five blocks, and with one; 1,025 with three."""
    first = [f"relu{block}_1" for block in range(1, 6)]
    plain = style_bytes(VGG, first, (500, 400))
    assert 769 * 200_000 < plain < 1.5 * 769 * 200_000
    assert abs(2 * style_bytes(VGG, first, (250, 400)) - plain) <= 1
    # Larger ones are analysed in tiles.
    assert style_bytes(VGG, first, (4096, 4096)) < 0.3 * 4096**2 / 200_000 * plain
    assert 769 * 200_000 < style_bytes(VGG, ["relu4_1"], (500, 400)) < plain
    assert style_bytes(VGG, ["conv1_1", "conv1_2", "relu5_1"], (500, 400)) > 1025 * 200_000
    assert style_bytes({"conv1_1": 16}, ["relu1_1"], (500, 400)) < 0.4 * plain


def test_what_is_free_decides(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 1000)
    assert MemoryModel(CPU).fits(1000, 1)
    assert MemoryModel(CPU).fits(300, 3)
    for size, pictures in ((1001, 1), (301, 3), (100, 10)):
        assert not MemoryModel(CPU).fits(size, pictures)


def test_one_picture_is_always_tried_on_a_gpu(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 1000)
    assert MemoryModel(GPU).fits(5000, 1)
    assert not MemoryModel(GPU).fits(5000, 2)


def test_what_was_seen_corrects_the_estimate(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 1000)
    model = MemoryModel(GPU)
    assert model.fits(400, 2)
    model.factor = 1.5
    assert not model.fits(400, 2)


def test_where_nothing_is_known_everything_is_tried(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: None)
    assert MemoryModel(CPU).fits(1 << 60, 8)


def test_failed_allocations_are_known_by_class_or_message():
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(MemoryError())
    assert memory.is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried ..."))
    assert memory.is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_systems_memory(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  24684084 kB\nMemFree:  19660168 kB\nMemAvailable:   22392096 kB\n")
    assert memory._available_bytes(meminfo) == 22392096 * 1024
    assert memory._available_bytes(tmp_path / "absent") is None


def test_beside_others_a_process_takes_its_share_and_alone_all(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 1000)
    model = MemoryModel(CPU, share_bytes=400)
    assert model.fits(400, 1, alone=False)
    assert model.fits(1000, 1)
    for size, pictures in ((401, 1), (181, 2)):  # of several at once nine tenths
        assert model.fits(size, pictures)
        assert not model.fits(size, pictures, alone=False)
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 100)  # others took more than their share
    assert not model.fits(101, 1, alone=False)


def test_processes_share_what_is_free_before_they_begin(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 1000)
    assert [memory.share_bytes(CPU, count) for count in (1, 2, 3)] == [None, 500, 333]
    assert memory.share_bytes(DevicePlan("cuda:0", "", "bfloat16", 90), 2) == 45
    monkeypatch.setattr(memory, "free_bytes", lambda plan: None)
    assert memory.share_bytes(CPU, 2) is None


def test_a_limit_counts_what_a_process_and_the_others_have(monkeypatch):
    """Not what it keeps for the next picture: that is seen as the least it ever had."""
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 10_000)
    monkeypatch.setattr(memory, "own_bytes", lambda: 200)
    monkeypatch.setattr(memory, "others_bytes", lambda: 250)
    monkeypatch.setattr(memory, "LIBRARY_BYTES", 50)
    model = MemoryModel(CPU, share_bytes=450, limit_bytes=1000)
    assert model.free_bytes() == 1000 - 200 - 250 - 50
    assert model.free_bytes(alone=False) == 450 - 200 - 50
    monkeypatch.setattr(memory, "own_bytes", lambda: 700)
    assert model.free_bytes() == 500
    monkeypatch.setattr(memory, "others_bytes", lambda: 2000)
    assert model.free_bytes() == 0
    assert not model.fits(1, 1)
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 100)  # other programs took the rest
    monkeypatch.setattr(memory, "others_bytes", lambda: 0)
    assert model.free_bytes() == 100


def test_with_gaps_a_process_may_have_all_that_its_limit_leaves(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 10_000)
    monkeypatch.setattr(memory, "own_bytes", lambda: 200)
    monkeypatch.setattr(memory, "others_bytes", lambda: 250)
    monkeypatch.setattr(memory, "LIBRARY_BYTES", 50)
    assert MemoryModel(CPU).most_bytes() == 200 + 0.9 * 10_000
    model = MemoryModel(CPU, share_bytes=450, limit_bytes=1000)
    assert model.most_bytes() == 1000 - 250 - 50
    assert model.most_bytes(alone=False) == 450 - 50
    monkeypatch.setattr(memory, "own_bytes", lambda: 700)  # with what it keeps from the picture before
    assert model.most_bytes() == 1000 - 250 - 50
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 10)
    assert MemoryModel(CPU).most_bytes() == 700 + 9
    monkeypatch.setattr(memory, "free_bytes", lambda plan: None)
    assert MemoryModel(CPU).most_bytes() == 700 + memory.FREE_IF_UNKNOWN


def test_a_limit_holds_on_a_gpu_too_even_for_one_picture(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 10_000)
    monkeypatch.setattr(memory, "own_bytes", lambda: 200)  # of the system's memory, which does not matter
    alone, beside = MemoryModel(GPU, limit_bytes=1000), MemoryModel(GPU, 400, 1000)
    assert (alone.free_bytes(), alone.free_bytes(alone=False)) == (1000, 1000)
    assert (beside.free_bytes(), beside.free_bytes(alone=False)) == (400, 400)
    assert alone.fits(1000, 1)
    assert not alone.fits(1001, 1)


def test_a_limit_holds_where_nothing_else_is_known(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: None)
    assert MemoryModel(CPU, limit_bytes=1000).free_bytes() == 1000
    assert not MemoryModel(DevicePlan("mps", "", "float32", 0), limit_bytes=1000).fits(1001, 1)


def test_processes_share_a_limit_without_what_the_first_one_has(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda plan: 3000)
    monkeypatch.setattr(memory, "own_bytes", lambda: 200)
    assert memory.share_bytes(CPU, 4, 1000) == 200
    assert memory.share_bytes(CPU, 4, 100_000) == 750
    assert memory.share_bytes(CPU, 4, 100) == 0
    assert memory.share_bytes(CPU, 1, 1000) is None
    assert memory.share_bytes(DevicePlan("cuda:0", "", "bfloat16", 90), 2, 60) == 30
    monkeypatch.setattr(memory, "free_bytes", lambda plan: None)
    assert memory.share_bytes(CPU, 4, 1000) == 200


def test_addresses_are_those_that_are_left_beside_libraries(monkeypatch):
    monkeypatch.setattr(memory, "LIBRARY_ADDRESSES", 50)
    monkeypatch.setattr(memory, "used_addresses", lambda: 3000)
    limits = iter([None, 4000, 3010])
    monkeypatch.setattr(memory, "address_limit", lambda: next(limits))
    assert [MemoryModel(CPU).address_bytes() for _ in range(3)] == [None, 950, 0]
    assert MemoryModel(GPU).address_bytes() is None
