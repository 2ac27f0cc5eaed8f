"""Manifests that are edited, wrong, or more than their reader survives."""

from __future__ import annotations

from pathlib import Path

import yaml
from fakes import FakeExecutor, Workshop
from faults import (
    IN_ALL_MODES,
    Passing,
    archived,
    case,
    drop_manifest,
    make_photos,
    of_kind,
    outputs,
    running,
)
from watching import Watched

# 23: manifests


@case(23)
def test_a_run_does_only_what_changed_in_its_manifest(workshop: Workshop) -> None:
    workshop.run()
    first = workshop.pictures()
    manifest = yaml.safe_load(workshop.manifest.read_text())
    manifest["pairs"] = [{"content": "photos/a.png", "style": "styles/s.png", "recipe": {"steps": 6}}]
    workshop.manifest.write_text(yaml.safe_dump(manifest))
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == ["a"]
    assert ran.summary.skipped == 4
    assert first.items() <= workshop.pictures().items()
    assert len(workshop.pictures()) == 5
    manifest["styles"] = ["styles/t.png"]
    workshop.manifest.write_text(yaml.safe_dump(manifest))
    assert set(workshop.run().observer.statuses.values()) == {"skipped"}


@case(23)
@IN_ALL_MODES
def test_a_manifest_is_dropped_again_after_an_edit(tmp_path: Path, mode: str) -> None:
    """Relative paths start where it was dropped, and styles of the inbox may be used."""
    watched = Watched(tmp_path, mode)
    make_photos(tmp_path / "photos", "ab")
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        drop_manifest(watched, "sub/night.yaml", contents=["../../photos/a.png"], styles=["../styles/s.png"])
        daemon.until("done", name="a--s")
        drop_manifest(watched, "sub/night.yaml", contents=["../../photos/*.png"], styles=["../styles/s.png"])
        daemon.until("skipped", name="a--s")
        daemon.until("done", name="b--s")
        passing()
    watched.assert_promises()
    assert outputs(watched) == ["inbox/well0--s.png", "night/a--s.png", "night/b--s.png"]
    names = archived(watched)
    assert len([name for name in names if name.startswith(b"night")]) == 2
    assert (tmp_path / "photos" / "a.png").exists()


@case(23)
@IN_ALL_MODES
def test_manifests_that_cannot_be_done_are_quarantined(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, styles=["later"])
    make_photos(tmp_path / "photos", "a")
    watched.drop("pic.png")  # stays in the inbox: its style is not there
    good = "../photos/a.png"
    drop_manifest(watched, "content.yaml", contents=["pic.png"], styles=["styles/s.png"])
    drop_manifest(watched, "style.yaml", contents=[good], styles=["pic.png"])
    drop_manifest(watched, "way.yml", contents=[good], styles=["styles/../pic.png"])
    drop_manifest(watched, "init.yaml", contents=[good], styles=["styles/s.png"], recipe={"init": "pic.png"})
    drop_manifest(watched, "missing.yaml", contents=["nowhere.png"], styles=["styles/s.png"])
    watched.drop("broken.yaml", b"contents: [")
    watched.drop("empty.yaml", b"")
    drop_manifest(watched, "well.yaml", contents=[good], styles=["styles/s.png"])
    with running(watched) as daemon:
        for _ in range(7):
            daemon.until("quarantined")
        daemon.until("done", name="a--s")
    errors = {event["path"]: event["error"] for event in daemon.events if event["event"] == "quarantined"}
    for name in ("content.yaml", "style.yaml", "way.yml", "init.yaml"):
        assert f"{watched.inbox / 'pic.png'} lies in the inbox" in errors[name]
    assert "nowhere.png" in errors["missing.yaml"]
    assert all(str(watched.inbox / name) in error for name, error in errors.items())
    watched.assert_promises()
    assert outputs(watched) == ["well/a--s.png"]


# 25: many


@case(15)
def test_a_manifest_that_ends_its_reader_is_quarantined(tmp_path: Path) -> None:
    """It is read in the worker, at most so often, and the pictures beside it are made."""
    watched = Watched(tmp_path)
    watched.drop("kill.yaml", b"contents: [x.png]\n")
    watched.drop("a.png")
    run = watched.once(worker=True, faults={"kill": "check_kill"})
    assert run.process.returncode == 1
    assert len(of_kind(run, "worker")) == 3
    (text,) = [event["text"] for event in run.events if event["event"] == "quarantined"]
    assert "kill.yaml: reading it ended the worker 3 times" in text
    assert outputs(watched) == ["inbox/a--s.png"]
    watched.assert_promises()
    assert watched.attempts() == []


@case(23)
def test_a_manifest_with_a_mistake_is_reported_before_earlier_pictures_are_made(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for name in ("a.png", "b.png"):
        watched.drop(name)
    watched.drop("bad.yaml", b"contnets: [a.png]\n")
    run = watched.once()
    assert run.kinds.index("quarantined") < run.kinds.index("started")
