"""Pictures to measure with: what the examples' painter paints, cut into as many pictures as are needed.

    python -m benchmarks.pictures FOLDER --size 256 --contents 12 --styles 1

Writes FOLDER/content00.png, ... and FOLDER/style00.png, ...; the same call always paints the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

PAINTER = Path(__file__).parent.parent / "examples" / "paint.py"
Kind = Literal["content", "styles"]
Shape = Literal["square", "landscape"]
# A cut takes this part of a painting's short edge, at a place of its own.
CUT = 0.8


def write_pictures(
    folder: Path, size: int, contents: int, styles: int, mixed: bool = False
) -> tuple[list[Path], list[Path]]:
    """Write pictures whose long edge is `size` pixels; every other content is 3:2 where `mixed`."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[list[Path]] = []
    kinds: list[tuple[Kind, str, int]] = [("content", "content", contents), ("styles", "style", styles)]
    for kind, name, count in kinds:
        written.append([folder / f"{name}{number:02}.png" for number in range(count)])
        for number, path in enumerate(written[-1]):
            oblong = mixed and kind == "content" and number % 2 == 1
            cut(kind, number, size, "landscape" if oblong else "square").save(path)
    return written[0], written[1]


def cut(kind: Kind, number: int, size: int, shape: Shape = "square") -> Image.Image:
    """Return the `number`th picture of a kind: a piece of one of its paintings, every other one mirrored."""
    names = [name for name, (folder, _, _) in painter().PICTURES.items() if folder == kind]
    whole = painting(names[number % len(names)], size)
    short = round(CUT * min(whole.size))
    width, height = (short, short) if shape == "square" else (short, round(short * 2 / 3))
    generator = np.random.default_rng([len(kind), number])
    left, top = (
        int(generator.integers(0, room + 1)) for room in (whole.width - width, whole.height - height)
    )
    piece = whole.crop((left, top, left + width, top + height))
    piece = ImageOps.mirror(piece) if number // len(names) % 2 else piece
    return piece.resize((size, round(size * height / width)), Image.Resampling.LANCZOS)


@cache
def painting(name: str, size: int) -> Image.Image:
    """Paint a whole picture, large enough for cuts of `size` pixels."""
    _, aspect, paint = painter().PICTURES[name]
    short = round(size / CUT)
    image: Image.Image = painter().to_image(paint(round(short / aspect), short))
    return image


@cache
def painter() -> ModuleType:
    """Return examples/paint.py, a script, as a module."""
    spec = importlib.util.spec_from_file_location("paint", PAINTER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["paint"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256, help="long edge in pixels")
    parser.add_argument("--contents", type=int, default=1)
    parser.add_argument("--styles", type=int, default=1)
    parser.add_argument("--mixed", action="store_true", help="every other content is 3:2")
    arguments = parser.parse_args()
    write_pictures(arguments.folder, arguments.size, arguments.contents, arguments.styles, arguments.mixed)


if __name__ == "__main__":
    main()
