#!/usr/bin/env python3
"""Make docs/images/encoders.jpg: the example pictures by several encoders, side by side.

    python tools/encoder_strip.py vgg19=vgg19.pth vgg19-slim=pipeline/vgg/vgg19-slim.safetensors

Every encoder is CAPTION=FILE: a checkpoint in torchvision's format, or safetensors with `conv1_1.weight` ...
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import PipelineError
from pipeline.execution.inputs import read_picture
from pipeline.spec.recipe import Recipe
from pipeline.transfer.devices import plan_device
from pipeline.transfer.request import Request
from pipeline.transfer.session import Session
from pipeline.transfer.target_cache import TargetCache
from pipeline.transfer.tensors import to_image
from pipeline.vgg.weights import EncoderWeights, own_weights

HERE = Path(__file__).resolve().parent
EXAMPLES, OUT = HERE.parent / "examples", HERE.parent / "docs/images/encoders.jpg"
PAIRS = (("lake", "swirls"), ("lighthouse", "mosaic"))
GAP, CAPTION = 6, 22


def pictures(
    session: Session, pair: tuple[str, str], encoders: list[EncoderWeights], size: int
) -> Iterator[Image.Image]:
    """Return the content, the style and what every encoder makes of them."""
    content, style = (
        read_picture(EXAMPLES / folder / f"{name}.jpg")
        for folder, name in zip(("content", "styles"), pair, strict=True)
    )
    yield from (content.image, style.image)
    for weights in encoders:
        (outcome,) = session.stylize([Request(content, [(style, 1.0)], Recipe(size=size))], weights)
        if outcome.image_BCHW is None:
            raise outcome.error or AssertionError("nothing stops it")
        yield to_image(outcome.image_BCHW)


def arrange(rows: list[list[Image.Image]], captions: list[str]) -> Image.Image:
    """Put pictures into columns as wide as the last row's widest, captions above."""
    cell = [max(row[-1].size[side] for row in rows) for side in (0, 1)]
    sheet = Image.new(
        "RGB", (len(captions) * (cell[0] + GAP) - GAP, CAPTION + len(rows) * (cell[1] + GAP) - GAP), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, caption in enumerate(captions):
        left = column * (cell[0] + GAP)
        draw.text((left + cell[0] / 2, CAPTION / 2), caption, fill="black", font=font, anchor="mm")
        for index, row in enumerate(rows):
            picture = row[column].convert("RGB")
            picture.thumbnail((cell[0], cell[1]), Image.Resampling.LANCZOS)
            top = CAPTION + index * (cell[1] + GAP)
            sheet.paste(picture, (left + (cell[0] - picture.width) // 2, top))
    return sheet


def captioned(text: str) -> tuple[str, Path]:
    """Split CAPTION=FILE."""
    caption, _, path = text.partition("=")
    if not caption or not path:
        raise argparse.ArgumentTypeError(f"expected CAPTION=FILE, got '{text}'")
    return caption, Path(path)


def long_edge(text: str) -> int:
    if not text.isdecimal() or int(text) < 16:
        raise argparse.ArgumentTypeError(f"expected 16 pixels or more, got '{text}'")
    return int(text)


def jpeg_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in {".jpg", ".jpeg"} or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a .jpg in a folder that is there, got '{text}'")
    return path


def make_strip(named: list[tuple[str, Path]], size: int) -> Image.Image:
    """Stylise every pair with every encoder; what comes out is one picture.

    Raises:
        PipelineError: a network or an example cannot be used, or the size is too small.
    """
    session = Session(plan_device("auto"), TargetCache(None))
    with tempfile.TemporaryDirectory() as folder:
        encoders = [own_weights(path, Path(folder)) for _, path in named]
        rows = [list(pictures(session, pair, encoders, size)) for pair in PAIRS]
    return arrange(rows, ["content", "style", *(caption for caption, _ in named)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="CAPTION=FILE", type=captioned)
    parser.add_argument("--size", type=long_edge, default=256, help="long edge of every picture in pixels")
    parser.add_argument("--out", type=jpeg_file, default=OUT)
    options = parser.parse_args()
    try:
        make_strip(options.encoders, options.size).save(options.out, quality=80, optimize=True)
    except PipelineError as error:
        raise SystemExit(str(error)) from error
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
