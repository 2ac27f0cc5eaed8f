"""What the name of a file says: whether it is ignored, a picture, or equal to another name."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from functools import lru_cache

# Suffixes of the pictures that the decoder reads.
_PICTURES = """
    .apng .avif .avifs .bmp .dib .gif .heic .heics .heif .heifs .hif .jfif .jpe .jpeg .jpg .mpo .pbm .pfm .pgm
    .png .pnm .ppm .tif .tiff .webp
"""
# Settings of other programs, and thumbnails of cameras, beside a picture or film of the same name.
_SIDECARS = ".aae .acr .arp .cos .dop .nksc .on1 .pp3 .rop .thm .vrd .xmp"
_RAW = """
    .3fr .arw .bay .cap .cr2 .cr3 .crw .dcr .dcs .dng .eip .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef
    .nrw .orf .ori .pef .ptx .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f
"""
# What cameras and phones record beside pictures.
_RECORDINGS = ".3g2 .3gp .avi .insv .lrf .lrv .m2ts .m4a .m4v .mov .mp3 .mp4 .mpg .mts .wav .webm"
_UNFINISHED = """
    ~* *.!bt *.!qb *.!sync *.!ut *.aria2 *.bc! *.crdownload *.download *.dtapart *.fdmdownload *.filepart
    *.opdownload *.part *.partial *.temp *.tmp
"""

PICTURE_SUFFIXES = frozenset(_PICTURES.split())
SIDECAR_SUFFIXES = frozenset(_SIDECARS.split())
RAW_SUFFIXES = frozenset(_RAW.split())
RECORDING_SUFFIXES = frozenset(_RECORDINGS.split())

# Patterns of names of files and folders; case does not count.
UNFINISHED = tuple(_UNFINISHED.split())
BACKUPS = ("*~", "*.bak", "*.swp")
RECYCLE_BINS = ("#recycle", "$recycle.bin", "@recycle", "recycled", "recycler", "network trash folder")
SYSTEM_FILES = (
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    *("*:zone.identifier", "*:zone.identifier:$data", "*zone.identifier"),
    *("__macosx", "temporary items", "lost+found", "found.[0-9][0-9][0-9]", "system volume information"),
    *("@eadir", "@sharebin", "@tmp", "@recently-snapshot", "#snapshot"),
)


def composed(name: str) -> str:
    """Return a name in NFC, for comparisons: some systems decompose é into e and an accent."""
    return unicodedata.normalize("NFC", name)


def is_picture(name: str) -> bool:
    """Return whether a file has the suffix of a picture that can be read."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def reason_to_ignore(name: str, more: tuple[str, ...] = ()) -> str:
    """Say why a file or folder of this name is left alone; "" if it is not. `more` are patterns of names."""
    if name.startswith("."):
        return "hidden"
    kinds = {
        "named as an unfinished file": UNFINISHED,
        "named as a backup": BACKUPS,
        "a recycle bin": RECYCLE_BINS,
        "a file of the operating system": SYSTEM_FILES,
        "as `ignore` in config.yaml says": more,
    }
    return next((kind for kind, patterns in kinds.items() if matches(name, patterns)), "")


def reason_beside_a_picture(name: str) -> str:
    """Say why a file that cameras or programs put beside pictures is ignored; "" if it is not one."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in SIDECAR_SUFFIXES:
        return "a sidecar, which belongs to a picture of the same name"
    if suffix in RECORDING_SUFFIXES:
        return "a video or sound recording"
    return "raw data of a camera; develop it, and drop the picture" if suffix in RAW_SUFFIXES else ""


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name matches a pattern with `*`, `?` and `[...]`; case does not count."""
    return bool(_compiled(patterns).match(composed(name)))


@lru_cache(maxsize=256)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(fnmatch.translate(composed(pattern)) for pattern in patterns)
    return re.compile(either or r"(?!)", re.IGNORECASE)
