"""Pillow images and samples of 16 bits: upright, in sRGB, transparency apart."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from picture_files import RED, encoded, halves, joined, noise, png, tiff_file
from PIL import Image, ImageCms

from pipeline.images.decoding import Decoded, decode_pillow
from pipeline.images.reading import decode_picture
from pipeline.images.writing import encode_image


def decoded(data: bytes) -> Image.Image:
    image = decode_picture(data, "picture").image
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


@pytest.mark.parametrize(("mode", "premultiplied"), [("LA", "La"), ("RGBA", "RGBa")])
def test_a_picture_whose_colours_are_multiplied_by_its_alpha_is_read_as_another(mode, premultiplied):
    """No file has such a mode, but a Pillow image may."""
    image = Image.new("L", (4, 3), 100).convert(mode)
    image.putalpha(128)
    plain, found = decode_pillow(image), decode_pillow(image.convert(premultiplied))
    assert np.array_equal(found.alpha_HW, plain.alpha_HW)
    difference = np.asarray(found.image).astype(int) - np.asarray(plain.image)
    assert abs(difference).max() <= 1


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


def in_16_bits(data: bytes) -> Decoded:
    found = decode_picture(data, "picture")
    assert found.rgb16_HWC is not None
    assert found.rgb16_HWC.dtype == np.uint16
    return found


@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_sixteen_bits_of_colour_are_all_read(image_format):
    pixels_HWC = noise(3, np.uint16)
    found = in_16_bits(encode_image(pixels_HWC, image_format, 95, {}))
    assert np.array_equal(found.rgb16_HWC, pixels_HWC)
    assert np.array_equal(np.asarray(found.image), np.round(pixels_HWC / 257))
    assert found.alpha_HW is None
    assert found.notes == ()


@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_sixteen_bits_of_alpha_are_all_read(image_format):
    pixels_HWC = noise(4, np.uint16)
    found = in_16_bits(encode_image(pixels_HWC, image_format, 95, {}))
    alpha = pixels_HWC[:, :, 3:] / 65535
    expected = pixels_HWC[:, :, :3] * alpha + 65535 * (1 - alpha)
    assert np.array_equal(found.alpha_HW, pixels_HWC[:, :, 3])
    assert np.array_equal(found.rgb16_HWC, np.round(expected))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "LA", "big-endian"])
def test_sixteen_bits_of_grey_are_all_read(kind):
    grey_HW = noise(1, np.uint16)[:, :, 0]
    if kind == "LA":  # Pillow writes no grey with alpha in 16 bits
        data = png(grey_HW.shape, 4, np.dstack([grey_HW, np.full_like(grey_HW, 65535)]))
    elif kind == "big-endian":
        data = tiff_file(grey_HW, ">")
    else:
        data = encoded(Image.fromarray(grey_HW), kind)
    found = in_16_bits(data)
    assert np.array_equal(found.rgb16_HWC, np.dstack([grey_HW] * 3))
    assert found.alpha_HW is None


def test_grey_with_alpha_in_sixteen_bits():
    samples_HWC = noise(2, np.uint16)
    found = in_16_bits(png(samples_HWC.shape[:2], 4, samples_HWC))
    assert np.array_equal(found.alpha_HW, samples_HWC[:, :, 1])


@pytest.mark.parametrize("maximum", [65535, 1023, 256])
def test_a_ppm_in_colour_of_more_than_eight_bits(maximum):
    samples_HWC = noise(3, np.uint16, 70).astype(int) % (maximum + 1)
    header = f"P6 # a comment\n8 70\n{maximum}\n".encode()
    found = in_16_bits(header + samples_HWC.astype(">u2").tobytes())
    assert np.array_equal(found.rgb16_HWC, np.floor(samples_HWC * (65535 / maximum) + 0.5))
    assert np.array_equal(np.asarray(found.image), np.round(found.rgb16_HWC / 257))
    assert found.notes == ()
    # What is more than full light is full light.
    if maximum < 65535:
        assert in_16_bits(f"P6 1 1 {maximum} ".encode() + b"\xff" * 6).rgb16_HWC.min() == 65535


def test_a_ppm_written_in_digits_says_what_is_read():
    found = decode_picture(b"P3 2 1 65535  0 257 65535  32768 0 0\n", "digits.ppm")
    assert np.asarray(found.image).tolist() == [[[0, 1, 255], [128, 0, 0]]]
    assert found.notes == ("digits.ppm: only 8 of its 16 bits are used.",)
    assert decode_picture(b"P3 1 1 255  0 1 255\n", "digits.ppm").notes == ()
    assert decode_picture(b"P6 1 1 200 abc", "old.ppm").notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_in_both_byte_orders(order):
    pixels_HWC = noise(3, np.uint16)
    assert np.array_equal(in_16_bits(tiff_file(pixels_HWC, order)).rgb16_HWC, pixels_HWC)


def test_a_colour_that_a_png_of_16_bits_names_as_transparent():
    pixels_HWC = noise(3, np.uint16)
    key = struct.pack(">3H", *map(int, pixels_HWC[2, 3]))
    found = in_16_bits(png(pixels_HWC.shape[:2], 2, pixels_HWC, (b"tRNS", key)))
    assert np.argwhere(found.alpha_HW == 0).tolist() == [[2, 3]]
    assert found.rgb16_HWC[2, 3].tolist() == [65535] * 3


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_picture_of_16_bits_is_turned_upright(channels):
    pixels_HWC, exif = noise(channels, np.uint16), Image.Exif()
    exif[0x0112] = 6
    data = png(pixels_HWC.shape[:2], {2: 4, 3: 2, 4: 6}[channels], pixels_HWC, (b"eXIf", exif.tobytes()[6:]))
    found = in_16_bits(data)
    upright = np.rot90(pixels_HWC, -1)
    if channels == 3:
        assert np.array_equal(found.rgb16_HWC, upright)
    else:
        assert np.array_equal(found.alpha_HW, upright[:, :, -1])


def test_an_interlaced_picture_of_sixteen_bits():
    """Adam7: seven pictures, each a grid of pixels of the whole."""
    pixels_HWC = noise(3, np.uint16)
    grids = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, across in grids:
        for row in pixels_HWC[top::down, left::across]:
            rows += b"\0" + row.astype(">u2").tobytes()
    plain = png(pixels_HWC.shape[:2], 2, pixels_HWC)
    header = struct.pack(">2I5B", 8, 9, 16, 2, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    assert np.array_equal(in_16_bits(plain[:8] + joined(parts)).rgb16_HWC, pixels_HWC)


def test_what_is_read_with_less_than_it_has_says_so():
    cmyk_HWC = noise(4, np.uint16)
    found = decode_picture(tiff_file(cmyk_HWC, photometric=5), "print.tif")
    assert found.rgb16_HWC is None
    assert found.notes == ("print.tif: only 8 of its 16 bits are used.",)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_what_pillow_saves_with_the_samples_of_8_bits_is_as_light_as_before(mode):
    found = decode_picture(encoded(Image.new("L", (4, 3), 136).convert(mode), "TIFF"), "c.tif")
    assert np.unique(found.image).tolist() == [136]


@pytest.mark.parametrize("maximum", [65535, 1023])
@pytest.mark.parametrize("magic", ["P5", "P2"])
def test_a_dark_pgm_says_its_white_and_is_read_whole(magic, maximum):
    samples = np.arange(12, dtype=">u2")
    rest = samples.tobytes() if magic == "P5" else " ".join(map(str, samples)).encode()
    found = decode_picture(f"{magic} 4 3 {maximum} ".encode() + rest, "dark.pgm")
    assert found.rgb16_HWC is not None
    assert found.rgb16_HWC[:, :, 0].ravel().tolist() == [round(one * 65535 / maximum) for one in range(12)]
    assert found.notes == ()


@pytest.mark.parametrize("masks", [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F), None])
def test_a_bmp_whose_pixels_have_16_bits_is_no_picture_of_16_bits(masks):
    table = struct.pack("<3I", *masks) if masks else b""
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3 if masks else 0, 4, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 58 + len(table), 0, 0, 54 + len(table)) + head + table
    found = decode_picture(data + struct.pack("<2H", 0x1F, 0x7FFF), "old.bmp")
    assert found.image.getpixel((0, 0)) == (0, 0, 255)
    assert found.notes == ()


def bmp_of_32_bits(pixels: bytes, head_bytes: int) -> bytes:
    """Return a BMP of two pixels that says where its alpha is, in a header of version 3, 4 or 5."""
    head = struct.pack("<IiiHHIIiiII", head_bytes, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0)
    head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    start = 14 + head_bytes
    return b"BM" + struct.pack("<IHHI", start + 8, 0, 0, start) + head.ljust(head_bytes, b"\0") + pixels


@pytest.mark.parametrize("head_bytes", [56, 108, 124])
def test_alpha_of_a_bmp_that_is_zero_all_over_is_none(head_bytes):
    blue_red = bytes([200, 20, 10, 0, 20, 30, 200, 0])
    found = decode_picture(bmp_of_32_bits(blue_red, head_bytes), "a.bmp")
    assert found.alpha_HW is None
    assert np.asarray(found.image).tolist() == [[[10, 20, 200], [200, 30, 20]]]
    half = decode_picture(bmp_of_32_bits(blue_red[:-1] + b"\xff", head_bytes), "a.bmp")
    assert half.alpha_HW.tolist() == [[0, 255]]
    assert np.asarray(half.image).tolist() == [[[255, 255, 255], [200, 30, 20]]]


@pytest.mark.parametrize(("dtype", "least"), [(np.uint8, 1), (np.uint16, 257)])
def test_whether_anything_shows(dtype, least):
    pixels_HWC = noise(4, dtype)
    pixels_HWC[:, :, 3] = 0
    assert not decode_picture(encode_image(pixels_HWC, "png", 90, {}), "p").is_visible
    pixels_HWC[2, 3, 3] = least
    assert decode_picture(encode_image(pixels_HWC, "png", 90, {}), "p").is_visible
    assert decode_picture(encode_image(pixels_HWC[:, :, :3], "png", 90, {}), "p").is_visible
