"""Our own way through ICC profiles in 16 bits, held to Little CMS's in 8."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from icc_profiles import ADOBE, LOOKUP, P3, PROFILES, formula, make_profile, table
from PIL import Image, ImageCms

from pipeline.images.profiles import (
    LARGEST,
    NOT_USED,
    from_srgb,
    is_matrix_profile,
    srgb_profile,
    to_8_bits,
    to_srgb_16,
    why_not_kept,
)
from pipeline.images.reading import decode_picture
from pipeline.images.writing import encode_image


def little_cms(image: Image.Image, profile: bytes) -> Image.Image:
    """Without black point compensation, which the perceptual intent would bring."""
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    converted = ImageCms.profileToProfile(image, source, target, intent, "RGB")
    assert converted is not None
    return converted


@pytest.mark.parametrize("name", PROFILES)
def test_sixteen_bits_come_out_as_little_cms_has_it_in_eight(name):
    eight_HWC = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    result_HWC, notes = to_srgb_16(eight_HWC.astype(np.uint16) * 257, PROFILES[name])
    assert notes == ()
    wanted = np.asarray(little_cms(Image.fromarray(eight_HWC), PROFILES[name]), int)
    assert np.abs(wanted - eight_HWC).max() > 10, "the profile does nothing"
    assert np.abs(result_HWC / 257 - wanted).max() < 2


def test_grey_comes_out_as_little_cms_has_it():
    profile = make_profile(formula(0, 1.8), None)
    eight_HW = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wanted = np.asarray(little_cms(Image.fromarray(eight_HW), profile), int)
    result_HWC, notes = to_srgb_16(eight_HW[:, :, None].astype(np.uint16) * 257, profile)
    assert notes == ()
    assert result_HWC.shape == (16, 16, 1)
    assert np.abs(result_HWC[:, :, 0] / 257 - wanted[:, :, 0]).max() < 2


def test_steps_finer_than_eight_bits_survive_a_profile():
    ramp_HWC = np.repeat(np.arange(30_000, 30_300, dtype=np.uint16)[None, :, None], 3, axis=2)
    result_HWC, _ = to_srgb_16(ramp_HWC, PROFILES["Adobe RGB"])
    assert len(np.unique(result_HWC[:, :, 1])) > 200
    assert (np.diff(result_HWC[0, :, 1].astype(int)) >= 0).all()


@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_our_own_results_are_read_as_they_were_written(image_format):
    pixels_HWC = np.random.default_rng(0).integers(0, 65536, (9, 8, 3), np.uint16)
    found = decode_picture(encode_image(pixels_HWC, image_format, 95, {}), "result")
    assert np.array_equal(found.rgb16_HWC, pixels_HWC)
    eight_HWC = to_8_bits(pixels_HWC)
    found = decode_picture(encode_image(eight_HWC, image_format, 95, {}), "result")
    assert np.array_equal(np.asarray(found.image), eight_HWC)


def test_a_profile_beyond_curves_and_a_matrix_is_applied_in_eight_bits_and_said():
    samples_HWC = np.random.default_rng(0).integers(16_000, 50_000, (70, 50, 3), np.uint16)
    result_HWC, notes = to_srgb_16(samples_HWC, LOOKUP)
    assert (result_HWC % 257 == 0).all()
    assert np.abs(result_HWC.astype(int) - samples_HWC).max() > 1000
    assert notes == ("its colour profile has more than curves and a matrix; colours are converted in 8 bits",)


UNUSABLE = {
    "garbage": b"garbage" * 30,
    "cut short": PROFILES["Adobe RGB"][:150],
    "Lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    "grey": make_profile(formula(0, 1.8), None),
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_profile_that_cannot_be_used_changes_no_sample_and_is_said(name, dtype):
    pixels_HWC = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 8, 3), dtype, endpoint=True)
    found = decode_picture(encode_image(pixels_HWC, "png", 90, {}, profile=UNUSABLE[name]), "a.png")
    assert np.array_equal(found.rgb16_HWC if dtype is np.uint16 else np.asarray(found.image), pixels_HWC)
    assert found.notes == (f"a.png: {NOT_USED}.",)


def test_grey_of_sixteen_bits_with_a_profile_of_colours_keeps_its_samples():
    samples_HWC = np.arange(4000, 4020, dtype=np.uint16).reshape(4, 5, 1)
    result_HWC, notes = to_srgb_16(samples_HWC, LOOKUP)
    assert np.array_equal(result_HWC, samples_HWC)
    assert notes == (NOT_USED,)


def test_damaged_profiles_are_no_reason_to_fail():
    samples_HWC, random = np.full((4, 5, 3), 40_000, np.uint16), np.random.default_rng(0)
    for profile in PROFILES.values():
        for _ in range(40):
            flipped = bytearray(profile)
            for place in random.integers(0, len(profile), 3):
                flipped[place] ^= int(random.integers(1, 256))
            result_HWC, _ = to_srgb_16(samples_HWC, bytes(flipped))
            assert result_HWC.dtype == np.uint16


@pytest.mark.parametrize("name", PROFILES)
def test_results_are_brought_to_a_profile_as_little_cms_does_it(name):
    eight_HWC = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    profile = PROFILES[name]
    result_HWC = from_srgb(eight_HWC.astype(np.uint16) * 257, profile)
    srgb, target = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    wanted = ImageCms.profileToProfile(Image.fromarray(eight_HWC), srgb, target, intent, "RGB")
    wanted = np.asarray(wanted, int)
    assert np.abs(wanted - eight_HWC).max() > 10, "the profile does nothing"
    difference = np.abs(result_HWC / 257 - wanted)
    # Where a curve is steep near black, eight bits on the way are too few for Little CMS.
    assert np.quantile(difference, 0.99) < 2
    assert difference.mean() < 0.4


@pytest.mark.parametrize("name", PROFILES)
def test_what_is_brought_to_a_profile_comes_back(name):
    """In 16 bits, for colours that these profiles have, but where a curve begins flat or on a pedestal."""
    samples_HWC = np.random.default_rng(0).integers(16_000, 50_000, (70, 50, 3), np.uint16)
    assert why_not_kept(PROFILES[name]) == ""
    assert is_matrix_profile(PROFILES[name])
    there_HWC = from_srgb(samples_HWC, PROFILES[name])
    back_HWC, notes = to_srgb_16(there_HWC, PROFILES[name])
    assert notes == ()
    assert np.abs(back_HWC.astype(int) - samples_HWC).max() <= 6
    assert len(np.unique(there_HWC & 255)) == 256


def test_a_profile_that_is_srgb_changes_nothing():
    samples_HWC = np.random.default_rng(0).integers(0, 65536, (9, 8, 3), np.uint16)
    assert np.array_equal(from_srgb(samples_HWC, srgb_profile()), samples_HWC)
    assert why_not_kept(srgb_profile()) == ""


def test_a_profile_of_tables_is_kept_in_eight_bits():
    assert why_not_kept(LOOKUP) == ""
    assert not is_matrix_profile(LOOKUP)
    samples_HWC = np.random.default_rng(0).integers(16_000, 50_000, (70, 50, 3), np.uint16)
    there_HWC = from_srgb(samples_HWC, LOOKUP)
    assert (there_HWC % 257 == 0).all()
    plain_HWC = from_srgb(samples_HWC, make_profile(formula(0, 1.8), P3))
    assert np.abs(there_HWC.astype(int) - plain_HWC).max() < 3 * 257


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (b"", "no colour profile"),
        (make_profile(formula(0, 1.8), None), "not an RGB profile"),
        (b"not a profile", "damaged"),
        (b"garbage" * 30, "damaged"),
        (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), "not an RGB profile"),
        (PROFILES["Adobe RGB"][:150], "damaged"),
        (make_profile(table(0, 0), ADOBE), "damaged"),
        (make_profile(table(65535, 0), ADOBE), "damaged"),
        (make_profile(table(), [P3[0]] * 3), "damaged"),
        (PROFILES["linear"] + bytes(LARGEST), "cannot be converted to"),
    ],
    ids=range(10),
)
def test_what_cannot_be_kept(profile, reason):
    assert reason in why_not_kept(profile)


def test_damaged_profiles_are_kept_or_not_and_no_reason_to_fail():
    samples_HWC, random = np.full((4, 5, 3), 40_000, np.uint16), np.random.default_rng(0)
    kept = 0
    for profile in (*PROFILES.values(), LOOKUP):
        for _ in range(15):
            flipped = bytearray(profile)
            for place in random.integers(0, len(profile), 3):
                flipped[place] ^= int(random.integers(1, 256))
            if not why_not_kept(bytes(flipped)):
                kept += 1
                assert from_srgb(samples_HWC, bytes(flipped)).dtype == np.uint16
    assert kept > 10


def test_the_srgb_profile_is_one_and_always_the_same_bytes():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    assert "sRGB" in ImageCms.getProfileDescription(profile)
    srgb_profile.cache_clear()
    assert srgb_profile()[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
