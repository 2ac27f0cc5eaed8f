from __future__ import annotations

import io
import unicodedata

import pytest
from PIL import Image

from pipeline.images.reading import FORMATS, decode_picture
from pipeline.spec.names import (
    PICTURE_SUFFIXES,
    RAW_SUFFIXES,
    RECORDING_SUFFIXES,
    SIDECAR_SUFFIXES,
    composed,
    is_picture,
    reason_beside_a_picture,
    reason_to_ignore,
)


def test_suffixes_are_those_of_the_formats_that_are_read() -> None:
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in {*FORMATS, "MPO"}}
    heif = {".heic", ".heics", ".heif", ".heifs", ".hif"}  # where pillow-heif is installed
    assert PICTURE_SUFFIXES - heif == known - heif
    assert PICTURE_SUFFIXES.isdisjoint(RAW_SUFFIXES | RECORDING_SUFFIXES | SIDECAR_SUFFIXES)


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES - {".heic", ".heics", ".heif", ".heifs", ".hif"}))
def test_names_of_pictures(suffix: str) -> None:
    Image.init()
    kind = Image.registered_extensions()[suffix]
    if kind == "AVIF" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow has no AVIF")
    data = io.BytesIO()
    Image.new("1" if suffix == ".pbm" else "RGB", (40, 30), "white").save(data, kind)
    assert decode_picture(data.getvalue(), f"a{suffix}").image.size == (40, 30)
    assert is_picture(f"a{suffix.upper()}")


@pytest.mark.parametrize("name", ["a.txt", "a", "jpg", ".jpg", "a.jpg.txt", "a.cr3", "a.xmp", ""])
def test_names_of_other_files(name: str) -> None:
    assert not is_picture(name)


NAMES = {
    "hidden": [".DS_Store", ".Trash-1000", ".thumbnails", "._a.jpg", ".syncthing.a.jpg.tmp", ".a.jpg.icloud"],
    "named as an unfinished file": [
        *("~$open.png", "a.png.part", "b.jpg.partial", "x.jpg.download", "a.jpg.filepart", "a.jpg.!qB"),
        *("a.CRDOWNLOAD", "a.jpg.aria2", "a.tmp", "a.temp", "a.opdownload", "a.!ut", "a.bc!"),
    ],
    "named as a backup": ["old.jpg~", "a.jpg.BAK", "a.swp"],
    "a recycle bin": ["#recycle", "$RECYCLE.BIN", "@Recycle", "RECYCLER", "Network Trash Folder"],
    "a file of the operating system": [
        *("Thumbs.db", "DESKTOP.INI", "Icon\r", "a.jpg:Zone.Identifier", "a.jpg:Zone.Identifier:$DATA"),
        *("a.jpg\uf03aZone.Identifier", "__MACOSX", "@eaDir", "@EADIR", "lost+found", "FOUND.000"),
        *("System Volume Information", "@sharebin", "#snapshot", "@Recently-Snapshot"),
    ],
}


@pytest.mark.parametrize("kind", NAMES)
def test_ignored_names(kind: str) -> None:
    for name in NAMES[kind]:
        assert {reason_to_ignore(each) for each in (name, name.upper(), name.lower())} == {kind}, name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a.jpg",
            "part.png",
            "a.part.png",
            "tmp",
            "done",
            "my thumbs.db.png",
            "recycle",
            "#1.jpg",
            "a#recycle",
        ),
        *(
            "$10.png",
            "Icon",
            "icon.png",
            "12:30.jpg",
            "lost",
            "@home.jpg",
            "found.jpg",
            "download",
            "a~b.jpg",
        ),
        *("line\n~x.jpg", "x.part\n.jpg"),
    ],
)
def test_names_that_only_resemble_ignored_ones(name: str) -> None:
    assert reason_to_ignore(name) == ""
    assert reason_beside_a_picture(name) == ""


def test_more_names_can_be_ignored() -> None:
    more = ("*_small.*", "Ausschuß", "caf\xe9", "[xy]?.png")
    for name in ("a_SMALL.jpg", "ausschuß", "cafe\u0301", "X1.png"):
        assert reason_to_ignore(name, more) == "as `ignore` in config.yaml says"
        assert reason_to_ignore(name) == ""
    for name in ("a_small", "small.jpg", "z1.png", "café.png"):
        assert reason_to_ignore(name, more) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.xmp", "sidecar"),
        ("a.jpg.XMP", "sidecar"),
        ("IMG_1.AAE", "sidecar"),
        ("a.CR3", "raw"),
        ("a.dng", "raw"),
        ("IMG_1.MOV", "video"),
        ("a.wav", "sound"),
    ],
)
def test_files_beside_pictures(name: str, words: str) -> None:
    assert words in reason_beside_a_picture(name)
    assert reason_to_ignore(name) == ""


def test_two_unicode_forms_are_one_name() -> None:
    decomposed = unicodedata.normalize("NFD", "Müller é")
    assert decomposed != "Müller é"
    assert composed(decomposed) == composed("Müller é") == "Müller é"
