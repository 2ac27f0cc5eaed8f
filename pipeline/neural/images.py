"""Files <-> pictures <-> tensors. A picture is a Pillow image in sRGB, mode RGB, upright.

Tensors are `image_BCHW`: float32, three channels, sRGB in [0, 1].
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..errors import ImageError

ImageFormat = Literal["png", "jpeg"]


def read_bytes(path: Path) -> bytes:
    """Read a picture's file.

    Raises:
        ImageError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror or error}).", "Check the path and its permissions."
        ) from error


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode a picture: EXIF orientation applied, colours brought to sRGB, transparency put on white.

    `name` is used in messages.

    Raises:
        ImageError: empty, truncated, too large or no picture at all.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes).", "Copy the picture again.")
    try:
        with warnings.catch_warnings():
            # Pillow grumbles about odd metadata in pictures that are fine.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as opened:
                opened.load()
                return upright_srgb(opened)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not a picture in any format known here.", "Save it as PNG or JPEG and try again."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name}: more than {Image.MAX_IMAGE_PIXELS:,} pixels.", "Make the picture smaller first."
        ) from error
    # Pillow's decoders report damage as any of these.
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, IndexError, TypeError) as error:
        raise ImageError(
            f"{name}: damaged or cut short ({error}).", "Copy or export the picture again."
        ) from error


def upright_srgb(image: Image.Image) -> Image.Image:
    """Turn any Pillow image upright and into RGB in sRGB, with transparency put on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _sixteen_to_eight_bits(image)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image = _apply_profile(image).convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", image.size, "white")
        image = Image.composite(image, white, alpha)
    return image


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale instead of Pillow's clipping; 32-bit modes hold 16-bit values in practice."""
    values = np.asarray(image, dtype=np.float64)
    top = 1.0 if image.mode == "F" and values.max(initial=0) <= 1 else 65535.0
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def _apply_profile(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode in {"RGBA", "P", "PA", "LA"}:
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if not profile or image.mode not in {"RGB", "CMYK", "L", "LAB"}:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        # A profile that is damaged or for another kind of picture: the plain conversion is what
        # every viewer falls back to.
        return image.convert("RGB")
    return converted or image.convert("RGB")


def fit_size(size: tuple[int, int], long_edge: int, square: bool = False) -> tuple[int, int]:
    """Return (width, height) with the given long edge, in pixels, and `size`'s shape unless `square`."""
    if square:
        return long_edge, long_edge
    scale = long_edge / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def to_tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Scale to `size` (width, height) and return `image_BCHW` with B = 1."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1)[None].contiguous().float() / 255


def to_image(image_BCHW: Tensor) -> Image.Image:
    """Return the first picture of a batch as a Pillow image, clipped to [0, 1]."""
    pixels = image_BCHW[0].detach().float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def side_by_side(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Put pictures in a row on white, all at the height of the last."""
    height = images[-1].height
    row = [im.resize((max(1, round(im.width * height / im.height)), height)) for im in images]
    sheet = Image.new("RGB", (sum(im.width for im in row) + gap * (len(row) - 1), height), "white")
    left = 0
    for image in row:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    return sheet


def encode_image(
    image: Image.Image, image_format: ImageFormat, quality: int, provenance: Mapping[str, object]
) -> bytes:
    """Return the bytes of a PNG or JPEG file with `provenance` as JSON in its metadata.

    The same arguments give the same bytes: nothing here depends on the time.
    """
    buffer = io.BytesIO()
    text = json.dumps(provenance, sort_keys=True)
    if image_format == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0, comment=text.encode())
    else:
        metadata = PngImagePlugin.PngInfo()
        metadata.add_text("Software", "style-pipeline")
        metadata.add_itxt("style-pipeline", text)
        image.save(buffer, "PNG", pnginfo=metadata)
    return buffer.getvalue()
