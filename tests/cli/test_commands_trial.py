from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from command_line import QUICK

SMALL = [f"--set={key}={value}" for key, value in QUICK.items()]
FOLDER = Path("outbox/try-me")


@pytest.fixture
def paintings(make_picture) -> Path:
    """Two styles, and a photo beside their folder."""
    Path("paintings").mkdir()
    make_picture("me.png", 0, (64, 48))
    for seed, name in enumerate(("a", "b"), 1):
        make_picture(f"paintings/{name}.png", seed, (64, 64))
    return Path("paintings")


def pictures() -> set[str]:
    return {path.name for path in FOLDER.glob("*.png")}


def test_every_style_is_tried_and_the_sheet_is_named_last(cli, paintings):
    code, out, err = cli("try", "me.png", "--styles", paintings, *SMALL)
    assert code == 0, err
    assert out.startswith("2 done")
    assert out.splitlines()[-1] == f"Look at them: {(FOLDER / 'index.html').resolve()}"
    assert pictures() == {"me--a.png", "me--b.png"}
    record = json.loads((FOLDER / "logs/me--a.json").read_text())
    assert (record["recipe"]["preset"], record["recipe"]["size"]) == ("draft", 48)


def test_a_second_try_makes_only_what_is_new(cli, paintings):
    cli("try", "me.png", "--styles", paintings, *SMALL)
    assert cli("try", "me.png", "--styles", paintings, *SMALL)[1].startswith("Nothing to do")
    code, out, _ = cli("try", "me.png", "--styles", paintings / "a.png", "--strengths", "1,2", *SMALL)
    assert (code, out.startswith("1 done, 1 there already")) == (0, True)
    assert pictures() == {"me--a.png", "me--b.png", "me--a--strength-2.png"}


def test_a_try_gives_the_time_of_the_photo_if_the_configuration_says_so(cli, paintings):
    Path("config.yaml").write_text("keep_times: true\n")
    os.utime("me.png", ns=(10**18, 10**18))
    code, _, err = cli("try", "me.png", "--styles", paintings / "a.png", *SMALL)
    assert code == 0, err
    assert (FOLDER / "me--a.png").stat().st_mtime_ns == 10**18


def test_without_styles_those_of_the_watched_folder_are_tried(cli, paintings):
    Path("inbox").mkdir()
    paintings.rename("inbox/styles")
    code, _, err = cli("try", "me.png", *SMALL, "--seeds", "3")
    assert code == 0, err
    assert pictures() == {"me--a--seed-3.png", "me--b--seed-3.png"}


@pytest.mark.parametrize("library", ["none", "empty", "elsewhere"])
def test_without_any_style_the_error_says_what_to_give(cli, make_picture, library):
    make_picture("me.png", 0, (64, 48))
    if library != "none":
        Path("inbox/styles").mkdir(parents=True)
    if library == "elsewhere":
        make_picture("inbox/styles/a.png", 0, (64, 48))
        Path("config.yaml").write_text(yaml.safe_dump({"watch": {"inbox": "drops"}}))
    code, _, err = cli("try", "me.png")
    assert code == 2
    place = Path("drops" if library == "elsewhere" else "inbox").resolve() / "styles"
    assert f"Error: There is no style to try: {place} has no pictures." in err
    assert "style-pipeline try PHOTO --styles FOLDER" in err
    assert not Path("outbox").exists()


def test_a_style_that_cannot_be_read_fails_alone(cli, paintings):
    (paintings / "a.png").write_bytes(b"broken")
    code, out, _ = cli("try", "me.png", "--styles", paintings, *SMALL)
    assert code == 1
    assert out.startswith("1 done, 1 failed")
    assert "Look at them" in out


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(cli, paintings):
    code, out, _ = cli("try", "me.png", "--styles", paintings, "--strengths", "0,1", *SMALL, "--dry-run")
    assert code == 0
    assert out.count("run   ") == 4
    assert not Path("outbox").exists()


def test_json_has_one_object_per_picture(cli, paintings):
    _, out, err = cli("try", "me.png", "--styles", paintings, *SMALL, "--json")
    assert {json.loads(line)["name"] for line in out.splitlines()} == {"me--a", "me--b"}
    assert "Look at them" in err.splitlines()[-1]


def test_a_trial_that_is_stopped_resumes(cli, paintings):
    code, _, _ = cli("try", "me.png", "--styles", paintings, *SMALL, "--for", "0.001s")
    assert code == 4
    assert cli("try", "me.png", "--styles", paintings, *SMALL)[0] == 0
    assert len(pictures()) == 2
