"""Which page of a TIFF is the picture, and samples in every layout."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from icc_profiles import PROFILES
from picture_files import COMPRESSIONS, noise, tiff_file
from PIL import Image, features

from pipeline.errors import ImageError
from pipeline.images.decoding import Decoded
from pipeline.images.profiles import to_srgb_16
from pipeline.images.reading import FIRST_FRAME, LARGEST_PAGE, decode_picture
from pipeline.images.samples import to_8_bits
from pipeline.images.tiff import MOST_PAGES, read_pages
from pipeline.images.writing import read_provenance

REDUCED, RGB, CFA, LINEAR_RAW = 1, 2, 32803, 34892
BLUE, RED, GREEN = (10, 20, 200), (200, 30, 20), (20, 180, 40)


@dataclass
class PageOf:
    """A page of one colour, with more pages inside, and more tags of SHORT."""

    size: tuple[int, int]
    colour: tuple[int, int, int]
    kind: int = 0
    inside: Sequence[PageOf] = ()
    tags: dict[int, int] = field(default_factory=dict)
    text: bytes = b""


class Writer:
    """Writes a TIFF, or BigTIFF, by hand: pixels and sub-IFDs before the IFD that points to them."""

    def __init__(self, order: str, big: bool) -> None:
        self.order, self.big = order, big
        self.place = "Q" if big else "I"
        mark = b"II" if order == "<" else b"MM"
        self.file = bytearray(mark + (self.packed("HHHQ", 43, 8, 0, 0) if big else self.packed("HI", 42, 0)))

    def packed(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    def added(self, data: bytes) -> int:
        self.file += bytes(len(self.file) % 2)
        self.file += data
        return len(self.file) - len(data)

    def entry(self, tag: int, code: str, *values: int) -> bytes:
        data = self.packed(f"{len(values)}{code}", *values)
        size = 8 if self.big else 4
        if len(data) > size:
            data = self.packed(self.place, self.added(data))
        kind = {"B": 2, "H": 3, "I": 4, "Q": 16}[code]
        return self.packed("HH" + self.place, tag, kind, len(values)) + data.ljust(size, b"\0")

    def page(self, page: PageOf) -> tuple[int, int]:
        """Return the offset of an IFD, and the offset of its pointer to the next one."""
        width, height = page.size
        pixels = bytes(page.colour) * (width * height)
        entries = {
            254: self.entry(254, "I", page.kind),
            256: self.entry(256, "I", width),
            257: self.entry(257, "I", height),
            258: self.entry(258, "H", 8, 8, 8),
            259: self.entry(259, "H", 1),
            262: self.entry(262, "H", RGB),
            273: self.entry(273, self.place, self.added(pixels)),
            277: self.entry(277, "H", 3),
            278: self.entry(278, "I", height),
            279: self.entry(279, "I", len(pixels)),
        }
        entries |= {tag: self.entry(tag, "H", value) for tag, value in page.tags.items()}
        if page.text:
            entries[315] = self.entry(315, "B", *page.text, 0)
        if page.inside:
            places = [self.page(one)[0] for one in page.inside]
            entries[330] = self.entry(330, self.place, *places)
        count = self.packed("Q" if self.big else "H", len(entries))
        body = count + b"".join(entries[tag] for tag in sorted(entries)) + self.packed(self.place, 0)
        start = self.added(body)
        return start, start + len(body) - struct.calcsize("=" + self.place)

    def pages(self, pages: Sequence[PageOf]) -> bytes:
        slot = 8 if self.big else 4
        for page in pages:
            start, following = self.page(page)
            struct.pack_into(self.order + self.place, self.file, slot, start)
            slot = following
        return bytes(self.file)


def tiff(*pages: PageOf, order: str = "<", big: bool = False) -> bytes:
    return Writer(order, big).pages(pages)


def shown(data: bytes) -> tuple[tuple[int, int], tuple[int, ...], tuple[str, ...]]:
    found = decode_picture(data, "in/p.tif")
    (pixel,) = np.unique(np.asarray(found.image).reshape(-1, 3), axis=0).tolist()
    return found.image.size, tuple(pixel), found.notes


THUMBNAIL = PageOf((6, 4), RED, REDUCED)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_the_picture_inside_of_its_thumbnail(order, big):
    preview = PageOf((24, 16), GREEN, REDUCED)
    outer = PageOf((6, 4), RED, REDUCED, [preview, PageOf((48, 32), BLUE)])
    assert shown(tiff(outer, order=order, big=big)) == ((48, 32), BLUE, ())


@pytest.mark.parametrize("kind", [REDUCED, 0])
def test_a_thumbnail_as_the_first_page(kind):
    size, colour, notes = shown(tiff(PageOf((6, 4), RED, kind), PageOf((48, 32), BLUE)))
    assert (size, colour) == ((48, 32), BLUE)
    assert notes == (() if kind else (f"p.tif: {LARGEST_PAGE}.",))


def test_what_an_older_tag_calls_reduced():
    thumbnail = PageOf((40, 30), RED, tags={255: 2})
    assert shown(tiff(thumbnail, PageOf((48, 32), BLUE))) == ((48, 32), BLUE, ())


def test_pages_of_a_document_are_its_first_though_another_is_a_little_larger():
    pages = (PageOf((40, 30), BLUE, 2), PageOf((42, 30), RED, 2), PageOf((20, 15), GREEN, REDUCED))
    assert shown(tiff(*pages)) == ((40, 30), BLUE, (f"p.tif: {FIRST_FRAME}.",))


def test_smaller_copies_and_masks_are_no_pages():
    mask, copies = PageOf((48, 32), GREEN, 4), [PageOf((24, 16), RED, REDUCED), PageOf((12, 8), RED, REDUCED)]
    assert shown(tiff(PageOf((48, 32), BLUE, 0, copies), mask, *copies)) == ((48, 32), BLUE, ())
    assert shown(tiff(THUMBNAIL)) == ((6, 4), RED, ())


@pytest.mark.parametrize("photometric", [CFA, LINEAR_RAW])
def test_a_raw_is_refused_and_not_its_thumbnail_taken(photometric):
    raw = PageOf((48, 32), BLUE, tags={262: photometric})
    preview = PageOf((50, 34), RED, 0, [raw])
    for data in (tiff(PageOf((6, 4), RED, REDUCED, [raw])), tiff(raw), tiff(THUMBNAIL, raw), tiff(preview)):
        with pytest.raises(ImageError, match=r"p\.dng: a camera's raw data") as caught:
            decode_picture(data, "p.dng")
        assert "Develop it" in caught.value.next_step


@pytest.mark.parametrize(
    "head",
    [b"II*\0\x10\0\0\0CR\2\0", b"FUJIFILMCCD-RAW 0201", b"IIU\0\x18\0\0\0", b"\0\0\0\x18ftypcrx \0\0\0\1"],
)
def test_other_raws_say_what_they_are(head):
    with pytest.raises(ImageError, match="a camera's raw data"):
        decode_picture(head + bytes(60) + tiff(PageOf((6, 4), RED)), "p.raw")


def test_orientation_and_author_come_from_the_outer_ifd():
    outer = PageOf((6, 4), RED, REDUCED, [PageOf((48, 32), BLUE)], {274: 6}, b"Someone")
    found = decode_picture(tiff(outer), "p.tif")
    assert found.image.size == (32, 48)
    assert b"Someone\0" in found.metadata.exif.data
    own = PageOf(
        (6, 4), RED, REDUCED, [PageOf((48, 32), BLUE, tags={274: 1}, text=b"Another")], {274: 6}, b"S"
    )
    found = decode_picture(tiff(own), "p.tif")
    assert found.image.size == (48, 32)
    assert b"Another\0" in found.metadata.exif.data


def test_rows_of_pages_that_never_end_are_left():
    data = bytearray(tiff(PageOf((6, 4), RED, REDUCED), PageOf((48, 32), BLUE)))
    assert len(read_pages(bytes(data))) == 2
    data[-4:] = data[4:8]  # the last page is followed by the first
    assert shown(bytes(data)) == ((48, 32), BLUE, ())
    many = tiff(*[PageOf((1, 1), RED)] * (MOST_PAGES + 5))
    assert len(read_pages(many)) == MOST_PAGES


def test_no_damage_to_ifds_raises_anything_else(monkeypatch):
    data = tiff(
        PageOf((6, 4), RED, REDUCED, [PageOf((9, 8), BLUE), THUMBNAIL], {274: 6}, b"Someone"), THUMBNAIL
    )
    random = np.random.default_rng(0)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100_000)
    cases = [data[:length] for length in range(0, len(data), 3)]
    for _ in range(300):
        flipped = bytearray(data)
        flipped[int(random.integers(len(data)))] ^= int(random.integers(1, 256))
        cases.append(bytes(flipped))
    for case in cases:
        for read in (decode_picture, read_provenance):
            try:
                read(case, "p.tif")
            except ImageError as error:
                assert error.next_step


# Samples. They are compared in 16 bits, whatever they are stored as.

RAMP_HWC = np.random.default_rng(0).integers(0, 65536, (37, 45, 3), np.uint16)
ALPHA_HW = np.linspace(0, 65535, RAMP_HWC[:, :, 0].size).round().astype(np.uint16).reshape(37, 45)
GREY_HW = RAMP_HWC[:, :, 0].copy()


def read_16(data: bytes) -> Decoded:
    found = decode_picture(data, "in/t.tif")
    assert found.rgb16_HWC is not None
    assert np.array_equal(np.asarray(found.image), to_8_bits(found.rgb16_HWC))
    return found


LAYOUTS = {
    "one strip": {},
    "strips": {"rows": 8},
    "tiles": {"tile": (16, 32)},
    "tiles larger than it": {"tile": (64, 96)},
    "planes": {"planar": True, "rows": 8},
    "planes in tiles": {"planar": True, "tile": (16, 32)},
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("compression", "predictor"), [(1, 1), (5, 1), (5, 2), (8, 2)])
def test_every_layout_is_read_whole(order, layout, compression, predictor):
    data = tiff_file(RAMP_HWC, order, compression=compression, predictor=predictor, **LAYOUTS[layout])
    found = read_16(data)
    assert np.array_equal(found.rgb16_HWC, RAMP_HWC)
    assert found.notes == ()


@pytest.mark.parametrize("compression", [1, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_are_limited_and_not_their_bytes(compression, layout, monkeypatch):
    data = tiff_file(RAMP_HWC, compression=compression, **LAYOUTS[layout])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 45)
    assert np.array_equal(read_16(data).rgb16_HWC, RAMP_HWC)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 37 * 45 - 1)
    with pytest.raises(ImageError, match="more than 1,664 pixels: it has 45 x 37"):
        decode_picture(data, "t.tif")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_is_undone(compression):
    data = tiff_file(RAMP_HWC, compression=compression, rows=8)
    try:
        found = read_16(data)
    except ImageError:
        if compression not in (34925, 50000):
            raise
        pytest.skip(f"libtiff {features.version('libtiff')} is built without compression {compression}")
    assert np.array_equal(found.rgb16_HWC, RAMP_HWC)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
def test_samples_of_fewer_than_16_bits_have_a_white_of_their_own(order, bits, layout):
    top = 2**bits - 1
    samples_HWC = RAMP_HWC >> (16 - bits)
    found = read_16(tiff_file(samples_HWC, order, bits=bits, **LAYOUTS[layout]))
    assert np.array_equal(found.rgb16_HWC, np.round(samples_HWC * (65535 / top)))
    assert found.notes == ()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize(("compression", "predictor"), [(1, 1), (5, 1), (8, 3)])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
def test_floats_in_colour_are_read(order, kind, compression, predictor, layout):
    samples_HWC = (RAMP_HWC / 65535).astype(kind)
    data = tiff_file(samples_HWC, order, compression=compression, predictor=predictor, **LAYOUTS[layout])
    found = read_16(data)
    expected = np.round(samples_HWC.astype(np.float32).astype(np.float64) * 65535)
    assert np.array_equal(found.rgb16_HWC, expected)
    assert found.notes == ("t.tif: it does not define which value is white; 1 is assumed.",)


@pytest.mark.parametrize("compression", [1, 8])
def test_grey_with_white_as_zero(compression):
    found = read_16(tiff_file(65535 - GREY_HW, photometric=0, compression=compression))
    assert np.array_equal(found.rgb16_HWC, np.dstack([GREY_HW] * 3))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("colours_HWC", [RAMP_HWC, RAMP_HWC[:, :, :1]], ids=["RGB", "grey"])
def test_alpha_in_16_bits(planar, colours_HWC):
    samples_HWC = np.dstack([colours_HWC, ALPHA_HW])
    photometric = 2 if colours_HWC.shape[2] == 3 else 1
    data = tiff_file(samples_HWC, photometric=photometric, planar=planar, tags={338: [2]})
    found = read_16(data)
    alpha = ALPHA_HW[:, :, None] / 65535
    assert np.array_equal(found.alpha_HW, ALPHA_HW)
    assert np.array_equal(found.rgb16_HWC, np.round(RAMP_HWC_OF[photometric] * alpha + 65535 * (1 - alpha)))


RAMP_HWC_OF = {2: RAMP_HWC, 1: np.dstack([GREY_HW] * 3)}


def test_a_fourth_channel_that_is_not_described_is_alpha():
    found = read_16(tiff_file(np.dstack([RAMP_HWC, ALPHA_HW]), photometric=2))
    assert np.array_equal(found.alpha_HW, ALPHA_HW)


def test_colours_that_are_multiplied_with_their_alpha():
    alpha = ALPHA_HW[:, :, None] / 65535
    samples_HWC = np.dstack([np.round(RAMP_HWC * alpha), ALPHA_HW]).astype(np.uint16)
    found = read_16(tiff_file(samples_HWC, tags={338: [1]}))
    expected = RAMP_HWC * alpha + 65535 * (1 - alpha)
    assert np.abs(found.rgb16_HWC - expected).max() <= 1.5
    assert np.array_equal(found.alpha_HW, ALPHA_HW)


def test_channels_beyond_colours_and_alpha_are_left_out():
    for planar in (False, True):
        samples_HWC = np.dstack([RAMP_HWC, ALPHA_HW, ALPHA_HW])
        found = read_16(tiff_file(samples_HWC, photometric=2, planar=planar, tags={338: [0, 0]}))
        assert np.array_equal(found.rgb16_HWC, RAMP_HWC)
        assert found.alpha_HW is None


EIGHT_BITS = {
    "grey": (to_8_bits(RAMP_HWC[:, :, :1]), {}),
    "white as zero": (255 - to_8_bits(RAMP_HWC[:, :, :1]), {"photometric": 0}),
    "grey with alpha": (to_8_bits(np.dstack([GREY_HW, ALPHA_HW])), {"photometric": 1, "tags": {338: [2]}}),
    "RGB": (to_8_bits(RAMP_HWC), {}),
    "RGBA": (to_8_bits(np.dstack([RAMP_HWC, ALPHA_HW])), {"tags": {338: [2]}}),
    "associated": (to_8_bits(np.dstack([RAMP_HWC // 2, ALPHA_HW // 2 + 32768])), {"tags": {338: [1]}}),
    "one more channel": (to_8_bits(np.dstack([RAMP_HWC, ALPHA_HW])), {"tags": {338: [0]}}),
    "CMYK": (to_8_bits(np.dstack([RAMP_HWC, ALPHA_HW])), {"photometric": 5}),
}


@pytest.mark.parametrize("kind", EIGHT_BITS)
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32)}, {"compression": 5}], ids=str)
def test_8_bits_in_planes_are_what_they_are_side_by_side(kind, layout):
    samples_HWC, options = EIGHT_BITS[kind]
    whole, planar = (
        decode_picture(tiff_file(samples_HWC, planar=planar, **layout, **options), "t.tif")
        for planar in (False, True)
    )
    assert planar.rgb16_HWC is None
    assert planar.notes == ()
    assert np.abs(np.asarray(planar.image, int) - np.asarray(whole.image, int)).max() <= 1
    assert (planar.alpha_HW is None) == (whole.alpha_HW is None)
    assert planar.alpha_HW is None or np.array_equal(planar.alpha_HW, whole.alpha_HW)


def test_cmyk_in_planes_is_read_in_8_bits_and_said():
    samples_HWC = np.dstack([65535 - RAMP_HWC, np.zeros_like(ALPHA_HW)])
    found = decode_picture(tiff_file(samples_HWC, photometric=5, planar=True), "print.tif")
    assert found.rgb16_HWC is None
    assert np.abs(np.asarray(found.image, int) - RAMP_HWC / 257).max() <= 1
    assert found.notes == ("print.tif: only 8 of its 16 bits are used.",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_samples_are_turned_upright_as_pillow_turns_8_bits(orientation):
    tags = {274: [orientation]}
    found = read_16(tiff_file(RAMP_HWC, tags=tags))
    plain = decode_picture(tiff_file(to_8_bits(RAMP_HWC), tags=tags), "t.tif")
    assert np.array_equal(np.asarray(found.image), np.asarray(plain.image))


@pytest.mark.parametrize("planar", [False, True])
def test_profile_and_exif_of_samples_that_pillow_does_not_read(planar):
    profile = PROFILES["Adobe RGB"]
    data = tiff_file(RAMP_HWC, planar=planar, data={34675: profile, 315: b"Zo\xc3\xab\0"})
    found = read_16(data)
    assert np.array_equal(found.rgb16_HWC, to_srgb_16(RAMP_HWC, profile)[0])
    assert found.profile == profile
    assert b"Zo\xc3\xab\0" in found.metadata.exif.data


def test_samples_of_a_sub_ifd_are_read():
    """The picture has its colours in planes; what is first is a thumbnail that Pillow reads."""
    outer = PageOf((6, 4), RED, REDUCED, [PageOf((48, 32), BLUE, tags={284: 2, 258: 16, 262: 1, 277: 1})])
    found = decode_picture(tiff(outer), "t.tif")
    assert found.image.size == (48, 32)
    assert found.rgb16_HWC is not None


def test_bits_in_reversed_order():
    reversed_bytes = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)).reshape(256, 8)[:, ::-1])
    stored_HW = reversed_bytes[GREY_HW.view(np.uint8)].view(np.uint16)
    assert np.array_equal(read_16(tiff_file(stored_HW, tags={266: [2]})).rgb16_HWC[:, :, 0], GREY_HW)


REFUSED = {
    "64-bit integers": tiff_file(np.zeros((2, 4), np.uint64)),
    "24 bits": tiff_file(np.zeros((2, 4, 3), np.uint32), bits=24),
    "Lab": tiff_file(RAMP_HWC, photometric=8),
    "a palette": tiff_file(GREY_HW, photometric=3),
    "two colours": tiff_file(RAMP_HWC[:, :, :2], photometric=2),
    "bits that differ": tiff_file(RAMP_HWC, tags={258: [16, 16, 8]}),
    "JPEG": tiff_file(RAMP_HWC, tags={259: [7]}),
    "differences of packed bits": tiff_file(RAMP_HWC >> 4, bits=12, tags={317: [2]}),
    "seven doubles": tiff_file(noise(7).astype(np.float64)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_says_so(kind):
    with pytest.raises(ImageError, match=r"t\.tif: a kind of TIFF that is not read here") as caught:
        decode_picture(REFUSED[kind], "t.tif")
    assert "PNG" in caught.value.next_step


@pytest.mark.parametrize("compression", [1, 5, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strips_and_tiles_that_are_missing_are_damage_and_not_black(compression, layout):
    taller = tiff_file(RAMP_HWC, compression=compression, tags={257: [370]}, **LAYOUTS[layout])
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode_picture(taller, "t.tif")


@pytest.mark.parametrize("compression", [5, 8, 32773])
def test_a_strip_that_is_cut_short_is_damage(compression):
    with Image.open(io.BytesIO(tiff_file(to_8_bits(RAMP_HWC), compression=compression))) as opened:
        (size,) = opened.tag_v2[279]
    data = tiff_file(RAMP_HWC, compression=compression, tags={279: [size // 2]})
    with pytest.raises(ImageError, match=rf"damaged or cut short \(compression {compression}: "):
        decode_picture(data, "t.tif")


@pytest.mark.parametrize("samples", [RAMP_HWC, to_8_bits(RAMP_HWC)], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("size", [(60_000, 60_000), (16, 1_000_000), (1_000_000, 16), (0, 16), (16, 0)])
def test_tiles_are_not_much_larger_than_their_page(size, samples):
    data = tiff_file(samples, tile=(16, 16), compression=8, tags={322: [size[0]], 323: [size[1]]})
    with pytest.raises(
        ImageError, match=rf"damaged or cut short \(tiles of {size[0]:,} x {size[1]:,} pixels\)"
    ):
        decode_picture(data, "t.tif")


def test_a_strip_beyond_the_end_is_damage():
    for offset in (10**9, 2**32 - 1):
        with pytest.raises(ImageError, match="damaged or cut short"):
            decode_picture(tiff_file(RAMP_HWC, tags={273: [offset]}), "t.tif")


def test_a_strip_that_inflates_to_more_costs_no_memory():
    packed = zlib.compress(bytes(1 << 28), 9)
    data = tiff_file(GREY_HW, tags={259: [8], 279: [len(packed)]}, data={60_000: packed})
    start = data.index(packed)
    data = tiff_file(GREY_HW, tags={259: [8], 273: [start], 279: [len(packed)]}, data={60_000: packed})
    assert data[start : start + len(packed)] == packed
    tracemalloc.start()
    try:
        assert not read_16(data).rgb16_HWC.any()
        assert tracemalloc.get_traced_memory()[1] < 8 * len(packed)
    finally:
        tracemalloc.stop()


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
def test_samples_whose_white_is_not_defined_are_scaled_by_what_they_hold(kind, samples, white, expected):
    found = read_16(tiff_file(np.array([samples], kind)))
    assert np.asarray(found.image)[0, :, 0].tolist() == expected
    assert found.notes == (f"t.tif: it does not define which value is white; {white} is assumed.",)


def test_bytes_with_a_sign():
    for compression in (1, 5):
        data = tiff_file(np.array([[-3, 0, 64, 127]], np.int8), compression=compression)
        found = decode_picture(data, "t.tif")
        assert np.asarray(found.image)[0, :, 0].tolist() == [0, 0, 129, 255]


def test_the_lights_of_a_scene_do_not_make_the_rest_of_it_dark():
    samples = np.full((1, 32), 0.5, np.float32)
    samples[0, :3] = 40, 250, np.inf
    found = read_16(tiff_file(samples))
    assert np.asarray(found.image)[0, :, 0].tolist() == [255] * 3 + [128] * 29


@pytest.mark.parametrize("order", ["<", ">"])
def test_dark_samples_of_16_bits_stay_dark(order):
    dark_HW = noise(1, np.uint16)[:, :, 0] % 256
    found = read_16(tiff_file(dark_HW, order))
    assert np.array_equal(found.rgb16_HWC, np.dstack([dark_HW] * 3))
    assert found.notes == ()


@pytest.mark.parametrize("kind", ["i2", "i4", "u4", "f4"])
def test_a_compressed_tiff_in_the_other_byte_order(kind):
    data = tiff_file(np.array([[0, 1, 128, 255]], kind), ">", compression=8)
    assert np.asarray(read_16(data).image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_kind_of_tiff_that_pillow_does_not_know_is_not_called_damaged_alone():
    data = tiff_file(to_8_bits(RAMP_HWC), photometric=32844)
    with pytest.raises(ImageError, match="or of a kind that is not read here"):
        decode_picture(data, "odd.tif")
