#!/usr/bin/env python3
"""Lay out what `make demo` made as a table, contents down and styles across: the README's picture.

python tools/demo_picture.py outbox/demo docs/images/demo.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageOps

EXAMPLES = Path(__file__).parent.parent / "examples"
CONTENTS = ("lake", "lighthouse")
STYLES = ("swirls", "mosaic", "woodcut")
CELL = (384, 256)
GAP = 6


def demo_picture(results: Path) -> Image.Image:
    """Return the table: styles in the first row, contents in the first column, results between."""
    width, height = CELL[0] + GAP, CELL[1] + GAP
    sheet = Image.new("RGB", (width * (len(STYLES) + 1) - GAP, height * (len(CONTENTS) + 1) - GAP), "white")

    def place(path: Path, column: int, row: int) -> None:
        with Image.open(path) as image:
            cell = ImageOps.fit(image.convert("RGB"), CELL, Image.Resampling.LANCZOS)
        sheet.paste(cell, (column * width, row * height))

    for column, style in enumerate(STYLES, start=1):
        place(EXAMPLES / "styles" / f"{style}.jpg", column, 0)
    for row, content in enumerate(CONTENTS, start=1):
        place(EXAMPLES / "content" / f"{content}.jpg", 0, row)
        for column, style in enumerate(STYLES, start=1):
            place(results / f"{content}--{style}.png", column, row)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the demo's folder in the outbox")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    demo_picture(args.results).save(args.out, quality=90)


if __name__ == "__main__":
    main()
