from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.errors import ImageError
from pipeline.images import reading
from pipeline.images.exif import NO_EXIF
from pipeline.images.reading import Decoded, decode_image, decode_picture, read_bytes
from pipeline.images.writing import encode_image, read_provenance

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


def noise(channels: int = 3, dtype: type = np.uint8, height: int = 9, width: int = 8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(channels).integers(0, top, (height, width, channels), dtype, endpoint=True)


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
        with pytest.raises(ImageError, match=f"more than 100 pixels: it has {side} x {side + 1}"):
            decode_image(encoded(Image.new("L", (side, side + 1))), "bomb")


def test_only_formats_of_the_list_are_read():
    """Pillow reads ICO; nobody needs it here, and each decoder is one more that can be attacked."""
    data = encoded(halves(), "ICO")
    assert Image.open(io.BytesIO(data)).format == "ICO"
    with pytest.raises(ImageError, match="not a picture in any format known here") as caught:
        decode_image(data, "icon")
    assert "PNG, JPEG, WEBP, TIFF, BMP, GIF, PPM" in caught.value.next_step


@pytest.mark.parametrize(
    ("kind", "options", "share"),
    [("TIFF", {"compression": "tiff_lzw"}, 0.95), ("TIFF", {}, 0.01), ("AVIF", {}, 0.5), ("GIF", {}, 0.05)],
)
def test_what_begins_as_a_picture_is_told_from_what_is_none(kind, options, share):
    data = encoded(Image.fromarray(noise(3, np.uint8, 64, 64)), kind, **options)
    with pytest.raises(ImageError, match=f"begins as {kind}, but is damaged, cut short") as caught:
        decode_picture(data[: int(len(data) * share)], "cut")
    assert caught.value.next_step.startswith("Copy the picture again")


def test_a_kind_of_tiff_that_pillow_does_not_know_is_not_called_damaged_alone():
    data = tiff_of(np.zeros(8).tobytes(), (4, 2), (64,), 1, 1)
    with pytest.raises(ImageError, match="or of a kind that is not read here"):
        decode_picture(data, "double.tif")


def test_heic_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(reading, "_formats", lambda: ("PNG",))
    with pytest.raises(ImageError, match="pillow-heif") as caught:
        decode_image(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "me.heic")
    assert "style-pipeline[heic]" in caught.value.next_step


def test_heic_with_its_package():
    pytest.importorskip("pillow_heif")
    reading._formats()
    image = decoded(encoded(halves(), "HEIF", quality=100))
    assert np.abs(np.asarray(image, int) - np.asarray(halves(), int)).mean() < 4


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame_and_says_so(image_format):
    frames = [halves(), Image.new("RGB", (40, 20), "black")]
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    found = decode_picture(data, "somewhere/dance.gif")
    assert np.abs(np.asarray(found.image, int) - np.asarray(halves(), int)).mean() < 3
    assert found.notes == ("dance.gif: there are several frames or pages; the first is taken.",)
    assert decode_picture(encoded(frames[0], image_format), "still").notes == ()


def test_what_a_camera_puts_behind_a_picture_is_no_animation():
    data = encoded(halves(), "MPO", save_all=True, append_images=[halves()])
    assert decode_picture(data, "camera.jpg").notes == ()


def deep(data: bytes) -> Decoded:
    found = decode_picture(data, "deep")
    assert found.deep_HWC is not None
    assert found.deep_HWC.dtype == np.uint16
    return found


@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_sixteen_bits_of_colour_are_all_read(image_format):
    pixels_HWC = noise(3, np.uint16)
    found = deep(encode_image(pixels_HWC, image_format, 95, {}))
    assert np.array_equal(found.deep_HWC, pixels_HWC)
    assert np.array_equal(np.asarray(found.image), np.round(pixels_HWC / 257))
    assert found.alpha_HW is None
    assert found.notes == ()


@pytest.mark.parametrize("image_format", ["png", "tiff"])
def test_sixteen_bits_of_alpha_are_all_read(image_format):
    pixels_HWC = noise(4, np.uint16)
    found = deep(encode_image(pixels_HWC, image_format, 95, {}))
    alpha = pixels_HWC[:, :, 3:] / 65535
    expected = pixels_HWC[:, :, :3] * alpha + 65535 * (1 - alpha)
    assert np.array_equal(found.alpha_HW, pixels_HWC[:, :, 3])
    assert np.array_equal(found.deep_HWC, np.round(expected))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "LA", "big-endian"])
def test_sixteen_bits_of_grey_are_all_read(kind):
    grey_HW = noise(1, np.uint16)[:, :, 0]
    if kind == "LA":  # Pillow writes no grey with alpha in 16 bits
        data = png(grey_HW.shape, 4, np.dstack([grey_HW, np.full_like(grey_HW, 65535)]))
    elif kind == "big-endian":
        data = tiff(grey_HW, ">")
    else:
        data = encoded(Image.fromarray(grey_HW), kind)
    found = deep(data)
    assert np.array_equal(found.deep_HWC, np.dstack([grey_HW] * 3))
    assert found.alpha_HW is None


def test_grey_with_alpha_in_sixteen_bits():
    samples_HWC = noise(2, np.uint16)
    found = deep(png(samples_HWC.shape[:2], 4, samples_HWC))
    assert np.array_equal(found.alpha_HW, samples_HWC[:, :, 1])


@pytest.mark.parametrize("maximum", [65535, 1023, 256])
def test_a_ppm_in_colour_of_more_than_eight_bits(maximum):
    samples_HWC = noise(3, np.uint16, 70).astype(int) % (maximum + 1)
    header = f"P6 # a comment\n8 70\n{maximum}\n".encode()
    found = deep(header + samples_HWC.astype(">u2").tobytes())
    assert np.array_equal(found.deep_HWC, np.floor(samples_HWC * (65535 / maximum) + 0.5))
    assert np.array_equal(np.asarray(found.image), np.round(found.deep_HWC / 257))
    assert found.notes == ()
    # What is more than full light is full light.
    if maximum < 65535:
        assert deep(f"P6 1 1 {maximum} ".encode() + b"\xff" * 6).deep_HWC.min() == 65535


def test_a_ppm_written_in_digits_says_what_is_read():
    found = decode_picture(b"P3 2 1 65535  0 257 65535  32768 0 0\n", "digits.ppm")
    assert np.asarray(found.image).tolist() == [[[0, 1, 255], [128, 0, 0]]]
    assert found.notes == ("digits.ppm: 8 of its 16 bits are read.",)
    assert decode_picture(b"P3 1 1 255  0 1 255\n", "digits.ppm").notes == ()
    assert decode_picture(b"P6 1 1 200 abc", "old.ppm").notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_in_both_byte_orders(order):
    pixels_HWC = noise(3, np.uint16)
    assert np.array_equal(deep(tiff(pixels_HWC, order)).deep_HWC, pixels_HWC)


def test_a_colour_that_a_deep_png_names_as_transparent():
    pixels_HWC = noise(3, np.uint16)
    key = struct.pack(">3H", *map(int, pixels_HWC[2, 3]))
    found = deep(png(pixels_HWC.shape[:2], 2, pixels_HWC, (b"tRNS", key)))
    assert np.argwhere(found.alpha_HW == 0).tolist() == [[2, 3]]
    assert found.deep_HWC[2, 3].tolist() == [65535] * 3


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_deep_picture_is_turned_upright(channels):
    pixels_HWC, exif = noise(channels, np.uint16), Image.Exif()
    exif[0x0112] = 6
    data = png(pixels_HWC.shape[:2], {2: 4, 3: 2, 4: 6}[channels], pixels_HWC, (b"eXIf", exif.tobytes()[6:]))
    found = deep(data)
    upright = np.rot90(pixels_HWC, -1)
    if channels == 3:
        assert np.array_equal(found.deep_HWC, upright)
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
    assert np.array_equal(deep(plain[:8] + joined(parts)).deep_HWC, pixels_HWC)


def test_what_is_read_with_less_than_it_has_says_so():
    cmyk_HWC = noise(4, np.uint16)
    found = decode_picture(tiff(cmyk_HWC, "<", photometric=5), "print.tif")
    assert found.deep_HWC is None
    assert found.notes == ("print.tif: 8 of its 16 bits are read.",)


def png(size: tuple[int, int], colour_type: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 16 bits with more chunks, without filters."""
    height, width = size
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    data = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">2I5B", width, height, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + joined(parts)


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts
    )


def tiff(samples: np.ndarray, order: str, photometric: int | None = None) -> bytes:
    """Return an uncompressed TIFF of 16 bits in a byte order."""
    height, width, *rest = samples.shape
    channels = rest[0] if rest else 1
    data = samples.astype(f"{order}u2").tobytes()
    if photometric is None:
        photometric = 2 if channels > 1 else 1
    depths_at = 8 + len(data)
    depths = struct.pack(f"{order}{channels}H", *[16] * channels)
    fields = [
        (256, 4, 1, width), (257, 4, 1, height),
        (258, 3, channels, depths_at if channels > 2 else 16), (259, 3, 1, 1), (262, 3, 1, photometric),
        (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack(f"{order}H", len(fields))
    for tag, kind, count, value in fields:
        packed = struct.pack(f"{order}HH", value, 0) if (kind, count) == (3, 1) else None
        packed = packed or struct.pack(f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, kind, count) + packed
    start = depths_at + len(depths)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return magic + data + depths + directory + bytes(4)


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "Camera", 6, "Someone"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 40, 0x927C: b"maker's own"}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.0)}
    return exif


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_exif_that_may_be_kept(image_format):
    found = decode_picture(encoded(halves(), image_format, exif=camera_exif().tobytes()), "picture")
    kept = Image.Exif()
    kept.load(found.exif.data)
    assert {tag: kept[tag] for tag in kept if tag not in (0x8769, 0x8825)} == {
        0x010F: "Camera",
        0x8298: "Someone",
    }
    assert kept.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05"}
    assert kept.get_ifd(0x8825) == {1: "N", 2: (48.0, 12.0, 30.0)}


def test_exif_that_cannot_be_read_is_said():
    found = decode_picture(encoded(halves(), exif=b"Exif\0\0XX*\0\0\0\0\x08"), "picture")
    assert found.exif.notes == ("its EXIF cannot be read, and is left out",)


def test_no_exif_is_no_exif():
    assert decode_picture(encoded(halves()), "picture").exif == NO_EXIF


# Fuzzing. Whatever comes in, a picture or an ImageError comes out.


def heif(image: Image.Image) -> bytes:
    pytest.importorskip("pillow_heif")
    reading._formats()
    return encoded(image, "HEIF")


SEEDS: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(Image.fromarray(noise()), "PNG", exif=camera_exif()),
    "JPEG": lambda: encoded(Image.fromarray(noise()), "JPEG", exif=camera_exif()),
    "WEBP": lambda: encoded(Image.fromarray(noise(4)), "WEBP"),
    "TIFF": lambda: encoded(Image.fromarray(noise()), "TIFF"),
    "LZW": lambda: encoded(Image.fromarray(noise()), "TIFF", compression="tiff_lzw"),
    "BMP": lambda: encoded(Image.fromarray(noise()), "BMP"),
    "GIF": lambda: encoded(halves(), "GIF", save_all=True, append_images=[halves().rotate(180)]),
    "MPO": lambda: encoded(Image.fromarray(noise()), "MPO", save_all=True, append_images=[halves()]),
    "PPM": lambda: encoded(Image.fromarray(noise()), "PPM"),
    "PPM of 16 bits": lambda: b"P6 8 9 65535 " + noise(3, np.uint16).astype(">u2").tobytes(),
    "AVIF": lambda: encoded(Image.fromarray(noise()), "AVIF", exif=camera_exif()),
    "HEIF": lambda: heif(Image.fromarray(noise(3, np.uint8, 16, 16))),
    "PNG of 16 bits": lambda: encode_image(noise(4, np.uint16), "png", 95, {}),
    "TIFF of 16 bits": lambda: tiff(noise(3, np.uint16), "<"),
    "TIFF of floats": lambda: encoded(Image.fromarray(noise(1)[:, :, 0]).convert("F"), "TIFF"),
}
# A header may claim so many; a claim costs memory, as stated at BYTES_PER_PIXEL.
FEW_PIXELS = 200_000


def damaged(data: bytes) -> Iterator[bytes]:
    yield from (data[:length] for length in range(len(data)))
    random = np.random.default_rng(0)
    for _ in range(300):
        flipped = bytearray(data)
        for place in random.integers(0, len(data), random.integers(1, 4)):
            flipped[place] ^= int(random.integers(1, 256))
        yield bytes(flipped)


@pytest.mark.parametrize("kind", SEEDS)
def test_every_truncation_and_random_flips_give_a_picture_or_a_clear_error(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", FEW_PIXELS)
    data = SEEDS[kind]()
    assert decode_picture(data, "picture").image.mode == "RGB"
    refused = 0
    for case in damaged(data):
        for read in (decode_picture, read_provenance):
            try:
                found = read(case, "picture")
                if isinstance(found, Decoded):
                    assert found.image.width * found.image.height <= FEW_PIXELS
            except ImageError as error:
                assert "picture:" in str(error)
                assert error.next_step
                refused += 1
    assert refused > 0


BOMBS = {
    "PNG": png((60_000, 60_000), 2, np.zeros((60_000, 0), np.uint16)),
    "GIF": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3) + b"," + bytes(9) + b"\x08\0;",
    "BMP": b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "PPM": b"P6 60000 60000 255\n",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_by_its_header_and_costs_no_memory(kind):
    decode_image(encoded(halves()), "first")  # what is loaded once does not count
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"pixels: it has 6\d,\d{3} x 6\d,\d{3}"):
            decode_picture(BOMBS[kind], "bomb")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# The peak of this process alone; ru_maxrss begins with that of the one that started it.
MEASURE = """
import sys
from pipeline.images.reading import decode_picture

def peak_kib():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

large, small = (open(path, "rb").read() for path in sys.argv[1:])
decode_picture(small, "first")
before = peak_kib()
decode_picture(large, "measured")
print(peak_kib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_decoding_takes_no_more_memory_than_stated(tmp_path, dtype):
    pixels_HWC = np.zeros((1500, 2000, 4), dtype)
    pixels_HWC[:, ::2] = np.iinfo(dtype).max
    (tmp_path / "large").write_bytes(encode_image(pixels_HWC, "png", 95, {}))
    (tmp_path / "small").write_bytes(encode_image(pixels_HWC[:8, :8], "png", 95, {}))
    command = [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = 1024 * int(done.stdout) / (1500 * 2000)
    assert 4 < taken < reading.BYTES_PER_PIXEL


def tiff_of(
    samples: bytes,
    size: tuple[int, int],
    bits: tuple[int, ...],
    photometric: int,
    planes: int,
    sample_format: int = 1,
) -> bytes:
    """Return an uncompressed, little-endian TIFF, written out by hand."""
    count = len(bits)
    strips = count if planes == 2 else 1
    entries, extra, offset = [], b"", 8 + len(samples)
    values = {
        256: [size[0]], 257: [size[1]], 258: list(bits), 259: [1], 262: [photometric],
        273: [8 + len(samples) // strips * strip for strip in range(strips)], 277: [count], 278: [size[1]],
        279: [len(samples) // strips] * strips, 284: [planes],
        339: [sample_format],
    }  # fmt: skip
    start = offset + 2 + 12 * len(values) + 4
    for tag, numbers in values.items():
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        place = packed
        if len(numbers) > 1:
            place = struct.pack("<I", start + len(extra))
            extra += packed
        entries.append(struct.pack("<HHI", tag, 4, len(numbers)) + place)
    directory = struct.pack("<H", len(values)) + b"".join(entries) + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", offset) + samples + directory + extra


@pytest.mark.parametrize(
    ("bits", "photometric", "planes", "sample_format"),
    [((16, 16, 16), 2, 2, 1), ((16,), 0, 1, 1), ((12,), 1, 1, 1), ((8,), 1, 1, 2)],
    ids=str,
)
def test_tiffs_that_pillow_misreads_are_refused(bits, photometric, planes, sample_format):
    data = tiff_of(bytes(range(2 * 4 * 2 * len(bits))), (4, 2), bits, photometric, planes, sample_format)
    with pytest.raises(ImageError, match=r"t\.tif: a kind of TIFF that is not read here") as caught:
        decode_picture(data, "t.tif")
    assert "PNG" in caught.value.next_step


def test_a_tiff_written_out_by_hand_is_read():
    """The tests above refuse what they mean to, not a bad file."""
    data = tiff_of(struct.pack("<8H", *range(0, 64_000, 8000)), (4, 2), (16,), 1, 1)
    assert np.asarray(decode_picture(data, "t.tif").image)[1, 3, 0] == round(56_000 / 257)


# The kind of samples, the samples, the white that is taken for theirs, and what comes out in 8 bits.
WHITES = [
    ("f4", [0, 0.5, 1, 1.3], "1", [0, 128, 255, 255]),
    ("f4", [-np.inf, 0.5, np.inf, np.nan], "1", [0, 128, 255, 0]),
    ("f4", [-3, 128, 255, np.inf], "255", [0, 128, 255, 255]),
    ("f4", [0, 32768, 65535, 70000], "65,535", [0, 128, 255, 255]),
    ("i4", [-3, 1, 128, 255], "255", [0, 1, 128, 255]),
    ("i4", [0, 256, 32768, 65535], "65,535", [0, 1, 128, 255]),
    ("i4", [-(2**31), 2**23, 2**30, 2**31 - 1], "2,147,483,647", [0, 1, 128, 255]),
    ("u4", [0, 1, 128, 255], "255", [0, 1, 128, 255]),
    ("u4", [0, 2**24, 2**31, 2**32 - 1], "4,294,967,295", [0, 1, 128, 255]),
    ("i2", [-3, 1, 128, 255], "255", [0, 1, 128, 255]),
    ("i2", [-3, 128, 16_448, 32_767], "32,767", [0, 1, 128, 255]),
]


@pytest.mark.parametrize(("kind", "samples", "white", "expected"), WHITES, ids=str)
def test_samples_whose_white_is_not_said_are_scaled_by_what_they_hold(kind, samples, white, expected):
    dtype = np.dtype(f"<{kind}")
    sample_format = {"u": 1, "i": 2, "f": 3}[dtype.kind]
    data = tiff_of(np.array(samples, dtype).tobytes(), (4, 1), (8 * dtype.itemsize,), 1, 1, sample_format)
    found = decode_picture(data, "s.tif")
    assert np.asarray(found.image)[0, :, 0].tolist() == expected
    assert found.notes == (f"s.tif: it does not say what its white is; {white} is taken for it.",)


def test_lights_of_a_scene_do_not_make_the_rest_of_it_dark():
    samples = np.full(32, 0.5, "<f4")
    samples[:3] = 40, 250, np.inf
    found = decode_picture(tiff_of(samples.tobytes(), (32, 1), (32,), 1, 1, 3), "s.tif")
    assert np.asarray(found.image)[0, :, 0].tolist() == [255] * 3 + [128] * 29


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
    assert found.deep_HWC is not None
    assert found.deep_HWC[:, :, 0].ravel().tolist() == [round(one * 65535 / maximum) for one in range(12)]
    assert found.notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
def test_dark_samples_of_16_bits_stay_dark(order):
    dark_HW = noise(1, np.uint16)[:, :, 0] % 256
    found = decode_picture(tiff(dark_HW, order), "dark.tif")
    assert np.array_equal(found.deep_HWC, np.dstack([dark_HW] * 3))
    assert found.notes == ()


@pytest.mark.parametrize("masks", [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F), None])
def test_a_bmp_whose_pixels_have_16_bits_has_no_deep_samples(masks):
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
    assert not decode_picture(encode_image(pixels_HWC, "png", 90, {}), "p").shows
    pixels_HWC[2, 3, 3] = least
    assert decode_picture(encode_image(pixels_HWC, "png", 90, {}), "p").shows
    assert decode_picture(encode_image(pixels_HWC[:, :, :3], "png", 90, {}), "p").shows


@pytest.mark.parametrize("kind", ["i2", "i4", "f4"])
def test_a_compressed_tiff_in_the_other_byte_order(kind):
    """Pillow takes what libtiff has brought to the machine's order for the file's."""
    dtype = np.dtype(f">{kind}")
    packed = zlib.compress(np.array([0, 1, 128, 255], dtype).tobytes())
    short = {256: 4, 257: 1, 258: 8 * dtype.itemsize, 259: 8, 262: 1, 277: 1, 339: 3 if kind == "f4" else 2}
    long = {273: 8, 278: 1, 279: len(packed)}
    entries = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in short.items()]
    entries += [struct.pack(">HHII", tag, 4, 1, value) for tag, value in long.items()]
    directory = struct.pack(">H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    packed += bytes(len(packed) % 2)
    data = b"MM\0*" + struct.pack(">I", 8 + len(packed)) + packed + directory
    assert np.asarray(decode_picture(data, "s.tif").image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_threads_decode_at_the_same_time(monkeypatch):
    """Each waits, in the middle of decoding, for another to be there."""
    meeting, plain = threading.Barrier(2, timeout=10), reading._refuse_misread

    def met(opened, name):
        meeting.wait()
        plain(opened, name)

    monkeypatch.setattr(reading, "_refuse_misread", met)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: decode_image(encoded(halves()), "p.png"), range(2)))
    assert [image.size for image in found] == [(40, 20)] * 2


def test_warnings_of_others_are_heard_while_a_picture_is_decoded():
    with reading._QUIET, pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with reading._QUIET:
            warnings.warn_explicit("odd tag", UserWarning, "x.py", 1, module="PIL.TiffImagePlugin")
    assert said == []


@pytest.mark.parametrize("begin", [b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3matroska", b"RIFF\0\0\0\0AVI LIST"])
def test_of_what_is_no_picture_only_the_beginning_is_read(tmp_path, begin):
    path = tmp_path / "film.mp4"
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(1 << 32)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"film\.mp4: not a picture"):
            read_bytes(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_file_far_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "long.png"
    path.write_bytes(encoded(halves()))
    assert read_bytes(path) == path.read_bytes()
    os.truncate(path, 16_001)
    with pytest.raises(ImageError, match=r"long\.png: a file of 16,001 bytes; .* more than 16,000"):
        read_bytes(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes in folders")
def test_a_pipe_and_a_device_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(ImageError, match="a folder, a pipe or a device") as caught:
            read_bytes(path)
        assert str(path) in caught.value.message


def test_reading_in_threads_leaves_the_filters_of_warnings_alone():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: decode_picture(file.getvalue(), "p.png"), range(100)))
    assert warnings.filters == before
