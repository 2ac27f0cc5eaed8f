from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from picture_files import camera_exif, encoded, halves, noise, png, tiff_file
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images import reading
from pipeline.images.decoding import Decoded
from pipeline.images.exif import NO_EXIF
from pipeline.images.reading import decode_picture, read_bytes
from pipeline.images.writing import encode_image, read_provenance


def test_clear_errors(tmp_path):
    for data, words in (
        (b"", "empty"),
        (b"hello, world", "not a picture"),
        (encoded(halves())[:60], "damaged"),
    ):
        with pytest.raises(ImageError, match=words):
            decode_picture(data, "picture")
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        read_bytes(tmp_path / "absent.jpg")
    with pytest.raises(ImageError):
        read_bytes(tmp_path)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 30):  # a warning of Pillow's, and an error
        with pytest.raises(ImageError, match=f"more than 100 pixels: it has {side} x {side + 1}"):
            decode_picture(encoded(Image.new("L", (side, side + 1))), "bomb")


def test_more_pixels_are_read_on_request(monkeypatch):
    """Also more than twice Pillow's limit, which Pillow itself refuses."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    large = encoded(Image.new("L", (1000, 1000)))
    with pytest.raises(ImageError, match="more than 100 pixels") as caught:
        decode_picture(large, "large")
    assert "max_megapixels" in caught.value.next_step
    reading.allow_megapixels(1)
    assert decode_picture(large, "large").image.size == (1000, 1000)
    with pytest.raises(ImageError, match="more than 1,000,000 pixels: it has 1,001 x 1,000"):
        decode_picture(encoded(Image.new("L", (1001, 1000))), "larger")


def test_only_formats_of_the_list_are_read():
    """Pillow reads ICO; nobody needs it here, and each decoder is one more that can be attacked."""
    data = encoded(halves(), "ICO")
    assert Image.open(io.BytesIO(data)).format == "ICO"
    with pytest.raises(ImageError, match="not a picture in any format known here") as caught:
        decode_picture(data, "icon")
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


def test_of_pfm_only_grey_is_read():
    samples = np.full((3, 4, 3), 0.5, "<f4").tobytes()
    found = decode_picture(b"Pf\n4 3\n-1.0\n" + samples[:48], "grey.pfm")
    assert found.image.getpixel((0, 0)) == (128, 128, 128)
    with pytest.raises(ImageError, match=r"colour\.pfm: not a picture in any format known here"):
        decode_picture(b"PF\n4 3\n-1.0\n" + samples, "colour.pfm")


def test_heic_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(reading, "_formats", lambda: ("PNG",))
    with pytest.raises(ImageError, match="pillow-heif") as caught:
        decode_picture(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "me.heic")
    assert "style-pipeline[heic]" in caught.value.next_step


def test_heic_with_its_package():
    pytest.importorskip("pillow_heif")
    reading._formats()
    image = decode_picture(encoded(halves(), "HEIF", quality=100), "p.heic").image
    assert np.abs(np.asarray(image, int) - np.asarray(halves(), int)).mean() < 4


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame_and_says_so(image_format):
    frames = [halves(), Image.new("RGB", (40, 20), "black")]
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    found = decode_picture(data, "somewhere/dance.gif")
    assert np.abs(np.asarray(found.image, int) - np.asarray(halves(), int)).mean() < 3
    assert found.notes == ("dance.gif: it has several frames or pages; only the first is used.",)
    assert decode_picture(encoded(frames[0], image_format), "still").notes == ()


def test_what_a_camera_puts_behind_a_picture_is_no_animation():
    data = encoded(halves(), "MPO", save_all=True, append_images=[halves()])
    assert decode_picture(data, "camera.jpg").notes == ()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_exif_that_may_be_kept(image_format):
    found = decode_picture(encoded(halves(), image_format, exif=camera_exif().tobytes()), "picture")
    kept = Image.Exif()
    kept.load(found.metadata.exif.data)
    assert {tag: kept[tag] for tag in kept if tag not in (0x8769, 0x8825)} == {
        0x010F: "Camera",
        0x8298: "Someone",
    }
    assert kept.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05"}
    assert kept.get_ifd(0x8825) == {1: "N", 2: (48.0, 12.0, 30.0)}


def test_exif_that_cannot_be_read_is_said():
    found = decode_picture(encoded(halves(), exif=b"Exif\0\0XX*\0\0\0\0\x08"), "picture")
    assert found.metadata.exif.notes == ("its EXIF cannot be read and is left out",)


def test_no_exif_is_no_exif():
    assert decode_picture(encoded(halves()), "picture").metadata.exif == NO_EXIF


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
    "TIFF of 16 bits": lambda: tiff_file(noise(3, np.uint16)),
    "TIFF of tiles in planes": lambda: tiff_file(
        noise(3, np.uint16), ">", planar=True, tile=(16, 16), compression=5, predictor=2
    ),
    "TIFF of 12 bits": lambda: tiff_file(noise(3, np.uint16) >> 4, bits=12, rows=4),
    "TIFF of differences of floats": lambda: tiff_file(
        noise().astype(np.float32), compression=8, predictor=3, rows=4
    ),
    "TIFF of floats": lambda: encoded(Image.fromarray(noise(1)[:, :, 0]).convert("F"), "TIFF"),
}
# A header may claim any size, and a claim costs memory: so many bytes a pixel at most, beyond the file.
BYTES_PER_PIXEL = 50
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
    "TIFF": tiff_file(np.zeros((1, 2, 3), np.uint16), tags={256: [60_000], 257: [60_000]}),
    "PNG": png((60_000, 60_000), 2, np.zeros((60_000, 0), np.uint16)),
    "GIF": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3) + b"," + bytes(9) + b"\x08\0;",
    "BMP": b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "PPM": b"P6 60000 60000 255\n",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_by_its_header_and_costs_no_memory(kind):
    decode_picture(encoded(halves()), "first")  # what is loaded once does not count
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


LARGE: dict[str, Callable[[np.ndarray], bytes]] = {
    "PNG of 8 bits": lambda light_HWC: encode_image(light_HWC.astype(np.uint8) * 255, "png", 95, {}),
    "PNG of 16 bits": lambda light_HWC: encode_image(light_HWC.astype(np.uint16) * 65535, "png", 95, {}),
    "TIFF of floats": lambda light_HWC: tiff_file(
        light_HWC.astype(np.float32), compression=8, predictor=3, tags={338: [2]}
    ),
    "TIFF of doubles": lambda light_HWC: tiff_file(light_HWC[:, :, :3].astype(np.float64)),
    "TIFF of 12 bits": lambda light_HWC: tiff_file(light_HWC.astype(np.uint16) * 4095, bits=12),
}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
@pytest.mark.parametrize("kind", LARGE)
def test_decoding_takes_no_more_memory_than_stated(tmp_path, kind):
    light_HWC = np.zeros((1500, 2000, 4))
    light_HWC[:, ::2] = 1
    (tmp_path / "large").write_bytes(LARGE[kind](light_HWC))
    (tmp_path / "small").write_bytes(LARGE[kind](light_HWC[:8, :8]))
    command = [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = 1024 * int(done.stdout) / (1500 * 2000)
    assert 4 < taken < BYTES_PER_PIXEL


def test_threads_decode_at_the_same_time(monkeypatch):
    """Each waits, in the middle of decoding, for another to be there."""
    meeting, plain = threading.Barrier(2, timeout=10), reading.decode_pillow

    def met(image, samples_HWC):
        meeting.wait()
        return plain(image, samples_HWC)

    monkeypatch.setattr(reading, "decode_pillow", met)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: decode_picture(encoded(halves()), "p.png").image, range(2)))
    assert [image.size for image in found] == [(40, 20)] * 2


def test_warnings_of_others_are_not_silenced_while_a_picture_is_decoded():
    with reading._QUIET, pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with reading._QUIET:
            warnings.warn_explicit("odd tag", UserWarning, "x.py", 1, module="PIL.TiffImagePlugin")
    assert caught == []


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


@pytest.mark.parametrize("length", range(1, 17))
def test_a_file_of_a_few_bytes_is_no_picture(length: int, tmp_path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * length)
    with pytest.raises(ImageError, match=r"no picture|not a picture"):
        read_bytes(path)
