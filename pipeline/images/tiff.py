"""TIFF: which of its pages is the picture, and samples that Pillow reads with 8 bits, wrongly, or not at all.

Pillow, and so libtiff, decompresses these as well: it is given the strips or tiles as those of a picture of
8-bit grey, and returns their bytes unchanged. Which samples they are is worked out here (TIFF 6.0, and its
supplement on the predictor of floats). Shapes in names: H rows, W columns, C channels.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from ..errors import ImageError
from .ifd import LONG, TAGS, Ifd, IfdFile, ifd_bytes, numbers
from .samples import ROWS, possible_whites, to_16_bits, without_association

SUBFILE_TYPE, OLD_SUBFILE_TYPE, SUB_IFDS = 254, 255, 330
# A file may claim any number of pages.
MOST_PAGES = 1000
# Tiles may extend beyond the page by this many pixels, and as many again as the page has.
TILE_EXCESS = 1 << 24
# Bytes of a pixel that are read: at most three doubles.
MOST_PIXEL_BYTES = 24

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK = 0, 1, 2, 5
_COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4}
# Colours that belong to a sensor: behind a pattern of filters, or before any white balance (DNG).
RAW_PHOTOMETRIC = (32803, 34892)
ASSOCIATED, UNASSOCIATED = 1, 2
UNSIGNED, PLANAR = 1, 2
# Sample formats as numpy names them; 4 is undefined.
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
UNCOMPRESSED = 1
# None, LZW, deflate by both of its numbers, PackBits, LZMA, Zstandard.
COMPRESSIONS = (UNCOMPRESSED, 5, 8, 32946, 32773, 34925, 50000)
NO_PREDICTOR, DIFFERENCES, FLOAT_DIFFERENCES = 1, 2, 3
# Tags of offsets and sizes in bytes.
_STRIPS, _TILES = (TAGS.StripOffsets, TAGS.StripByteCounts), (TAGS.TileOffsets, TAGS.TileByteCounts)


@dataclass(frozen=True)
class Page:
    """An IFD that has a picture: one of the file's chain of pages, or a sub-IFD of one of them."""

    ifd: Ifd
    is_sub: bool = False

    @cached_property
    def size(self) -> tuple[int, int]:
        return self.ifd.number(TAGS.ImageWidth), self.ifd.number(TAGS.ImageLength)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @cached_property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy or a mask. Bit 1 only means one page of several."""
        return bool(self.ifd.number(SUBFILE_TYPE) & ~2) or self.ifd.number(OLD_SUBFILE_TYPE) == 2

    @cached_property
    def photometric(self) -> int:
        return self.ifd.number(TAGS.PhotometricInterpretation)

    @cached_property
    def tile_size(self) -> tuple[int, int]:
        """Width and height of a tile. Strips are treated as tiles as wide as the page."""
        if TAGS.TileOffsets in self.ifd.entries:
            return self.ifd.number(TAGS.TileWidth), self.ifd.number(TAGS.TileLength)
        width, height = self.size
        return width, min(self.ifd.number(TAGS.RowsPerStrip, height), height)

    def check_tiles(self) -> None:
        """Check the size of tiles, before a decoder allocates one.

        Raises:
            ValueError: they are empty, or much larger than the page.
        """
        (width, height), tile = self.size, self.tile_size
        if 0 in tile or (width + tile[0]) * max(height, tile[1]) > 2 * self.pixels + TILE_EXCESS:
            raise ValueError(f"tiles of {tile[0]:,} x {tile[1]:,} pixels")

    @cached_property
    def is_read_by_pillow(self) -> bool:
        """Whether samples are unsigned, of at most 8 bits, and not in planes, which Pillow may mix up."""
        bits, formats = self.ifd.numbers(TAGS.BitsPerSample), self.ifd.numbers(TAGS.SampleFormat)
        if max(bits, default=1) > 8 or not set(formats) <= {UNSIGNED}:
            return False
        is_planar = self.ifd.number(TAGS.PlanarConfiguration) == PLANAR
        is_known = self.ifd.number(TAGS.Compression, UNCOMPRESSED) in COMPRESSIONS
        return not (is_planar and is_known and set(bits) == {8} and self.photometric in _COLORS)


def read_pages(data: bytes) -> list[Page]:
    """Read the pages of a TIFF or BigTIFF: first the chain, then their sub-IFDs, theirs, and so on."""
    file = IfdFile(io.BytesIO(data))
    pages = [Page(ifd) for ifd in file.chain(MOST_PAGES)]
    seen = {page.ifd.offset for page in pages}
    for page in pages:  # grows meanwhile
        for offset in page.ifd.numbers(SUB_IFDS):
            if offset not in seen and len(pages) < MOST_PAGES:
                seen.add(offset)
                pages.append(Page(Ifd(file, offset), is_sub=True))
    return [page for page in pages if page.pixels]


def main_page(pages: list[Page]) -> Page:
    """Return the page that is the picture, rather than a smaller copy of it.

    It is the first that is not marked as one and has at least half as many pixels as the largest: pages of a
    document differ a little in size, and thumbnails are not always marked.
    """
    whole = [page for page in pages if not page.is_reduced] or pages
    most = max(page.pixels for page in whole)
    return next(page for page in whole if 2 * page.pixels >= most)


class _ByteImage(TiffImagePlugin.TiffImageFile):
    """A TIFF of 8-bit grey whose pixels are bytes of samples, possibly more than Pillow's limit of pixels.

    Undocumented: Pillow checks that limit for a TIFF in `load_prepare`. The real pixels were counted before.
    """

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


class SampleReader:
    """Reads the samples of a page, of which size and tiles were checked.

    Raises:
        ImageError: the samples are of a kind that is not read here. `name` is used in messages.
    """

    def __init__(self, data: bytes, page: Page, name: str) -> None:
        ifd = self.ifd = page.ifd
        self.data = data
        self.width, self.height = page.size
        self.photometric = page.photometric
        bits = {*ifd.numbers(TAGS.BitsPerSample)}
        formats = {*ifd.numbers(TAGS.SampleFormat)} or {UNSIGNED}
        self.bits, self.kind = max(bits, default=1), _KINDS.get(max(formats), "")
        self.channels = ifd.number(TAGS.SamplesPerPixel, 1)
        self.colors = _COLORS.get(self.photometric, 0)
        # Some programs write RGBA and do not describe its fourth channel.
        is_undescribed = self.photometric == RGB and self.channels == 4
        extra = ifd.number(TAGS.ExtraSamples, UNASSOCIATED if is_undescribed else 0)
        has_alpha = extra in (ASSOCIATED, UNASSOCIATED) and self.photometric != CMYK
        self.alpha = extra if has_alpha else 0
        self.compression = ifd.number(TAGS.Compression, UNCOMPRESSED)
        self.predictor = ifd.number(TAGS.Predictor, NO_PREDICTOR)
        self.planes = self.channels if ifd.number(TAGS.PlanarConfiguration) == PLANAR else 1
        self.is_tiled = TAGS.TileOffsets in ifd.entries
        self.tile_width, self.tile_height = page.tile_size
        is_uniform = len(bits) == len(formats) == 1
        if not (is_uniform and self._has_known_samples() and self._has_known_layout()):
            raise ImageError(
                f"{name}: a kind of TIFF that is not read here ({self.bits} bits per sample, "
                f"photometric {self.photometric}, compression {self.compression}).",
                "Save it as PNG, or as TIFF in RGB or grey, with 8 or 16 bits per sample.",
            )
        self.segment_tags = _TILES if self.is_tiled else _STRIPS
        self.offsets, self.sizes = (ifd.numbers(tag) for tag in self.segment_tags)
        self.across, self.down = -(-self.width // self.tile_width), -(-self.height // self.tile_height)
        self.row_bytes = -(-self.tile_width * (self.channels // self.planes) * self.bits // 8)

    def _has_known_samples(self) -> bool:
        known = {"u": (*range(8, 17), 32), "i": (8, 16, 32), "f": (16, 32, 64)}
        return (
            self.bits in known.get(self.kind, ())
            and 0 < self.colors <= self.colors + bool(self.alpha) <= self.channels
            and (self.photometric != CMYK or (self.kind == "u" and self.bits <= 16))
            and self.bits * self.channels <= 8 * MOST_PIXEL_BYTES
        )

    def _has_known_layout(self) -> bool:
        fits_predictor = {
            NO_PREDICTOR: True,
            DIFFERENCES: self.bits % 8 == 0,
            FLOAT_DIFFERENCES: self.kind == "f",
        }
        return self.compression in COMPRESSIONS and fits_predictor.get(self.predictor, False)

    def read(self) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
        """Return colours in 16 bits, HWC, black as zero, then alpha if there is any; and notes.

        Raises:
            ValueError, OSError: the file is damaged or cut short.
        """
        whites = possible_whites(self.kind, self.bits)
        result_HWC, notes = to_16_bits(self._stored_samples(), whites, self.colors)
        if self.photometric == WHITE_IS_ZERO:
            result_HWC[:, :, 0] = 65535 - result_HWC[:, :, 0]
        return without_association(result_HWC) if self.alpha == ASSOCIATED else result_HWC, notes

    def _stored_samples(self) -> NDArray[Any]:
        """Return colours and alpha as they are stored, but doubles as floats of 32 bits."""
        itemsize = 4 if self.bits > 16 else 2 if self.bits > 8 else 1
        channels = self.colors + bool(self.alpha)
        result_HWC = np.empty((self.height, self.width, channels), f"{self.kind}{itemsize}")
        for plane in range(min(self.planes, channels)):
            grey = self._decompressed(plane)
            target_HWC = result_HWC if self.planes == 1 else result_HWC[:, :, plane : plane + 1]
            for top in range(0, self.height, ROWS):
                rows = Image.new("L", (grey.width, min(ROWS, self.height - top)))
                rows.paste(grey, (0, -top))  # unlike `crop`, it does not limit the number of pixels
                samples_HWC = self._unpacked(np.asarray(rows).reshape(-1, self.row_bytes))
                samples_HWC = samples_HWC.reshape(rows.height, -1, samples_HWC.shape[2])
                with np.errstate(over="ignore"):  # a double may be too large for a float
                    target_HWC[top : top + ROWS] = samples_HWC[:, : self.width, : target_HWC.shape[2]]
        return result_HWC

    def _decompressed(self, plane: int) -> Image.Image:
        """Return the bytes of a plane, decompressed, as a picture of 8-bit grey; all tiles are whole."""
        count = self.across * self.down
        part = slice(plane * count, (plane + 1) * count)
        if len(self.offsets[part]) < count:
            raise ValueError("strips or tiles are missing")
        values: dict[int, tuple[int, ...]] = {
            TAGS.ImageWidth: (self.across * self.row_bytes,),
            TAGS.ImageLength: (self.height,),
            TAGS.BitsPerSample: (8,),
            TAGS.Compression: (self.compression,),
            TAGS.PhotometricInterpretation: (BLACK_IS_ZERO,),
            TAGS.FillOrder: (self.ifd.number(TAGS.FillOrder, 1),),
            self.segment_tags[0]: self.offsets[part],
            self.segment_tags[1]: self.sizes[part],
        }
        if self.is_tiled:
            values |= {TAGS.TileWidth: (self.row_bytes,), TAGS.TileLength: (self.tile_height,)}
        else:
            values[TAGS.RowsPerStrip] = (self.tile_height,)
        fields = {tag: numbers("<", LONG, *some) for tag, some in values.items() if some}
        start = len(self.data) + len(self.data) % 2
        rest = memoryview(self.data)[8:], bytes(start - len(self.data)), ifd_bytes(fields, "<", start)
        with io.BytesIO(b"".join((b"II*\0", struct.pack("<I", start), *rest))) as file:
            grey = _ByteImage(file)
            try:
                grey.load()
            except OSError as error:  # damaged, or libtiff is built without this compression
                raise OSError(f"compression {self.compression}: {error}") from error
        return grey

    def _unpacked(self, stored: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn rows of tiles, as bytes, into samples HWC: undo packed bits, byte order and predictor."""
        rows, channels, itemsize = len(stored), self.channels // self.planes, self.bits // 8
        if self.bits % 8:
            padded = np.zeros((rows, self.tile_width * channels, 16), np.uint8)
            bits = np.unpackbits(stored, axis=1)[:, : padded.shape[1] * self.bits]
            padded[:, :, 16 - self.bits :] = bits.reshape(rows, -1, self.bits)
            return np.packbits(padded, axis=2).view(">u2").reshape(rows, -1, channels)
        order = self.ifd.file.order
        if self.predictor == FLOAT_DIFFERENCES:
            # A row has the first byte of all samples, then the second ..., as differences between bytes.
            summed = np.cumsum(stored.reshape(rows, -1, channels), axis=1, dtype=np.uint8)
            stored, order = np.ascontiguousarray(summed.reshape(rows, itemsize, -1).swapaxes(1, 2)), ">"
        # As unsigned integers, in which differences wrap around.
        values_HWC = stored.view(f"{order}u{itemsize}").reshape(rows, -1, channels).astype(f"u{itemsize}")
        if self.predictor == DIFFERENCES:
            values_HWC = np.cumsum(values_HWC, axis=1, dtype=values_HWC.dtype)
        return values_HWC.view(f"{self.kind}{itemsize}")
