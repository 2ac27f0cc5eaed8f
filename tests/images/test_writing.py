from __future__ import annotations

import io

import numpy as np
import pytest
from icc_profiles import P3, formula, make_profile
from PIL import Image, ImageCms

from pipeline.errors import ImageError
from pipeline.images.metadata import Kept
from pipeline.images.reading import decode_picture
from pipeline.images.writing import LONGEST, check_size, encode_image, read_provenance

PROVENANCE = {"key": "abc", "recipe": {"size": 512}, "content": "Übung [1] <&> ]]>.jpg", "style": "夜.png"}
KINDS = [("png", 8), ("png", 16), ("jpeg", 8), ("webp", 8), ("tiff", 8), ("tiff", 16)]
kinds = pytest.mark.parametrize(("image_format", "bits"), KINDS)


def pixels(channels: int, bits: int, height: int = 70, width: int = 30) -> np.ndarray:
    """Smooth, so that lossy formats keep it; higher than a strip of a TIFF."""
    rows, columns = np.mgrid[0:height, 0:width]
    light = np.stack([rows / height, columns / width, (rows + columns) / (height + width), rows / height], 2)
    return (light[:, :, :channels] * (2**bits - 1)).round().astype(np.uint8 if bits == 8 else np.uint16)


@kinds
def test_a_result_carries_its_provenance_and_is_the_same_bytes_twice(image_format, bits):
    data = encode_image(pixels(3, bits), image_format, 95, PROVENANCE)
    assert data == encode_image(pixels(3, bits), image_format, 95, PROVENANCE)
    assert read_provenance(data, "result") == PROVENANCE


@kinds
def test_what_is_written_is_what_is_read(image_format, bits):
    pixels_HWC = pixels(3, bits)
    found = decode_picture(encode_image(pixels_HWC, image_format, 100, PROVENANCE), "result")
    read_HWC = np.asarray(found.image) if bits == 8 else found.rgb16_HWC
    lossy = image_format in {"jpeg", "webp"}
    assert np.abs(read_HWC.astype(int) - pixels_HWC).max() <= (6 if lossy else 0)
    assert (found.rgb16_HWC is not None) == (bits == 16)
    if bits == 16:
        assert len(np.unique(read_HWC & 255)) > 100, "the lower bytes say nothing"


@pytest.mark.parametrize(("image_format", "bits"), [kind for kind in KINDS if kind[0] != "jpeg"])
def test_alpha_is_written(image_format, bits):
    pixels_HWC = pixels(4, bits)
    data = encode_image(pixels_HWC, image_format, 95, PROVENANCE)
    assert Image.open(io.BytesIO(data)).mode == "RGBA"
    assert np.array_equal(decode_picture(data, "result").alpha_HW, pixels_HWC[:, :, 3])


@kinds
def test_every_file_says_that_it_is_srgb(image_format, bits):
    opened = Image.open(io.BytesIO(encode_image(pixels(3, bits), image_format, 95, PROVENANCE)))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(opened.info["icc_profile"]))
    assert "sRGB" in ImageCms.getProfileDescription(profile)


@kinds
def test_a_file_can_have_another_profile(image_format, bits):
    profile = make_profile(formula(0, 1.8), P3)
    data = encode_image(pixels(3, bits), image_format, 95, PROVENANCE, profile=profile)
    assert Image.open(io.BytesIO(data)).info["icc_profile"] == profile
    assert decode_picture(data, "result").profile == profile
    assert read_provenance(data, "result") == PROVENANCE


@kinds
def test_exif_is_kept_where_it_is_given(image_format, bits):
    exif = Image.Exif()
    exif[0x010F], exif[0x8769] = "Camera", {0x9003: "2020:01:02 03:04:05"}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.0)}
    data = encode_image(pixels(3, bits), image_format, 95, PROVENANCE, Kept(exif.tobytes()))
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        found = opened.getexif()
        assert found[0x010F] == "Camera"
        assert found.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05"}
        assert found.get_ifd(0x8825) == {1: "N", 2: (48.0, 12.0, 30.0)}
    assert read_provenance(data, "result") == PROVENANCE
    # And on again, through another job.
    again = encode_image(
        pixels(3, bits), image_format, 95, PROVENANCE, Kept(decode_picture(data, "result").metadata.exif.data)
    )
    assert len(again) == len(data)


def test_jpegs_keep_their_colour_at_full_size():
    """4:4:4: a colour that changes at every pixel is still there."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (220, 40, 40), (40, 40, 220)
    read = np.asarray(Image.open(io.BytesIO(encode_image(stripes, "jpeg", 95, {}))), int)
    assert np.abs(read - stripes).mean() < 6


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_quality_counts(image_format):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert len(encode_image(noise, image_format, 30, {})) < len(encode_image(noise, image_format, 95, {}))


def test_a_side_that_a_format_cannot_hold():
    for image_format, longest in LONGEST.items():
        check_size(image_format, (longest, 10))
        with pytest.raises(ImageError, match=f"at most {longest:,} pixels"):
            check_size(image_format, (10, longest + 1))
    check_size("png", (10**6, 10))


@pytest.mark.parametrize("comment", [b"", b"holiday", b"[1]", b'"text"', b"{", b"\xff{}", b"[" * 30_000])
def test_what_others_wrote_into_a_file_is_no_provenance(comment):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG", comment=comment)
    assert read_provenance(buffer.getvalue(), "theirs") is None


def test_provenance_is_read_without_decoding(monkeypatch):
    data = encode_image(pixels(3, 8), "tiff", 95, PROVENANCE)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert read_provenance(data, "result") == PROVENANCE
