from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.transfer.tensors import (
    resized,
    scaled,
    shrunk,
    side_by_side,
    to_image,
    to_pixels,
    to_tensor,
)

RED = (200, 30, 20)


def halves() -> Image.Image:
    """Red on the left, white on the right, wider than high."""
    image = Image.new("RGB", (40, 20), "white")
    image.paste(RED, (0, 0, 20, 20))
    return image


def test_tensor_and_back():
    image = halves()
    tensor = to_tensor(image, image.size)
    assert tensor.shape == (1, 3, 20, 40)
    assert tensor.is_contiguous()
    assert tensor[0, :, 0, 0].mul(255).round().tolist() == list(RED)
    assert to_image(tensor).tobytes() == image.tobytes()
    assert to_tensor(image, (10, 6)).shape == (1, 3, 6, 10)


def test_out_of_range_is_clipped_on_the_way_out():
    image = to_image(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))
    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_side_by_side_has_the_height_of_the_last():
    sheet = side_by_side([halves(), Image.new("RGB", (10, 10), RED), Image.new("RGB", (30, 40))], gap=2)
    assert sheet.size == (80 + 2 + 40 + 2 + 30, 40)


def test_sixteen_bits_keep_their_steps():
    ramp_HWC = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) + 30_000
    tensor = to_tensor(ramp_HWC, (4, 4))
    assert tensor.shape == (1, 3, 4, 4)
    assert np.array_equal(to_pixels(tensor, 16), ramp_HWC)
    assert to_pixels(tensor, 8).dtype == np.uint8


def test_sixteen_bits_are_scaled_as_eight_are():
    noise_HWC = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    eight = to_tensor(Image.fromarray(noise_HWC), (12, 7))
    sixteen = to_tensor(noise_HWC.astype(np.uint16) * 257, (12, 7))
    assert (eight - sixteen).abs().max() < 1 / 255
    assert (resized(to_tensor(Image.fromarray(noise_HWC), (30, 20)), (12, 7)) - sixteen).abs().max() < 1e-6


def test_scaled_knows_the_range_of_what_it_is_given():
    for channel_HW in (
        np.full((2, 3), 255, np.uint8),
        np.full((2, 3), 65535, np.uint16),
        np.ones((2, 3), np.float32),
    ):
        assert (scaled(channel_HW, (5, 4)) == np.ones((4, 5), np.float32)).all()


@pytest.mark.parametrize("size", [(20, 30), (40, 60), (64, 60), (97, 1000), (3, 2000), (40, 3)], ids=str)
def test_a_batch_is_shrunk_to_a_long_edge_and_shows_the_same(size: tuple[int, int]) -> None:
    ramp_HW = torch.linspace(0, 1, size[1]).expand(size)
    image_BCHW = torch.stack([ramp_HW, 1 - ramp_HW, torch.full(size, 0.25)])[None]
    small_BCHW = shrunk(image_BCHW, 40)
    assert max(small_BCHW.shape[2:]) == min(40, max(size))
    assert abs(small_BCHW.shape[3] / small_BCHW.shape[2] - size[1] / size[0]) < 0.05 * size[1] / size[0] or (
        min(small_BCHW.shape[2:]) == 1
    )
    assert (small_BCHW.mean((2, 3)) - image_BCHW.mean((2, 3))).abs().max() < 0.02
    assert (small_BCHW[0, 2] - 0.25).abs().max() < 1e-6
    steps = small_BCHW[0, 0].mean(0).diff()
    assert (steps > 0).all()
