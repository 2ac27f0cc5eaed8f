from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from pipeline import Recipe, StepProgress, stylize
from pipeline.errors import ImageError

QUICK = {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 2}


def test_from_paths_and_pictures_with_progress(make_picture):
    content, style = make_picture("a.png", 0, (64, 48)), make_picture("s.png", 1)
    seen: list[StepProgress] = []
    result = stylize(content, style, Recipe(**QUICK), on_progress=seen.append)
    assert result.size == (48, 36)
    assert result.mode == "RGB"
    assert [(p.step, p.steps) for p in seen] == [(1, 2), (2, 2)]
    with Image.open(content) as picture:
        again = stylize(picture, str(style), Recipe(**QUICK))
    assert again.tobytes() == result.tobytes()


def test_a_blend(make_picture):
    content, a, b = (make_picture(f"{n}.png", i, (64, 48)) for i, n in enumerate("cab"))
    recipe = Recipe(**{**QUICK, "steps": 6})
    blend = stylize(content, {str(a): 0.5, str(b): 0.5}, recipe)
    assert blend.tobytes() != stylize(content, a, recipe).tobytes()


def test_errors_are_ours(make_picture, tmp_path):
    style = make_picture("s.png")
    with pytest.raises(ImageError, match=r"absent\.png"):
        stylize(tmp_path / "absent.png", style, Recipe(**QUICK))


def test_importing_the_package_is_light():
    code = "import sys, pipeline; pipeline.Recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
