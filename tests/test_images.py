from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pipeline.errors import ImageError
from pipeline.neural.images import fit_size, side_by_side, to_image, to_tensor
from pipeline.neural.reading import decode_image, read_bytes
from pipeline.neural.writing import encode_image

RED = (200, 30, 20)


def encoded(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def halves() -> Image.Image:
    """Red on the left, white on the right, wider than high."""
    image = Image.new("RGB", (40, 20), "white")
    image.paste(RED, (0, 0, 20, 20))
    return image


def decoded(data: bytes) -> Image.Image:
    image = decode_image(data, "picture")
    assert image.mode == "RGB"
    return image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    grey = Image.new("L", (16, 12), 128)
    if mode == "I;16":
        image = Image.fromarray(np.full((12, 16), 128 * 257, np.uint16))
    elif mode == "I":
        image = Image.fromarray(np.full((12, 16), 128 * 257, np.int32))
    elif mode == "F":
        image = Image.fromarray(np.full((12, 16), 128 / 255, np.float32))
    else:
        image = grey.convert(mode)
    data = encoded(image, "TIFF" if mode in {"CMYK", "F", "I"} else "PNG")
    mean = np.asarray(decoded(data)).mean()
    # A one-bit picture dithers; all the others hold the grey.
    assert mean == pytest.approx(128, abs=20 if mode == "1" else 2)


def test_transparency_is_put_on_white():
    image = Image.new("RGBA", (4, 4), (*RED, 0))
    image.putpixel((0, 0), (*RED, 255))
    result = decoded(encoded(image))
    assert result.getpixel((0, 0)) == RED
    assert result.getpixel((3, 3)) == (255, 255, 255)


def test_a_transparent_palette_is_put_on_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *RED])
    assert decoded(encoded(image, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = halves().transpose(undo[orientation]) if orientation in undo else halves()
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decoded(encoded(stored, exif=exif))
    assert result.size == (40, 20)
    assert result.getpixel((2, 10)) == RED
    assert result.getpixel((37, 10)) == (255, 255, 255)


def test_a_colour_profile_is_applied():
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(halves(), srgb, lab, outputMode="LAB")
    data = encoded(image, "TIFF", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert np.abs(np.asarray(decoded(data), int) - np.asarray(halves(), int)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_colour_profile_counts_in_pictures_with_alpha_or_a_palette(mode, monkeypatch):
    seen = []
    original = ImageCms.profileToProfile

    def spy(image, *arguments, **options):
        seen.append(image.mode)
        return original(image, *arguments, **options)

    monkeypatch.setattr(ImageCms, "profileToProfile", spy)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoded(encoded(halves().convert(mode), icc_profile=profile))
    assert seen == ["RGB"]


def test_a_damaged_profile_is_ignored():
    assert decoded(encoded(halves(), icc_profile=b"not a profile")).getpixel((0, 0)) == RED


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_every_truncation_gives_a_picture_or_a_clear_error(image_format):
    noise = np.random.default_rng(0).integers(0, 255, (9, 8, 3), np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    refused = 0
    for length in range(0, len(data), 3):
        try:
            decoded(data[:length])
        except ImageError as error:
            assert "picture:" in str(error)
            assert error.next_step
            refused += 1
    assert refused > 0


def test_clear_errors(tmp_path):
    for data, words in (
        (b"", "empty"),
        (b"hello, world", "not a picture"),
        (encoded(halves())[:60], "damaged"),
    ):
        with pytest.raises(ImageError, match=words):
            decode_image(data, "picture")
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        read_bytes(tmp_path / "absent.jpg")
    with pytest.raises(ImageError):
        read_bytes(tmp_path)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 30):  # a warning of Pillow's, and an error
        with pytest.raises(ImageError, match="more than 100 pixels"):
            decode_image(encoded(Image.new("L", (side, side))), "bomb")


@pytest.mark.parametrize(
    ("size", "edge", "square", "expected"),
    [
        ((640, 480), 512, False, (512, 384)),
        ((480, 640), 512, False, (384, 512)),
        ((100, 100), 512, False, (512, 512)),
        ((640, 480), 512, True, (512, 512)),
        ((10_000, 3), 512, False, (512, 1)),
    ],
)
def test_fit_size(size, edge, square, expected):
    assert fit_size(size, edge, square) == expected


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


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_a_result_carries_its_provenance_and_is_the_same_bytes_twice(image_format):
    provenance = {"key": "abc", "recipe": {"size": 512}, "content": "Übung [1].jpg"}
    data = encode_image(halves(), image_format, 95, provenance)
    assert data == encode_image(halves(), image_format, 95, provenance)
    image = Image.open(io.BytesIO(data))
    stored = image.info["style-pipeline"] if image_format == "png" else image.info["comment"].decode()
    assert json.loads(stored) == provenance


def test_quality_counts():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    assert len(encode_image(noise, "jpeg", 30, {})) < len(encode_image(noise, "jpeg", 95, {}))


def test_side_by_side_has_the_height_of_the_last():
    sheet = side_by_side([halves(), Image.new("RGB", (10, 10), RED), Image.new("RGB", (30, 40))], gap=2)
    assert sheet.size == (80 + 2 + 40 + 2 + 30, 40)
