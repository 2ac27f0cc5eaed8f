from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import COMPARED, QUICK, opened
from PIL import Image

FIRST_FRAME = "it has several frames or pages; only the first is used."


def animate(path: str) -> None:
    """Make an animation of a picture: itself first, then its negative."""
    first = opened(path).convert("RGB")
    second = Image.fromarray(255 - np.asarray(first))
    first.save(path, "PNG", save_all=True, append_images=[second])


def test_of_animations_the_first_frame_is_taken_and_said_so(cli, night):
    """In the record and on the console, for a content and a style alike; the picture is that of a still."""
    assert cli("run", night, *COMPARED)[0] == 0
    still = np.asarray(opened("outbox/night/a--s.png"))
    for path in ("a.png", "s.png"):
        animate(path)
    code, _, err = cli("run", night, *COMPARED)
    assert code == 0
    notes = {name: f"{name}: {FIRST_FRAME}" for name in ("a.png", "s.png")}
    assert all(f"note: {note}" in err for note in notes.values())
    records = [json.loads(path.read_text()) for path in Path("outbox/night/logs").glob("?--s.json")]
    assert {Path(record["content"]["path"]).name: record["notes"] for record in records} == {
        "a.png": list(notes.values()),
        "b.png": [notes["s.png"]],
    }
    again = opened("outbox/night/a--s.png")
    assert np.abs(np.asarray(again, int) - still).max() <= 1
    flags = [f"--set={key}={value}" for key, value in QUICK.items()]
    code, _, err = cli("stylize", "b.png", "s.png", "-o", "out.png", *flags)
    assert code == 0
    assert f"note: {notes['s.png']}" in err


def test_stylize_one_pair(cli, night):
    flags = [f"--set={key}={value}" for key, value in QUICK.items()]
    code, out, err = cli("stylize", "a.png", "s.png", *flags)
    assert code == 0, err
    assert opened("a--s.png").size == (48, 36)
    assert out == "a--s.png\n"
    assert "done a--s" in err
    before = Path("a--s.png").stat().st_mtime_ns
    code, out, err = cli("stylize", "a.png", "s.png", *flags)
    assert (code, out) == (0, "a--s.png\n")
    assert "a--s.png is there already; --force makes it again.\n" in err
    code, _, err = cli("stylize", "a.png", "s.png", *flags, "--set=steps=3")
    assert code == 2
    assert "a--s.png: exists already, and was made from other pictures or with another recipe." in err
    assert Path("a--s.png").stat().st_mtime_ns == before  # never replaced unasked
    assert cli("stylize", "a.png", "s.png", "-o", "b.png", *flags)[0] == 2
    assert cli("stylize", "a.png", "s.png", *flags, "--force")[0] == 0
    assert Path("a--s.png").stat().st_mtime_ns > before
    assert cli("stylize", "a.png", "s.png", "-o", "there/x.jpg", *flags)[0] == 0
    assert opened("there/x.jpg").format == "JPEG"
    assert cli("stylize", "a.png", "s.png", "-o", "x.gif", *flags)[0] == 2


def test_stylize_with_a_mask(cli, night):
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save("m.png")
    fields = {**QUICK, "style_layers": "[relu1_1]", "content_layers": "[relu1_1]"}
    flags = ["--mask", "m.png", *(f"--set={key}={value}" for key, value in fields.items())]
    code, out, err = cli("stylize", "a.png", "s.png=0", "b.png=#ffffff", *flags)
    assert code == 0, err
    assert out == "a--s+b.png\n"
    code, out, _ = cli("inspect", "a--s+b.png")
    assert yaml.safe_load(out)["pairs"][0]["masks"] == {
        "content": "m.png",
        "styles": {"s.png": 0, "b.png": 1},
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["s.png", "b.png"], "2 styles are given: s.png, b.png."),
        (
            ["s.png", "b.png"],
            "For a blend, use `run` and a manifest such as {contents: [me.jpg], styles: [{blend: ",
        ),
        (["s.png", "--mask", "m.png"], "s.png: with --mask each style has one colour"),
        (["s.png=0", "--mask", "m.png"], "--mask m.png: a mask is for two styles or more"),
        (["s.png=0", "./s.png=1", "--mask", "m.png"], "s.png=1: with --mask each style has one colour"),
        (["s.png=0", "b.png=0.0", "--mask", "m.png"], "b.png have the same colour"),
        (["s.png=0", "b.png=red", "--mask", "m.png"], "b.png=red: expected a grey level"),
        (["s.png=0", "b.png=nan", "--mask", "m.png"], "b.png=nan: expected a grey level"),
    ],
)
def test_stylize_with_styles_that_do_not_go_together(arguments, words, cli, night):
    code, _, err = cli("stylize", "a.png", *arguments)
    assert code == 2
    assert words in err


def test_stylize_names_the_picture_that_is_wrong(cli, night):
    Path("s.png").write_bytes(b"")
    code, _, err = cli("stylize", "a.png", "s.png", "--set", "encoder=vgg19-slim")
    assert code == 1
    assert "s.png: the file is empty" in err
    assert cli("stylize", "absent.png", "a.png")[0] == 1


def test_snapshots_and_the_names_of_source_001(cli, night):
    flags = [f"--set={k}={v}" for k, v in {**QUICK, "snapshot_every": 1}.items()]
    code, _, err = cli("run", night, "--preset", "gatys-lbfgs", *flags)
    assert code == 0, err
    folder = Path("outbox/night/1_1e+06_1")
    names = {path.stem for path in folder.glob("*.jpg")}
    assert {"generated_1", "generated_2"} < names
    # The second pair's carry its short id.
    first, second = sorted(names - {"generated_1", "generated_2"})
    assert first.replace("generated_1-", "") == second.replace("generated_2-", "")
    assert opened(folder / "generated_2.jpg").size == (48, 48)


def test_thumbnail_shows_input_style_and_result_and_scales_back(cli, night):
    fields = {"encoder": "vgg19-slim", "size": 32, "steps": 2, "snapshot_every": 2}
    flags = [f"--set={k}={v}" for k, v in fields.items()]
    code, _, err = cli("stylize", "a.png", "s.png", "--preset", "thumbnail", *flags)
    assert code == 0, err
    assert opened("a--s.png").size == (64, 48)
    look = opened("a--s-step00002.png")
    assert look.height == 32
    assert look.width > 3 * 32


def test_a_folder_is_no_name_for_a_result(cli, night):
    code, _, err = cli("stylize", "a.png", "s.png", "-o", ".")
    assert code == 2
    assert ".: is a folder.\nName a file in it, such as result.png." in err


def test_a_result_never_replaces_a_picture_it_is_made_of(cli, night):
    before = Path("a.png").read_bytes()
    code, _, err = cli("stylize", "a.png", "s.png", "-o", "a.png", "--force")
    assert code == 2
    assert "a.png: is one of the input pictures.\nName another file with -o." in err
    assert Path("a.png").read_bytes() == before


def test_a_quiet_picture_says_where_it_is_and_no_more(cli, night):
    flags = [f"--set={key}={value}" for key, value in QUICK.items()]
    assert cli("stylize", "a.png", "s.png", "--quiet", *flags) == (0, "a--s.png\n", "")
    code, _, err = cli("stylize", "a.png", "s.png", "--force", "--verbose", *flags)
    assert code == 0
    assert "step 1/2 of a--s" in err
