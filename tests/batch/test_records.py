"""What a record says."""

from __future__ import annotations

import hashlib

from fakes import QUICK, MakeManifest, MakePicture, Workshop

from pipeline.spec.recipe import Recipe, merged_recipe


def test_a_record_holds_all_that_made_the_picture(workshop: Workshop) -> None:
    ran = workshop.run()
    finished = ran.observer.finished[0]
    record = workshop.record("a--s")
    content, style = workshop.folder / "photos/a.png", workshop.folder / "styles/s.png"
    sha256 = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (content, style)}
    assert record["status"] == "done"
    assert record["key"] == finished.key
    assert record["image"] == "a--s.png"
    assert record["content"] == {"path": str(content), "sha256": sha256[content]}
    assert record["style"]["name"] == "s"
    assert record["style"]["images"] == [{"path": str(style), "sha256": sha256[style], "share": 1.0}]
    assert Recipe.model_validate(record["recipe"]) == finished.job.recipe == merged_recipe(QUICK)
    assert record["encoder"] == {"name": "fake", "digest": "f" * 64}
    assert (record["cache_hits"], record["cache_misses"]) == (2, 1)
    assert (record["width"], record["height"], record["seconds"]) == (6, 4, 0.5)
    assert (record["device"], record["dtype"]) == ("fake0", "float8")
    assert record["versions"] == {"fake": "1"}
    assert record["resumed_from_step"] == 0
    assert "finished" in record
    assert "image_bytes" not in record


def test_a_record_holds_the_picture_it_started_from(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    start = make_picture("start.png", 9)
    manifest = {"contents": ["photos/a.png"], "styles": ["styles/s.png"], "recipe": {"init": "start.png"}}
    make_manifest(manifest)
    workshop.run()
    record = (workshop.batch_folder / "logs/a--s.json").read_text()
    assert hashlib.sha256(start.read_bytes()).hexdigest() in record
    make_picture("start.png", 10)
    assert workshop.run().summary.done == 1


def test_a_record_holds_the_masks(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    mask, folder = make_picture("m.png", 9), workshop.folder
    masks = {"content": "m.png", "styles": {"styles/s.png": 0, "styles/t.png": "#ff8000"}}
    make_manifest({"pairs": [{"content": "photos/a.png", "masks": masks}]})
    workshop.run()
    assert workshop.record("a--s+t")["masks"] == {
        "content": {"path": str(mask), "sha256": hashlib.sha256(mask.read_bytes()).hexdigest()},
        "styles": {str(folder / "styles/s.png"): 0, str(folder / "styles/t.png"): "#ff8000"},
    }
    assert workshop.run().summary.skipped == 1
    make_picture("m.png", 10)
    assert workshop.run().summary.done == 1
