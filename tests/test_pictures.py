"""Every preset paints the picture it painted before.

`python tests/test_pictures.py` paints the pictures in tests/pictures anew. Do that only with a change that is
meant to change pictures, look at them, and raise `ALGORITHM_VERSION`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import Recipe, stylize
from pipeline.spec.presets import PRESETS

PICTURES = Path(__file__).parent / "pictures"
# L-BFGS amplifies rounding from step to step: on another processor, `bold` differed by 2.3 after six steps.
SIZE, STEPS = 64, 4
# Levels of 256, root mean square.
TOLERANCE = 1.0


def content() -> Image.Image:
    """A disc before a slope, with something in every direction."""
    y, x = np.mgrid[0:48, 0:64] / 48.0
    disc = (x - 0.6) ** 2 + (y - 0.45) ** 2 < 0.09
    sky = np.stack([0.3 + 0.4 * y, 0.5 + 0.2 * x, 0.8 - 0.3 * y], axis=-1)
    sky[disc] = (0.9, 0.7, 0.2)
    sky[y > 0.75 + 0.1 * np.sin(6 * x)] = (0.2, 0.3, 0.1)
    return Image.fromarray((255 * np.clip(sky, 0, 1)).round().astype(np.uint8))


def style() -> Image.Image:
    """Curved stripes of three colours."""
    y, x = np.mgrid[0:64, 0:64] / 64.0
    stripes = np.floor(8 * (x + 0.2 * np.sin(8 * y))).astype(int) % 3
    return Image.fromarray(np.array([(20, 40, 120), (240, 200, 60), (200, 60, 40)], np.uint8)[stripes])


def painted(preset: str) -> Image.Image:
    recipe = Recipe(preset=preset, encoder="vgg19-slim", size=SIZE, steps=STEPS, precision="float32")
    return stylize(content(), style(), recipe, device="cpu")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_paints_what_it_painted(preset: str) -> None:
    with Image.open(PICTURES / f"{preset}.png") as picture:
        before = np.asarray(picture, np.float64)
    now = np.asarray(painted(preset), np.float64)
    assert now.shape == before.shape
    assert np.sqrt(np.mean((now - before) ** 2)) < TOLERANCE


def test_every_picture_belongs_to_a_preset() -> None:
    assert {path.stem for path in PICTURES.iterdir()} == set(PRESETS)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name in PRESETS:
        painted(name).save(PICTURES / f"{name}.png", optimize=True)
