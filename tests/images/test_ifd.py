"""IFDs, read and written byte for byte."""

from __future__ import annotations

import io
import struct

import pytest

from pipeline.images.ifd import ASCII, LONG, SHORT, Field, Ifd, IfdFile, exif_bytes, is_tiff, numbers, raw

NAME = raw(ASCII, "Zoë".encode() + b"\0")
RATIONAL = Field(5, 1, b"\1\0\0\0\2\0\0\0")


def ifd_file(data: bytes) -> IfdFile:
    return IfdFile(io.BytesIO(data))


@pytest.mark.parametrize("order", ["<", ">"])
def test_fields_are_read_as_they_were_written(order):
    fields = {315: NAME, 258: numbers(order, SHORT, 8, 8, 8), 256: numbers(order, LONG, 70_000)}
    inside = {33434: RATIONAL, 37500: raw(7, b"odd")}
    file = ifd_file(exif_bytes(order, fields, {34665: inside}))
    main = file.first()
    assert (file.order, main.is_whole, main.next_offset) == (order, True, 0)
    assert {tag: main.field(tag) for tag in fields} == fields
    assert (main.numbers(258), main.number(256), main.data(315)) == ((8, 8, 8), 70_000, NAME.data)
    exif = Ifd(file, main.number(34665))
    assert {tag: exif.field(tag) for tag in exif.entries} == inside


def test_offsets_of_a_big_tiff_have_8_bytes():
    entry = struct.pack("<HHQQ", 273, 16, 1, 2**40)
    data = b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", 1) + entry + struct.pack("<Q", 99)
    main = ifd_file(data).first()
    assert (main.numbers(273), main.next_offset, main.is_whole) == ((2**40,), 99, True)


def test_what_is_missing_or_of_another_type_is_nothing():
    data = exif_bytes("<", {315: NAME, 270: raw(ASCII, b"a text\0"), 282: RATIONAL}, {})
    main = ifd_file(data[: data.index(b"a text") + 3]).first()
    assert main.field(270) is None
    assert (main.data(999), main.numbers(999), main.number(999, 7)) == (b"", (), 7)
    assert main.numbers(315) == ()


def test_of_entries_with_one_tag_the_first_counts():
    entries = struct.pack("<HHIHH", 256, 3, 1, 1, 0) + struct.pack("<HHIHH", 256, 3, 1, 2, 0)
    main = ifd_file(b"II*\0\x08\0\0\0\2\0" + entries + bytes(4)).first()
    assert main.number(256) == 1


def test_values_hold_no_more_than_the_file_together():
    entries = b"".join(struct.pack("<HHII", tag, 7, 600, 8) for tag in range(50))
    file = ifd_file(b"II*\0\x08\0\0\0\x32\0" + entries + bytes(800))
    main = file.first()
    assert [len(main.data(tag)) for tag in range(50)] == [600] * 2 + [0] * 48


@pytest.mark.parametrize("length", [0, 1, 9, 10, 15])
def test_an_ifd_that_is_cut_short_is_not_whole(length):
    data = exif_bytes("<", {256: numbers("<", LONG, 1)}, {})[:length].ljust(8, b"\0")
    main = Ifd(ifd_file(b"II*\0" + data[4:]), 8)
    assert not main.is_whole
    assert main.entries == {}


def test_chains_end():
    first = b"\1\0" + struct.pack("<HHII", 256, 4, 1, 1) + struct.pack("<I", 26)
    second = b"\1\0" + struct.pack("<HHII", 256, 4, 1, 2) + struct.pack("<I", 8)
    file = ifd_file(b"II*\0\x08\0\0\0" + first + second)
    assert [ifd.number(256) for ifd in file.chain(10)] == [1, 2]
    assert [ifd.number(256) for ifd in file.chain(1)] == [1]


def test_heads():
    assert [is_tiff(head) for head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*")] == [True] * 5
    assert not any(is_tiff(head) for head in (b"", b"II", b"IM*\0", b"II*\1", b"\x89PNG"))
    with pytest.raises(ValueError, match="no TIFF begins with"):
        ifd_file(b"GIF89a")
