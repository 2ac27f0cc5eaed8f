"""Samples of any kind to 16 bits, to 8, upright, and without their alpha."""

from __future__ import annotations

import numpy as np
import pytest
from picture_files import noise
from PIL import Image, ImageOps

from pipeline.images.samples import (
    ROWS,
    on_white,
    possible_whites,
    split_alpha,
    to_8_bits,
    to_16_bits,
    upright,
    without_association,
)


@pytest.mark.parametrize(
    ("kind", "bits", "whites"),
    [
        ("u", 8, (255,)),
        ("u", 12, (4095,)),
        ("u", 16, (65535,)),
        ("u", 32, (255, 65535, 2**32 - 1)),
        ("i", 8, (127,)),
        ("i", 16, (255, 32767)),
        ("i", 32, (255, 65535, 2**31 - 1)),
        ("f", 32, (1, 255, 65535)),
    ],
)
def test_the_white_of_every_kind(kind, bits, whites):
    assert possible_whites(kind, bits) == whites


def test_samples_of_16_bits_are_not_touched():
    samples_HWC = noise(3, np.uint16)
    result_HWC, notes = to_16_bits(samples_HWC, (65535,))
    assert result_HWC is samples_HWC
    assert notes == ()


def test_alpha_does_not_decide_which_value_is_white():
    samples_HWC = np.full((2, 2, 4), 0.5)
    samples_HWC[:, :, 3] = 255
    result_HWC, (note,) = to_16_bits(samples_HWC, (1, 255, 65535))
    assert result_HWC[0, 0].tolist() == [32768, 32768, 32768, 65535]
    assert "; 1 is assumed" in note


def test_eight_bits_are_rounded():
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_8_bits(every), np.round(every / 257))


@pytest.mark.parametrize("orientation", [*range(10), None, "6"])
def test_a_picture_is_turned_as_pillow_turns_it(orientation):
    pixels_HWC = noise(3, np.uint8, 5, 7)
    image = Image.fromarray(pixels_HWC)
    if isinstance(orientation, int):
        image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(upright(pixels_HWC.astype(np.uint16), orientation), expected)


def test_alpha_is_the_last_channel_or_a_colour_and_nothing_if_all_is_opaque():
    samples_HWC = noise(4, np.uint16)
    colors_HWC, alpha_HW = split_alpha(samples_HWC)
    assert np.array_equal(np.dstack([colors_HWC, alpha_HW]), samples_HWC)
    samples_HWC[:, :, 3] = 65535
    assert split_alpha(samples_HWC)[1] is None
    colour = tuple(samples_HWC[2, 3, :3].tolist())
    _, alpha_HW = split_alpha(samples_HWC[:, :, :3], colour)
    assert np.argwhere(alpha_HW == 0).tolist() == [[2, 3]]
    assert split_alpha(samples_HWC[:, :, :3])[1] is None


def test_alpha_is_put_on_white_and_association_undone_in_all_rows():
    samples_HWC = noise(4, np.uint16, 2 * ROWS + 3)
    colors_HWC, alpha = samples_HWC[:, :, :3], samples_HWC[:, :, 3:] / 65535
    expected = np.round(colors_HWC * alpha + 65535 * (1 - alpha))
    assert np.array_equal(on_white(colors_HWC, samples_HWC[:, :, 3]), expected)
    associated_HWC = np.dstack([np.round(colors_HWC * alpha), samples_HWC[:, :, 3]]).astype(np.uint16)
    again_HWC = without_association(associated_HWC)
    assert np.abs((again_HWC[:, :, :3] - colors_HWC.astype(int)) * alpha).max() <= 1
    assert np.array_equal(again_HWC[:, :, 3], samples_HWC[:, :, 3])


def test_colours_brighter_than_their_alpha_are_white():
    samples_HWC = np.array([[[300, 200, 0, 200], [5, 0, 0, 0]]], np.uint16)
    assert without_association(samples_HWC)[0, 0].tolist() == [65535, 65535, 0, 200]
    assert without_association(samples_HWC)[0, 1, 3] == 0
