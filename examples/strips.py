"""Make the strips of pictures in docs/recipes.md: one for every field, from the examples, with vgg19-slim.

python examples/strips.py                        # all of them, into docs/images/recipes: some minutes
python examples/strips.py --only color init      # these
python examples/strips.py --size 320 --out big   # larger pictures, elsewhere
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pipeline import Recipe, stylize

HERE = Path(__file__).resolve().parent
PICTURES = {path.stem: path for path in sorted(HERE.glob("*/*.jpg"))}
LAKE, LIGHTHOUSE = PICTURES["lake"], PICTURES["lighthouse"]
SWIRLS, MOSAIC, WOODCUT = (PICTURES[name] for name in ("swirls", "mosaic", "woodcut"))

# Long edge, in pixels, at which pictures are shown.
SHOWN = 192
GAP, CAPTION = 6, 22


@dataclass(frozen=True)
class Panel:
    """One picture of a strip: a file or a mask as it is, or the strip's content in a style."""

    caption: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    style: Path | Mapping[str, float | str] | None = None
    shown: Path | None = None
    mask: Image.Image | None = None


@dataclass(frozen=True)
class Strip:
    content: Path
    style: Path
    panels: Sequence[Panel]


def sweep(content: Path, style: Path, name: str, values: Sequence[Any]) -> Strip:
    """Return a strip with one panel for every value of a recipe's field."""
    default = getattr(Recipe(), name)
    captions = [f"{value}, the default" if value == default else f"{value}" for value in values]
    panels = [Panel(caption, {name: value}) for caption, value in zip(captions, values, strict=True)]
    return Strip(content, style, [Panel("the content", shown=content), *panels])


def blend(share: float) -> Panel:
    shares = {str(MOSAIC): share, str(SWIRLS): 1 - share}
    return Panel(f"{share:g} mosaic + {1 - share:g} swirls", style={k: v for k, v in shares.items() if v})


def layers(caption: str, *names: str) -> Panel:
    """Return a panel of some style layers, alike, with weights that add up to those of the default."""
    weight = sum(Recipe().style_layers.values()) / len(names)
    return Panel(caption, {"style_layers": dict.fromkeys(names, weight)})


def held_by(*names: str) -> Panel:
    return Panel(
        ", ".join(names), {"content_layers": {name: Recipe().content_layers[name] for name in names}}
    )


def draw_regions() -> Image.Image:
    """Draw the mask of the lighthouse: sky, sea and land, with edges as soft as the picture's."""
    mask = Image.new("RGB", (768, 512), SKY)
    draw = ImageDraw.Draw(mask)
    draw.rectangle((0, 258, 768, 512), fill=SEA)
    tower = [(456, 314), (462, 160), (455, 144), (467, 142), (481, 98), (496, 142), (508, 144), (500, 160)]
    house = [(508, 308), (535, 300), (538, 254), (602, 250), (604, 236), (620, 236), (648, 290), (768, 290)]
    cliff = [(768, 490), (690, 500), (620, 490), (575, 498), (510, 490), (400, 482), (370, 462), (328, 430)]
    draw.polygon([(345, 392), (368, 350), (420, 312), *tower, *house, *cliff], fill=LAND)
    return mask.filter(ImageFilter.GaussianBlur(2))


def draw_ramp() -> Image.Image:
    """Draw a mask that goes from black on the left to white on the right."""
    return Image.linear_gradient("L").rotate(90).resize((768, 512))


SKY, SEA, LAND = "#3366cc", "#22aa77", "#cc6633"
FIVE = [f"relu{block}_1" for block in range(1, 6)]
# The source presets name vgg19. With the bundled network their weights mean something else.
SLIM = {"encoder": "vgg19-slim"}

STRIPS: dict[str, Strip] = {
    "inputs": Strip(LAKE, SWIRLS, [Panel(name, shown=path) for name, path in PICTURES.items()]),
    "strength": sweep(LIGHTHOUSE, SWIRLS, "strength", [0, 0.25, 0.5, 1.0, 1.5, 2]),
    "style_weight": sweep(LAKE, SWIRLS, "style_weight", [0.5, 5, 50, 500]),
    "style_growth": sweep(LAKE, SWIRLS, "style_growth", [0, 0.7, 1.3, 2.5]),
    "content_layers": Strip(
        LIGHTHOUSE,
        MOSAIC,
        [
            held_by("relu4_2"),
            held_by("relu3_1", "relu4_2"),
            held_by("relu2_1", "relu3_1", "relu4_2"),
            Panel("and relu5_1: the default"),
        ],
    ),
    "style_scale": sweep(LIGHTHOUSE, MOSAIC, "style_scale", [0.5, 1.0, 1.5, 2.5]),
    "recolor": Strip(
        LIGHTHOUSE,
        SWIRLS,
        [
            Panel("the content", shown=LIGHTHOUSE),
            Panel("the style", shown=SWIRLS),
            Panel("False", {"recolor": False}),
            Panel("True, the default"),
        ],
    ),
    "tv_weight": sweep(LAKE, WOODCUT, "tv_weight", [0, 6, 30, 100]),
    "tv_chroma": sweep(LAKE, MOSAIC, "tv_chroma", [0, 1, 5, 50]),
    "blend": Strip(LIGHTHOUSE, MOSAIC, [blend(share) for share in (1, 0.7, 0.5, 0.3, 0)]),
    "masks": Strip(
        LIGHTHOUSE,
        SWIRLS,
        [
            Panel("the content", shown=LIGHTHOUSE),
            Panel("a mask in colours", mask=draw_regions()),
            Panel(
                "swirls, mosaic and woodcut",
                style={str(SWIRLS): SKY, str(MOSAIC): SEA, str(WOODCUT): LAND},
                mask=draw_regions(),
            ),
            Panel("a mask in greys", mask=draw_ramp()),
            Panel("swirls to mosaic", style={str(SWIRLS): 0, str(MOSAIC): 1}, mask=draw_ramp()),
        ],
    ),
    "style_layers": Strip(
        LAKE,
        SWIRLS,
        [
            Panel("the default weights"),
            layers("all five alike", *FIVE),
            layers("relu1_1, relu2_1", *FIVE[:2]),
            layers("relu3_1", FIVE[2]),
            layers("relu4_1, relu5_1", *FIVE[3:]),
        ],
    ),
    "init": sweep(LIGHTHOUSE, SWIRLS, "init", ["content", "noise", "blank", "style"]),
    "color": sweep(LIGHTHOUSE, MOSAIC, "color", ["style", "content", "luminance", "match"]),
    "match_by": Strip(
        LIGHTHOUSE,
        MOSAIC,
        [
            Panel("the content", shown=LIGHTHOUSE),
            *(Panel(by, {"color": "match", "match_by": by}) for by in ("covariance", "histogram")),
        ],
    ),
    "preset": Strip(
        LIGHTHOUSE,
        SWIRLS,
        [
            Panel("default"),
            Panel("draft", {"preset": "draft", "size": 0.5}),
            Panel("bold", {"preset": "bold"}),
            Panel("gatys-lbfgs", {"preset": "gatys-lbfgs", "square": False, **SLIM}),
            Panel("content-start", {"preset": "content-start", **SLIM}),
            Panel("thumbnail", {"preset": "thumbnail", "size": 0.5, **SLIM}),
        ],
    ),
    "little": Strip(
        LAKE,
        SWIRLS,
        [
            Panel("default"),
            Panel("pooling: average", {"pooling": "average"}),
            Panel("padding: zeros", {"padding": "zeros"}),
            Panel("history: 30", {"history": 30}),
        ],
    ),
}


def render(strip: Strip, panel: Panel, size: int) -> Image.Image:
    """Return a panel's picture; a size in its fields is a part of the strip's."""
    if panel.shown is not None:
        return Image.open(panel.shown).convert("RGB")
    if panel.mask is not None and panel.style is None:
        return panel.mask.convert("RGB")
    fields = {"encoder": "vgg19-slim", "snapshot_every": 0, **panel.fields}
    fields["size"] = round(size * fields.get("size", 1))
    style = panel.style if panel.style is not None else strip.style
    return stylize(strip.content, style, Recipe(**fields), mask=panel.mask)


def arrange(pictures: Sequence[Image.Image], captions: Sequence[str], size: int) -> Image.Image:
    """Put pictures in a row at one height, each with its caption below, on white."""
    shortest = min(size * picture.height / max(picture.size) for picture in pictures)
    row = [
        picture.resize((round(picture.width * shortest / picture.height), round(shortest)), Image.LANCZOS)
        for picture in pictures
    ]
    width = sum(picture.width for picture in row) + GAP * (len(row) - 1)
    sheet = Image.new("RGB", (width, round(shortest) + CAPTION), "white")
    draw, font, left = ImageDraw.Draw(sheet), ImageFont.load_default(13), 0
    for picture, caption in zip(row, captions, strict=True):
        sheet.paste(picture, (left, 0))
        middle = (left + picture.width / 2, shortest + CAPTION / 2)
        draw.text(middle, caption, fill="black", font=font, anchor="mm")
        left += picture.width + GAP
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STRIPS, default=list(STRIPS), metavar="STRIP")
    parser.add_argument("--size", type=int, default=256, help="long edge of pictures when made")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "images" / "recipes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        started, strip = time.perf_counter(), STRIPS[name]
        pictures = [render(strip, panel, options.size) for panel in strip.panels]
        sheet = arrange(pictures, [panel.caption for panel in strip.panels], SHOWN)
        path = options.out / f"{name}.jpg"
        sheet.save(path, quality=75, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
