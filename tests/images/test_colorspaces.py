"""Colours that are declared without a profile: the same as with one."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from icc_profiles import PROFILES, formula, make_profile
from PIL import Image, ImageCms
from test_png import PIXELS, chunk, picture

from pipeline.execution.inputs import read_picture
from pipeline.images import reading
from pipeline.images.colorspaces import (
    HALF_A_PROFILE,
    NOT_FULL_RANGE,
    PRIMARIES,
    SRGB_CURVE,
    power_curve,
    rgb_profile,
)
from pipeline.images.decoding import Decoded, decode_pillow
from pipeline.images.profiles import to_srgb_16, why_not_kept
from pipeline.images.reading import decode_picture
from pipeline.images.writing import encode_image

SRGB_POINTS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_POINTS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def points(*numbers: int) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *numbers))


def profile(name: str) -> bytes:
    data = encode_image(PIXELS, "png", 90, {}, profile=PROFILES[name])
    start = data.index(b"iCCP") - 4
    (length,) = struct.unpack_from(">I", data, start)
    return data[start : start + 12 + length]


def cicp(*codes: int) -> bytes:
    return chunk(b"cICP", bytes(codes))


SRGB, P3_CODES = chunk(b"sRGB", b"\0"), cicp(12, 13, 0, 1)


def read(*chunks: bytes) -> Decoded:
    return decode_picture(picture(*chunks), "in/p.png")


def colours(*chunks: bytes) -> np.ndarray:
    found = read(*chunks)
    assert found.notes == ()
    return np.asarray(found.image, int)


def linear_to_srgb(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("power", [1.0, 1.8, 2.6])
def test_gamma_is_honoured(power):
    expected = linear_to_srgb((PIXELS / 255.0) ** power)
    assert np.abs(colours(gamma(1 / power)) - expected).max() <= 1.5


@pytest.mark.parametrize("power", [1.0, 1.8])
def test_gamma_of_grey_is_honoured(power):
    grey = np.arange(72, dtype=np.uint8).reshape(8, 9) * 3
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    found = decode_picture(picture(gamma(1 / power), kind=0, rows=rows), "p.png")
    assert found.notes == ()
    assert np.abs(np.asarray(found.image)[:, :, 1] - linear_to_srgb((grey / 255) ** power)).max() <= 1.5


def test_gamma_of_sixteen_bits_is_honoured_in_sixteen():
    grey_HW = np.arange(0, 65536, 911, dtype=np.uint16)[:72].reshape(8, 9)
    rgb16_HWC = np.stack([grey_HW] * 3, axis=2)
    for kind, samples in ((0, grey_HW), (2, rgb16_HWC)):
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
        found = decode_picture(picture(gamma(1.0), kind=kind, depth=16, rows=rows), "p.png")
        expected = linear_to_srgb(rgb16_HWC / 65535) * 257
        assert found.rgb16_HWC is not None
        assert np.abs(found.rgb16_HWC - expected).max() < 2


@pytest.mark.parametrize(
    "chunks", [(gamma(0.45455),), (gamma(0.45455), points(*SRGB_POINTS)), (points(*P3_POINTS),), (SRGB,)]
)
def test_what_says_srgb_or_too_little_changes_nothing(chunks):
    assert np.array_equal(colours(*chunks), PIXELS)
    assert read(*chunks).profile == b""


@pytest.mark.parametrize("chunks", [(P3_CODES,), (gamma(0.45455), points(*P3_POINTS))])
def test_display_p3_is_brought_to_srgb(chunks):
    expected = colours(profile("Display P3"))
    assert np.abs(colours(*chunks) - expected).max() <= 1
    assert np.abs(expected - PIXELS).max() > 20


def test_what_says_more_comes_first():
    adobe, p3 = profile("Adobe RGB"), colours(P3_CODES)
    srgb, dark = cicp(1, 13, 0, 1), gamma(1.0)
    for chunks, expected in (
        ((dark, points(*P3_POINTS), SRGB, adobe, P3_CODES), p3),
        ((dark, SRGB, adobe), colours(adobe)),
        ((adobe, srgb), PIXELS),
        ((dark, SRGB), PIXELS),
        ((cicp(2, 2, 0, 1), adobe), colours(adobe)),
    ):
        assert np.array_equal(colours(*chunks), expected)


def test_codes_that_are_not_known_are_said_and_what_says_less_counts():
    found = read(cicp(12, 17, 0, 1), profile("Adobe RGB"))
    assert found.notes == (
        "p.png: its colours are declared by unknown code points, 12 and 17, which are not used.",
    )
    assert np.array_equal(np.asarray(found.image), colours(profile("Adobe RGB")))
    assert read(cicp(1, 13, 0, 0)).notes == (f"p.png: {NOT_FULL_RANGE}.",)


def test_the_widest_primaries_there_are():
    """ProPhoto's, whose blue is no light."""
    wide = (34567, 35850, 73470, 26530, 15960, 84040, 3660, 10)
    assert np.abs(colours(gamma(1 / 1.8), points(*wide)) - PIXELS).max() > 20


@pytest.mark.parametrize(("transfer", "white"), [(16, 148), (18, 191)])
def test_white_of_sdr_is_white(transfer, white):
    """203 cd/m² (ITU-R BT.2408, table 1)."""
    rows = b"".join(b"\0" + bytes([white, white, white, 255, 255, 255, 0, 0, 0] * 3) for _ in range(8))
    found = decode_picture(picture(cicp(9, transfer, 0, 1), rows=rows), "p.png")
    assert np.abs(np.asarray(found.image, int)[0, :3].T - [255, 255, 0]).max() <= 1
    (note,) = found.notes
    assert "high dynamic range" in note
    assert found.profile == b"", "nothing to keep: sRGB cannot hold what is brighter"


def test_darker_than_white_is_as_dark_as_it_was():
    """Half the light of white in PQ is half the light of white in sRGB."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (0.5 * 203 / 10_000) ** m1
    sample = round(65535 * ((c1 + c2 * power) / (1 + c3 * power)) ** m2)
    rows = b"".join(b"\0" + struct.pack(">H", sample) * 27 for _ in range(8))
    found = decode_picture(picture(cicp(9, 16, 0, 1), depth=16, rows=rows), "p.png")
    assert np.asarray(found.image)[0, 0].tolist() == [188] * 3  # linear_to_srgb(0.5)


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ((gamma(0),), None),
        ((gamma(0.01),), "its gamma, 0.01, is not plausible"),
        ((gamma(1.0), points(*[0] * 8)), "its chromaticities are not plausible"),
        ((gamma(1.0), points(*[30000] * 8)), "its chromaticities are not plausible"),
        ((gamma(1.0), points(31270, 32900, 2**31, 33000, 30000, 60000, 15000, 6000)), "chromaticities"),
    ],
)
def test_what_is_not_plausible_is_not_used_and_noted(chunks, words):
    found = read(*chunks)
    if words is None:
        assert found.notes == ()
        assert np.array_equal(np.asarray(found.image), PIXELS)
    else:
        (note,) = found.notes
        assert words in note


def test_profiles_made_of_code_points_are_real_ones():
    for curve in (SRGB_CURVE, power_curve(2.2)):
        for code, primaries in PRIMARIES.items():
            made = rgb_profile(curve, primaries, is_grey=False)
            assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(made)))
            assert why_not_kept(made) == "", code
    grey_HWC = np.full((2, 2, 1), 30_000, np.uint16)
    made, plain = rgb_profile(power_curve(1.8), (), is_grey=True), make_profile(formula(0, 1.8), None)
    assert np.array_equal(to_srgb_16(grey_HWC, made)[0], to_srgb_16(grey_HWC, plain)[0])


def test_colours_that_are_said_can_be_kept():
    assert why_not_kept(read(P3_CODES).profile) == ""
    assert why_not_kept(read(gamma(1 / 1.8)).profile) == ""


def test_a_pillow_image_has_the_gamma_that_it_was_opened_with():
    image = Image.open(io.BytesIO(picture(gamma(1.0))))
    found = decode_pillow(image)
    assert np.array_equal(np.asarray(found.image), colours(gamma(1.0)))


# AVIF and HEIC.


def with_nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    """Change the code points of a file's pictures in place; the encoder writes those of sRGB."""
    place = data.index(b"colrnclx") + 8
    return data[:place] + struct.pack(">HH", primaries, transfer) + data[place + 4 :]


def encoded(kind: str, colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, kind, quality=100)
    return buffer.getvalue()


def test_display_p3_of_an_avif():
    data, expected = encoded("AVIF", (200, 60, 60)), colours(P3_CODES)
    plain = decode_picture(data, "a.avif")
    assert np.abs(np.asarray(plain.image, int)[0, 0] - (200, 60, 60)).max() <= 2
    found = decode_picture(with_nclx(data, 12, 13), "a.avif")
    assert found.notes == ()
    one_HWC = np.full((1, 1, 3), np.asarray(plain.image)[0, 0], np.uint16) * 257
    expected, _ = to_srgb_16(one_HWC, PROFILES["Display P3"])
    assert np.abs(np.asarray(found.image, int)[0, 0] - expected[0, 0] / 257).max() <= 1.5
    assert expected[0, 0, 0] - one_HWC[0, 0, 0] > 10 * 257


def test_display_p3_of_a_heic():
    pytest.importorskip("pillow_heif")
    reading._formats()
    data = encoded("HEIF", (200, 60, 60))
    plain, found = (
        decode_picture(one, "a.heic").image.getpixel((9, 9)) for one in (data, with_nclx(data, 12, 13))
    )
    assert found[0] > plain[0] + 10


def test_white_of_a_pq_avif_is_white():
    found = decode_picture(with_nclx(encoded("AVIF", (148, 148, 148)), 9, 16), "a.avif")
    assert np.asarray(found.image).min() >= 253
    assert "high dynamic range" in found.notes[0]


def test_half_a_profile_of_a_jpeg_is_said(tmp_path):
    """A segment holds 64 KiB; an editor that drops one leaves the rest."""
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, icc_profile=PROFILES["Adobe RGB"] + bytes(70_000))
    data = path.read_bytes()
    start = data.index(b"ICC_PROFILE\0\2\2") - 4
    (length,) = struct.unpack_from(">H", data, start + 2)
    path.write_bytes(data[:start] + data[start + 2 + length :])
    found = read_picture(path).decoded
    assert found.notes == (f"a.jpg: {HALF_A_PROFILE}.",)
    assert found.profile == b""
