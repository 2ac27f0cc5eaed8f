from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline import Recipe, StepProgress, stylize
from pipeline.api import _executor
from pipeline.errors import ImageError, JobError, UsageError
from pipeline.execution.executors import InProcessExecutor
from pipeline.transfer.engine import StyleTransfer
from pipeline.transfer.memory import OutOfMemory


@pytest.fixture(autouse=True)
def _fresh_session():
    """Nothing stays loaded from another test, nor its folders."""
    _executor.cache_clear()


LAYERS = {"style_layers": ["relu1_1", "relu2_1"], "content_layers": ["relu2_1"]}
# Cheap: to give so small a picture its palette, and the deeper layers, take most of its time.
QUICK = {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 2, "recolor": False, **LAYERS}


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
    recipe = Recipe(**{**QUICK, "steps": 4})
    styles = {str(a): "#ff0000", str(b): 0}
    masked = stylize(content, styles, recipe, mask="m.png")
    assert masked.tobytes() == stylize(content, styles, recipe, mask=mask).tobytes()
    assert masked.tobytes() != stylize(content, {str(a): 0, str(b): "#ff0000"}, recipe, mask=mask).tobytes()
    with pytest.warns(UserWarning, match="too small") as warned:
        stylize(content, styles, Recipe(**QUICK | {"style_layers": ["relu4_1", "relu5_1"]}), mask=mask)
    assert [str(each.message) for each in warned] == [
        f"mask: the region of {name} is too small for relu4_1 at 48 pixels; relu5_1 at 48 pixels; "
        "it is left out there."
        for name in ("a.png (#ff0000)", "b.png (0)")
    ]


def test_masks_that_do_not_fit_their_styles(make_picture):
    content, a, b = (str(make_picture(f"{n}.png", i, (64, 48))) for i, n in enumerate("cab"))
    for style, mask, words in (
        (a, content, "several styles"),
        ({a: 0}, content, "two styles or more"),
        ({a: 0, b: 0}, content, "the same colour"),
        ({a: 0, b: "blue"}, content, "found 'blue'"),
        ({a: 0, b: "#0000ff"}, None, "more than 0"),
        ({a: 1, b: "#0000ff"}, None, "colours need a mask"),
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


def test_auto_is_the_small_network_on_a_cpu_and_no_warning(make_picture):
    recipe = Recipe(**{**QUICK, "encoder": "auto"})
    image = stylize(make_picture("a.png"), make_picture("s.png"), recipe, device="cpu")
    assert image.tobytes() == stylize("a.png", "s.png", Recipe(**QUICK), device="cpu").tobytes()


def test_what_of_the_pictures_is_not_used_is_warned_of(make_picture):
    style = make_picture("s.png", 1, (64, 48))
    frames = [Image.open(make_picture(f"{n}.png", n, (64, 48))) for n in (0, 1)]
    frames[0].save("anim.gif", save_all=True, append_images=frames[1:])
    samples = np.arange(64 * 48 * 3).reshape(48, -1) * 7
    Path("deep.ppm").write_text("P3 64 48 65535\n" + "\n".join(" ".join(map(str, row)) for row in samples))
    with pytest.warns(UserWarning, match="first|bits") as warned:
        stylize("anim.gif", {"deep.ppm": 1, style: 1}, Recipe(**QUICK, init="anim.gif"))
    assert [str(each.message) for each in warned] == [
        "anim.gif: it has several frames or pages; only the first is used.",
        "deep.ppm: only 8 of its 16 bits are used.",
    ]
    assert all(each.filename == __file__ for each in warned)


def test_notes_of_pictures_without_a_file_name_their_part(make_picture):
    deep = Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64))
    deep.info["icc_profile"] = b"none"
    with pytest.warns(UserWarning, match=r"^content: its colour profile") as warned:
        stylize(deep, make_picture("s.png", 1), Recipe(**QUICK))
    assert len(warned) == 1


def test_a_recipe_is_also_its_fields_or_a_preset(make_picture):
    content, style = make_picture("a.png", 0, (64, 48)), make_picture("s.png", 1)
    expected = stylize(content, style, Recipe(**QUICK, preset="draft", beta=5))
    fields = MappingProxyType({**QUICK, "preset": "draft", "beta": 5})
    assert stylize(content, style, fields).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("nope", "'nope' is not a preset"),
        ("drfat", "'drfat' is not a preset; did you mean 'draft'?"),
        ({"preset": "nope"}, "recipe: preset: 'nope' is not a preset"),
        ({"sise": 64}, "recipe: sise: unknown key; did you mean 'size'"),
        ({"size": 64, "steps": 0}, r"recipe: steps\[0\]: .*found 0"),
        ({"alpha": 1, "content_weight": 2}, "given twice"),
        ({1: 2}, "expected text as a key"),
        (None, "found NoneType"),
        (64, "found int"),
    ],
)
def test_a_recipe_that_is_none(recipe, words, make_picture):
    with pytest.raises(UsageError, match=words) as caught:
        stylize(make_picture("a.png"), make_picture("s.png"), recipe)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({}, "style: the mapping is empty"),
        ({"s.png": 0, "a.png": 0}, r"style: s\.png: .*more than 0, found 0"),
        ({"s.png": 1, "a.png": -1}, r"style: a\.png: .*more than 0, found -1"),
        ({"s.png": None}, "found nothing"),
        ({"s.png": float("nan")}, "finite number, found nan"),
        ({"s.png": 1e308, "a.png": 1e308}, r"found 1e\+308"),
        ({"s.png": [1]}, r"a number, found \[1\]"),
    ],
)
def test_shares_that_are_none(shares, words, make_picture):
    make_picture("s.png", 1)
    with pytest.raises(UsageError, match=words) as caught:
        stylize(make_picture("a.png"), shares, Recipe(**QUICK))
    assert caught.value.next_step


@pytest.mark.parametrize("given", [np.zeros((48, 64, 3), np.uint8), ["a.png"], b"a.png", 3], ids=type)
@pytest.mark.parametrize("part", ["content", "style", "mask"])
def test_what_is_no_picture_is_named_with_its_part(part, given, make_picture):
    a, s = str(make_picture("a.png")), str(make_picture("s.png", 1))
    arguments = (
        {"content": a, "style": s} | ({"style": {a: 0, s: 1}} if part == "mask" else {}) | {part: given}
    )
    with pytest.raises(UsageError, match=f"{part}: expected .*, found {type(given).__name__}") as caught:
        stylize(**arguments, recipe=QUICK)
    assert caught.value.next_step


def test_no_style_is_named(make_picture):
    with pytest.raises(UsageError, match=r"style: expected .*, found NoneType"):
        stylize(make_picture("a.png"), None, QUICK)


@pytest.mark.parametrize("part", ["content", "style", "mask"])
def test_a_damaged_picture_is_named_by_its_file(part, make_picture):
    a, s = str(make_picture("a.png", 0, (64, 48))), str(make_picture("s.png", 1))
    Path("cut.png").write_bytes(Path(a).read_bytes()[:3000])
    arguments = {"content": a, "style": {a: 0, s: 1} if part == "mask" else s}
    with Image.open("cut.png") as cut, pytest.raises(ImageError, match=r"cut\.png: damaged") as caught:
        stylize(**arguments | {part: cut}, recipe=QUICK)
    assert caught.value.next_step


def test_pictures_that_are_closed_or_empty(make_picture):
    style = make_picture("s.png", 1)
    with Image.open(make_picture("a.png")) as closed:
        pass
    with pytest.raises(ImageError, match=r"a\.png: .*closed"):
        stylize(closed, style, Recipe(**QUICK))
    with pytest.raises(ImageError, match="style: the picture has no pixels"):
        stylize("a.png", Image.new("RGB", (0, 5)), Recipe(**QUICK))


@pytest.mark.parametrize("part", ["content", "style"])
def test_a_picture_that_is_fully_transparent(part, make_picture):
    a, s = make_picture("a.png", 0, (64, 48)), make_picture("s.png", 1)
    arguments = {"content": a, "style": s, part: Image.new("RGBA", (64, 48))}
    with pytest.raises(ImageError, match=f"^{part}: the picture is fully transparent"):
        stylize(**arguments, recipe=QUICK)


def test_errors_are_ours(make_picture, tmp_path):
    style = make_picture("s.png")
    with pytest.raises(ImageError, match=r"absent\.png"):
        stylize(tmp_path / "absent.png", style, Recipe(**QUICK))
    with pytest.raises(ImageError, match="not a path"):
        stylize(style, style, Recipe(**QUICK, init="a\0.png"))


def test_a_layer_that_the_small_network_lacks_is_named(make_picture):
    recipe = {**QUICK, "encoder": "auto", "style_layers": ["relu5_4"]}
    with pytest.raises(JobError, match=r"a\.png: the layer relu5_4 is not in vgg19-slim"):
        stylize(make_picture("a.png", 0, (64, 48)), make_picture("s.png"), recipe)


def test_threads_share_what_is_loaded_and_their_pictures_are_made_one_after_another(
    make_picture, monkeypatch
):
    """Each has other layers, so that each has the encoder built anew; all begin at the same moment."""
    content, style = make_picture("a.png", 0, (64, 48)), make_picture("s.png", 1)
    recipes = [
        Recipe(**QUICK | {"style_layers": layers}) for layers in (["relu1_1"], ["relu2_1"], ["relu3_1"])
    ]
    expected = [stylize(content, style, recipe).tobytes() for recipe in recipes]
    _executor.cache_clear()
    together, made, sessions = threading.Barrier(3), {}, []
    running, overlaps = threading.Lock(), []
    open_session, run_levels = InProcessExecutor._open_session, StyleTransfer.run

    def opened(executor, device):
        sessions.append(device)
        return open_session(executor, device)

    def run_alone(transfer, states):
        overlaps.append(not running.acquire(blocking=False))
        try:
            return run_levels(transfer, states)
        finally:
            if not overlaps[-1]:
                running.release()

    def work(number):
        together.wait(20)
        made[number] = stylize(content, style, recipes[number]).tobytes()

    monkeypatch.setattr(InProcessExecutor, "_open_session", opened)
    monkeypatch.setattr(StyleTransfer, "run", run_alone)
    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [made.get(number) for number in range(3)] == expected
    assert sessions == [""]
    assert overlaps == [False] * 3


def test_a_picture_may_be_asked_for_while_another_is_made(make_picture):
    """By its own `on_progress`, in the same thread."""
    content, style = make_picture("a.png", 0, (64, 48)), make_picture("s.png", 1)
    other = Recipe(**QUICK | {"style_layers": ["relu2_1"]})
    expected = [stylize(content, style, recipe).tobytes() for recipe in (Recipe(**QUICK), other)]
    inner = []
    outer = stylize(
        content, style, Recipe(**QUICK), on_progress=lambda _: inner.append(stylize(content, style, other))
    )
    assert [outer.tobytes(), inner[0].tobytes()] == expected


def test_an_error_of_too_little_memory_holds_none(make_picture, monkeypatch):
    """In a notebook the last error stays, and with it all that its traceback leads to."""

    def no_room(*_):
        raise OutOfMemory

    monkeypatch.setattr(StyleTransfer, "run", no_room)
    with pytest.raises(ImageError, match="does not fit the memory of cpu") as caught:
        stylize(make_picture("a.png", 0, (64, 48)), make_picture("s.png", 1), QUICK, device="cpu")
    assert caught.value.__context__ is None


def test_a_style_that_does_not_fit_is_named(make_picture, monkeypatch):
    content, a, b = (str(make_picture(f"{n}.png", i, (64, 48))) for i, n in enumerate("cab"))
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 30_000_000)
    for style, name in (({a: 1, b: 1}, a), (Image.open(b), b), (Image.new("RGB", (64, 48)), "style")):
        with pytest.raises(ImageError, match="this style is used at 480 x 360 pixels") as caught:
            stylize(content, style, {**QUICK, "style_scale": 10}, device="cpu")
        assert caught.value.message.startswith(f"{name}: ")
        assert "style_scale" in caught.value.next_step


def test_importing_the_package_is_light():
    code = "import sys, pipeline; pipeline.Recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_lists_what_it_offers():
    assert {"Recipe", "StepProgress", "stylize"} <= set(dir(pipeline))
