from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from pipeline import Recipe, StepProgress, stylize
from pipeline.api import _executor
from pipeline.errors import ImageError, UsageError


@pytest.fixture(autouse=True)
def _fresh_session():
    """Nothing stays loaded from another test, nor its folders."""
    _executor.cache_clear()


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


def test_masks(make_picture):
    content, a, b = (make_picture(f"{n}.png", i, (64, 48)) for i, n in enumerate("cab"))
    mask = Image.new("RGB", (64, 48))
    mask.paste((255, 0, 0), (0, 0, 32, 48))
    mask.save("m.png")
    recipe = Recipe(**{**QUICK, "style_layers": ["relu1_1", "relu2_1"], "steps": 4})
    styles = {str(a): "#ff0000", str(b): 0}
    masked = stylize(content, styles, recipe, mask="m.png")
    assert masked.tobytes() == stylize(content, styles, recipe, mask=mask).tobytes()
    assert masked.tobytes() != stylize(content, {str(a): 0, str(b): "#ff0000"}, recipe, mask=mask).tobytes()
    with pytest.warns(UserWarning, match="too small") as warned:
        stylize(content, styles, Recipe(**QUICK), mask=mask)
    assert [str(each.message) for each in warned] == [
        f"mask: the region of {name} is too small for relu4_1 at 48 pixels; relu5_1 at 48 pixels; "
        "left out there."
        for name in ("a.png (#ff0000)", "b.png (0)")
    ]


def test_masks_that_do_not_fit_their_styles(make_picture):
    content, a, b = (str(make_picture(f"{n}.png", i, (64, 48))) for i, n in enumerate("cab"))
    for style, mask, words in (
        (a, content, "several styles"),
        ({a: 0}, content, "two styles or more"),
        ({a: 0, b: 0}, content, "the same colour"),
        ({a: 0, b: "blue"}, content, "found 'blue'"),
        ({a: 0, b: "#0000ff"}, None, "could not convert"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            stylize(content, style, Recipe(**QUICK), mask=mask)
        assert caught.value.next_step
    with pytest.raises(ImageError, match=r"wide\.png: .*another shape"):
        stylize(content, {a: 0, b: 1}, Recipe(**QUICK), mask=make_picture("wide.png", 1, (64, 40)))


def test_pictures_as_style_and_content_are_read_like_files(make_picture):
    content, style = make_picture("a.png", 0, (64, 48)), make_picture("s.png", 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(content) as picture:
        picture.save("turned.png", exif=exif)
    from_files = stylize("turned.png", style, Recipe(**QUICK))
    assert from_files.size == (36, 48)
    with Image.open("turned.png") as turned, Image.open(style) as picture:
        assert stylize(turned, picture, Recipe(**QUICK)).tobytes() == from_files.tobytes()


def test_auto_warns_when_it_falls_back(make_picture, environment):
    (environment / "config.yaml").write_text("allow_download: false\n")
    recipe = Recipe(**{**QUICK, "encoder": "auto"})
    with pytest.warns(UserWarning, match="weights fetch"):
        stylize(make_picture("a.png"), make_picture("s.png"), recipe)


def test_errors_are_ours(make_picture, tmp_path):
    style = make_picture("s.png")
    with pytest.raises(ImageError, match=r"absent\.png"):
        stylize(tmp_path / "absent.png", style, Recipe(**QUICK))


def test_importing_the_package_is_light():
    code = "import sys, pipeline; pipeline.Recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
