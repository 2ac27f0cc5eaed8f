"""Which page of a TIFF is the picture, and what is only a smaller copy of it."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from pipeline.errors import ImageError
from pipeline.images.directories import MOST_PAGES, read_pages
from pipeline.images.reading import FIRST_FRAME, LARGEST_PAGE, decode_picture
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
    """Writes a TIFF, or BigTIFF, by hand: pixels and inner pages before the directory that names them."""

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
        """Return where a directory is, and where the place of the next one goes."""
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


def test_the_outer_directory_says_which_side_is_up_and_who_took_the_picture():
    outer = PageOf((6, 4), RED, REDUCED, [PageOf((48, 32), BLUE)], {274: 6}, b"Someone")
    found = decode_picture(tiff(outer), "p.tif")
    assert found.image.size == (32, 48)
    assert b"Someone\0" in found.exif.data
    own = PageOf(
        (6, 4), RED, REDUCED, [PageOf((48, 32), BLUE, tags={274: 1}, text=b"Another")], {274: 6}, b"S"
    )
    found = decode_picture(tiff(own), "p.tif")
    assert found.image.size == (48, 32)
    assert b"Another\0" in found.exif.data


def test_rows_of_pages_that_never_end_are_left():
    data = bytearray(tiff(PageOf((6, 4), RED, REDUCED), PageOf((48, 32), BLUE)))
    assert len(read_pages(io.BytesIO(bytes(data)))) == 2
    data[-4:] = data[4:8]  # the last page is followed by the first
    assert shown(bytes(data)) == ((48, 32), BLUE, ())
    many = tiff(*[PageOf((1, 1), RED)] * (MOST_PAGES + 5))
    assert len(read_pages(io.BytesIO(many))) == MOST_PAGES


def test_no_damage_to_directories_raises_anything_else(monkeypatch):
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
