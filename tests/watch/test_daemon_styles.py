"""Which style, recipe and folder a drop gets, and where its original stays."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fakes import QUICK, picture_bytes
from faults import (
    IN_ALL_MODES,
    Passing,
    archived,
    drop_manifest,
    held,
    make_photos,
    of_kind,
    outputs,
    running,
    style,
)
from watching import Watched, wait_until

from pipeline.storage.outbox import BatchFolder
from pipeline.watch.markers import marker_path


def record_of(watched: Watched, name: str) -> dict[str, Any]:
    """The record of `BATCH/NAME`."""
    batch, _, rest = name.partition("/")
    return dict(json.loads((watched.outbox / batch / "logs" / f"{rest}.json").read_bytes()))


def test_folders_mean_styles_routes_or_themselves(tmp_path: Path) -> None:
    routes = {
        "posters": {"styles": ["t"], "recipe": {"steps": 6}, "batch": "large"},
        "plain": {"recipe": {"preset": "draft", "size": 16, "pyramid": 0, "steps": 2}},
        "mixed": {"styles": ["s", {"name": "mix", "blend": {"s": 0.75, "t": 0.25}}]},
    }
    watched = Watched(tmp_path, routes=routes)
    style(watched, "t.jpg")
    drops = [
        "a.png", "t/b.png", "t/deep/c.png", "album/d.png", "posters/e.png", "posters/deep/f.png",
        "plain/g.png", "mixed/h.png",
    ]  # fmt: skip
    for name in drops:
        watched.drop(name)
    assert watched.once().process.returncode == 0
    watched.assert_promises()
    assert outputs(watched) == [
        "inbox/a--s.png", "inbox/a--t.png", "inbox/album/d--s.png", "inbox/album/d--t.png",
        "inbox/t/b--t.png", "inbox/t/deep/c--t.png", "large/deep/f--t.png", "large/e--t.png",
        "mixed/h--mix.png", "mixed/h--s.png", "plain/g--s.png", "plain/g--t.png",
    ]  # fmt: skip
    assert sorted(str(path.relative_to(watched.archive)) for path in watched.originals()) == sorted(drops)
    assert record_of(watched, "large/e--t")["recipe"]["steps"] == [6]
    assert record_of(watched, "plain/g--s")["recipe"]["preset"] == "draft"
    assert record_of(watched, "inbox/a--s")["recipe"]["steps"] == [QUICK["steps"]]
    blend = record_of(watched, "mixed/h--mix")["style"]["images"]
    assert [(Path(image["path"]).name, image["share"]) for image in blend] == [
        ("s.png", 0.75),
        ("t.jpg", 0.25),
    ]


def test_a_changed_style_counts_for_later_drops(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    data = picture_bytes("a")
    watched.drop("a.png", data)
    with running(watched) as daemon:
        daemon.until("done", name="a--s")
        before = held(watched)
        style(watched, "s.png", "changed")
        watched.drop("a.png", data)
        daemon.until("done")
        watched.drop("a.png", data)
        daemon.until("skipped")
    watched.assert_promises()
    assert before.items() <= held(watched).items()
    digests = {record["key"]: record["style"]["images"][0]["sha256"] for record in watched.records()}
    wanted = [hashlib.sha256(picture_bytes(text)).hexdigest() for text in ("the style", "changed")]
    assert sorted(digests.values()) == sorted(wanted)


@IN_ALL_MODES
def test_a_picture_waits_for_its_style(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, routes={"new": {"styles": ["s", "later"]}})
    watched.drop("new/a.png")
    with running(watched) as daemon:
        assert "'later'" in daemon.until("waits", path="new/a.png")["text"]
        passing = Passing(watched, daemon)
        passing()
        passing()
        assert (watched.inbox / "new" / "a.png").exists()
        style(watched, "later.png")
        daemon.until("done", name="a--s")
        daemon.until("done", name="a--later")
    watched.assert_promises()
    assert of_kind(daemon, "waits") == ["new/a.png"]
    assert outputs(watched) == [
        "inbox/well0--s.png", "inbox/well1--s.png", "new/a--later.png", "new/a--s.png",
    ]  # fmt: skip


def test_a_claimed_picture_whose_style_went_away_waits(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("a.png")
    daemon = watched.start(faults={"a": "kill"})
    daemon.wait()
    watched.assert_promises()
    (watched.inbox / "styles" / "s.png").unlink()
    with running(watched) as daemon:
        daemon.until("waits", path="a.png")
        watched.drop("b.png")
        daemon.until("waits", path="b.png")
        style(watched, "s.png")
        daemon.until("done", name="a--s")
        daemon.until("done", name="b--s")
    waits = of_kind(daemon, "waits", "text")
    assert len(set(waits)) == len(waits), "reported more than once"
    watched.assert_done(["a--s.png", "b--s.png"])


@pytest.mark.parametrize("place", ["t/a.png", "a.png"])
def test_a_style_that_is_being_copied_is_waited_for(tmp_path: Path, place: str) -> None:
    """Else a picture in its folder would get all other styles, and one in the root all but this."""
    watched = Watched(tmp_path, routes={"well": {"styles": ["s"]}})
    path = watched.inbox / "styles" / "t.png"
    watched.drop(place)
    with path.open("wb", buffering=0) as file:
        file.write(picture_bytes("t")[:20])
        with running(watched) as daemon:
            daemon.until("waits", path=place)
            watched.drop("well/b.png")
            daemon.until("done", name="b--s")
            assert (watched.inbox / place).exists()
            file.write(picture_bytes("t")[20:])
            file.close()
            daemon.until("done", name=place.replace(".png", "--t"))
    watched.assert_promises()
    folder = Path("inbox") / Path(place).parent
    wanted = [str(folder / "a--s.png")] if place == "a.png" else []
    assert outputs(watched) == sorted([*wanted, str(folder / "a--t.png"), "well/b--s.png"])


def test_a_folder_of_a_style_that_went_away_waits_for_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    style(watched, "t.png")
    watched.drop("t/a.png")
    with running(watched) as daemon:
        daemon.until("done", name="t/a--t")
        (watched.inbox / "styles" / "t.png").unlink()
        watched.drop("b.png")
        daemon.until("done", name="b--s")
        watched.drop("t/c.png")
        assert "'t'" in daemon.until("waits", path="t/c.png")["text"]
        style(watched, "t.png", "anew")
        daemon.until("done", name="t/c--t")
    watched.assert_promises()
    assert outputs(watched) == ["inbox/b--s.png", "inbox/t/a--t.png", "inbox/t/c--t.png"]


def test_a_batch_that_another_process_works_on_holds_up_nothing_else(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    make_photos(tmp_path / "photos", "a")
    batch = BatchFolder(watched.outbox, "night")
    with running(watched, locked_s=0.01) as daemon:
        with batch.locked():
            drop_manifest(watched, "night.yaml", contents=["../photos/a.png"], styles=["styles/s.png"])
            assert "another process" in daemon.until("waits", path="night.yaml")["text"]
            watched.drop("b.png")
            daemon.until("done", name="b--s")
        daemon.until("done", name="a--s")
    watched.assert_promises()
    assert outputs(watched) == ["inbox/b--s.png", "night/a--s.png"]


# What becomes of originals


def test_a_file_that_is_no_picture_is_no_style(tmp_path: Path) -> None:
    """A stray file in the library is reported, and spoils no picture; once it is a picture, it counts."""
    watched = Watched(tmp_path)
    stray = watched.inbox / "styles" / "readme.txt"
    stray.write_text("Styles go here.")
    watched.drop("a.png")
    daemon = watched.start()
    assert "not used as a style" in daemon.until("ignored", path="styles/readme.txt")["text"]
    daemon.until("done", name="a--s")
    (tmp_path / "whole").write_bytes(picture_bytes("another style"))
    (tmp_path / "whole").rename(stray)
    watched.drop("b.png")
    daemon.until("done", name="b--readme")
    daemon.until("done", name="b--s")
    daemon.stop()
    watched.assert_promises()


def test_a_folder_may_have_the_name_of_a_result(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("a.png")
    watched.once()
    watched.drop("a--s.png/b.png")
    assert watched.once().process.returncode == 0
    assert outputs(watched) == ["inbox/a--s.png", "inbox/a--s_png/b--s.png"]
    watched.assert_promises()


@IN_ALL_MODES
def test_originals_that_are_left(tmp_path: Path, mode: str) -> None:
    """A marker keeps them from being taken again, until they change; it goes when they go."""
    watched = Watched(tmp_path, mode, originals="leave")
    path = watched.drop("sub/a.png")
    marker = marker_path(path)
    with running(watched) as daemon:
        daemon.until("done", name="sub/a--s")
        wait_until(marker.exists, "the marker")
        wait_until(path.exists, "the original is back")
        watched.drop("b.png")
        daemon.until("done", name="b--s")
    watched.assert_promises()
    assert watched.once().process.returncode == 0
    assert len(watched.images()) == 2
    assert path.read_bytes() == picture_bytes("'sub/a.png'")
    with running(watched) as daemon:
        watched.inputs[path.read_bytes()] -= 1
        path.write_bytes(picture_bytes("changed"))
        watched.inputs[path.read_bytes()] += 1
        daemon.until("done")
        wait_until(lambda: path.exists() and marker.exists(), "the changed original is back")
        watched.inputs[path.read_bytes()] -= 1
        path.unlink()
        wait_until(lambda: not marker.exists(), "the marker is gone")
    watched.inputs = +watched.inputs
    watched.assert_nothing_partial()
    assert len(watched.images()) == 3
    left = {name for name in os.listdir(watched.inbox) if name != ".style-pipeline"}
    assert left == {"b.png", marker_path(Path("b.png")).name, "styles", "sub"}
    assert os.listdir(watched.inbox / "sub") == []
    assert archived(watched) == []


def test_originals_that_are_deleted(tmp_path: Path) -> None:
    watched = Watched(tmp_path, originals="delete")
    watched.drop("a.png")
    watched.drop("bad.png")
    run = watched.once(faults={"bad": "fail"})
    assert run.process.returncode == 1
    assert outputs(watched) == ["inbox/a--s.png"]
    assert [path.name for path in watched.originals()] == ["bad.png"], "only what is done is deleted"
    assert watched.quarantine in watched.originals()[0].parents


def test_names_that_are_ignored(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    files = [
        "Thumbs.db", "desktop.ini", ".DS_Store", "~lock.png", "a.part", "b.PNG.tmp", "c.crdownload",
        "__MACOSX/d.png", "@eaDir/e.png", ".hidden/f.png", "sub/.g.png",
    ]  # fmt: skip
    paths = [watched.drop(name) for name in files]
    with running(watched) as daemon:
        Passing(watched, daemon)()
    assert all(path.exists() for path in paths)
    expected = [f"{name.split('/')[0]}" if name[0] in "_@." else name for name in files]
    assert sorted(of_kind(daemon, "ignored")) == sorted(expected)
    assert outputs(watched) == ["inbox/well0--s.png"]


def test_a_picture_is_settled_and_then_started(tmp_path: Path) -> None:
    """In this order, with the settings of a local disk; no scan but those that events ask for."""
    watched = Watched(tmp_path, settle_s=0.2, rescan_s=1000)
    with running(watched) as daemon:
        daemon.until("device")
        watched.drop("a.png")
        daemon.until("settled", path="a.png")
        daemon.until("started", name="a--s")
        daemon.until("done", name="a--s")
    watched.assert_done(["a--s.png"])
