from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from batch_folders import (
    IMAGE,
    KEY_A,
    KEY_B,
    KEY_C,
    LOG,
    Killed,
    dying,
    files,
    fresh,
    publish,
    run_job,
)
from disks import HookedDisk, failing

from pipeline.errors import DiskError
from pipeline.storage.outbox import BatchFolder

OLD, NEW = b"the old picture", b"the new picture"
REPLACED = ["a--s.png", f"older/a--s-{KEY_A[:8]}.png"]


def images(folder: BatchFolder) -> dict[str, bytes]:
    return {path: (folder.path / path).read_bytes() for path in files(folder) if path.endswith(".png")}


def assert_records_are_true(folder: BatchFolder) -> None:
    """Every record of a result names an image with the bytes that were made for its key."""
    made = {KEY_A: OLD, KEY_B: NEW}
    for path in folder.paths.logs.rglob("*.json"):
        record = json.loads(path.read_bytes())
        image = folder.path / record["image"]
        assert not image.exists() or image.read_bytes() == made[record["key"]], path


def points_of(tmp_path: Path, act: Callable[[BatchFolder], object]) -> list[str]:
    """The points that something passes on a folder where the new result has taken the old one's name."""
    folder, points = dying(tmp_path, None)
    with folder.locked():
        points.passed.clear()
        act(folder)
    return points.passed


def make_new(folder: BatchFolder) -> None:
    run_job(folder, "a--s", KEY_B, NEW, replaces=True)


def go_back(folder: BatchFolder) -> None:
    run_job(folder, "a--s", KEY_A, OLD, replaces=True)


def test_the_newest_result_has_the_name_and_the_older_one_moves_whole(folder: BatchFolder) -> None:
    publish(folder, "a--s", KEY_A, OLD)
    make_new(folder)
    older = f"older/a--s-{KEY_A[:8]}"
    assert images(folder) == {"a--s.png": NEW, f"{older}.png": OLD}
    logs = [path for path in files(folder) if path.startswith("logs/")]
    assert logs == [f"logs/{name}.{end}" for name in ("a--s", older) for end in ("csv", "json")]
    assert folder.paths.read_record(older) == {
        "status": "done",
        "key": KEY_A,
        "image": f"{older}.png",
    }
    new = {"status": "done", "key": KEY_B, "image": "a--s.png", "replaced": {"a--s": older}}
    assert folder.paths.read_record("a--s") == new
    assert folder.places.choose("a--s", ".png", KEY_B).done
    assert folder.places.choose("a--s", ".png", KEY_A, replaces=lambda record: True).older == older


def test_an_older_result_is_published_last_of_all_by_its_record(tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A, OLD)
    folder, points = dying(tmp_path, None)
    make_new(folder)
    moves = [point for point in points.passed if point.startswith(("after rename", "after replace"))]
    older = f"a--s-{KEY_A[:8]}"
    assert [move.split()[-1] for move in moves[1:]] == [
        f"{older}.csv", f"{older}.png", f"{older}.json", "a--s.csv", "a--s.png", "a--s.json",
    ]  # fmt: skip
    removed = points.passed.index("after unlink a--s.json")
    assert points.passed.index(moves[3]) < removed < points.passed.index(moves[4])


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.usefixtures("no_waiting")
def test_killed_anywhere_both_results_are_there_once_and_whole(twice: bool, tmp_path: Path) -> None:
    publish(fresh(tmp_path / "measured"), "a--s", KEY_A, OLD)
    points = points_of(tmp_path / "measured", make_new)
    staged = next(i for i, point in enumerate(points) if point.endswith(KEY_B) and "after rename" in point)
    assert len(points) > 40
    for at in range(len(points)):
        place = tmp_path / str(at)
        publish(fresh(place), "a--s", KEY_A, OLD)
        with suppress(Killed):
            make_new(dying(place, at)[0])
        if twice:  # and once more during the repair
            with suppress(Killed), dying(place, at)[0].locked():
                pass
        assert_records_are_true(fresh(place))
        shown = [image for path, image in images(fresh(place)).items() if ".staged" not in path]
        assert shown.count(OLD) == 1, points[at]
        again = fresh(place)
        with again.locked():
            assert again.places.choose("a--s", ".png", KEY_B).done == (at >= staged), points[at]
            make_new(again)
        assert images(again) == dict(zip(REPLACED, (NEW, OLD), strict=True)), points[at]
        assert len(files(again)) == 6, points[at]
        assert list(again.stage.folder.iterdir()) == []


@pytest.mark.usefixtures("no_waiting")
def test_killed_anywhere_a_result_comes_back_whole(tmp_path: Path) -> None:
    def prepared(place: Path) -> BatchFolder:
        publish(fresh(place), "a--s", KEY_A, OLD)
        make_new(fresh(place))
        return fresh(place)

    prepared(tmp_path / "measured")
    points = points_of(tmp_path / "measured", go_back)
    assert len(points) > 60
    for at in range(len(points)):
        place = tmp_path / str(at)
        prepared(place)
        with suppress(Killed):
            go_back(dying(place, at)[0])
        assert_records_are_true(fresh(place))
        assert OLD in images(fresh(place)).values(), points[at]
        again = fresh(place)
        with again.locked():
            go_back(again)
        shown = images(again)
        assert shown["a--s.png"] == OLD, points[at]
        assert shown[f"older/a--s-{KEY_B[:8]}.png"] == NEW, points[at]
        # If it is killed in between, the old result may be there twice; the next of its name repairs that.
        after = fresh(place)
        make_new(after)
        assert images(after) == dict(zip(REPLACED, (NEW, OLD), strict=True)), points[at]
        assert len(files(after)) == 6, points[at]


@pytest.mark.usefixtures("no_waiting")
def test_killed_anywhere_all_that_a_result_replaces_is_there_once_and_whole(tmp_path: Path) -> None:
    """The result of its name, and one that has an id and keeps it in `older/`."""
    beside = f"a--s-{KEY_C[:8]}"

    def prepared(place: Path) -> BatchFolder:
        publish(fresh(place), "a--s", KEY_A, OLD)
        publish(fresh(place), beside, KEY_C, IMAGE)
        return fresh(place)

    def make_both_outdated(folder: BatchFolder) -> None:
        place = folder.places.choose("a--s", ".png", KEY_B, replaces=lambda record: True)
        if not place.done:
            record = {"status": "done", "key": KEY_B}
            staged = folder.stage_result(place.name, ".png", NEW, LOG, record, outdated=[beside])
            folder.publish_staged(staged)

    prepared(tmp_path / "measured")
    points = points_of(tmp_path / "measured", make_both_outdated)
    staged = next(i for i, point in enumerate(points) if point.endswith(KEY_B) and "after rename" in point)
    for at in range(len(points)):
        place = tmp_path / str(at)
        prepared(place)
        with suppress(Killed):
            make_both_outdated(dying(place, at)[0])
        shown = [image for path, image in images(fresh(place)).items() if ".staged" not in path]
        assert (shown.count(OLD), shown.count(IMAGE)) == (1, 1), points[at]
        again = fresh(place)
        with again.locked():
            assert again.places.choose("a--s", ".png", KEY_B).done == (at >= staged), points[at]
            make_both_outdated(again)
        after = dict(zip(REPLACED, (NEW, OLD), strict=True)) | {f"older/{beside}.png": IMAGE}
        assert images(again) == after, points[at]
        assert again.places.choose("a--s", ".png", KEY_C).older == f"older/{beside}"
        assert len(files(again)) == 9, points[at]


@pytest.mark.parametrize(
    "operation", ["write", "sync", "sync_folder", "rename", "replace", "unlink", "mkdir"]
)
def test_a_disk_that_fails_while_an_older_result_moves_loses_nothing(operation: str, tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A, OLD)
    failed = BatchFolder(tmp_path / "outbox", "night", HookedDisk(failing(operation, errno.EIO)))
    with pytest.raises(DiskError):
        make_new(failed)
    again = fresh(tmp_path)
    with again.locked():
        make_new(again)
    assert images(again) == dict(zip(REPLACED, (NEW, OLD), strict=True))


def test_an_older_result_whose_image_was_taken_away_keeps_its_record(folder: BatchFolder) -> None:
    publish(folder, "a--s", KEY_A, OLD).unlink()
    make_new(folder)
    assert images(folder) == {"a--s.png": NEW}
    assert folder.paths.read_record(f"older/a--s-{KEY_A[:8]}")["key"] == KEY_A


def test_a_file_of_someone_else_in_older_is_never_overwritten(tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A, OLD)
    foreign = fresh(tmp_path).paths.image(f"older/a--s-{KEY_A[:8]}", ".png")
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    make_new(fresh(tmp_path))
    assert foreign.read_bytes() == b"mine"
    assert images(fresh(tmp_path))[f"older/a--s-{KEY_A[:16]}.png"] == OLD
    assert fresh(tmp_path).places.choose("a--s", ".png", KEY_A).older == f"older/a--s-{KEY_A[:16]}"


def test_a_file_put_into_older_at_the_last_moment_leaves_both_where_they_are(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    publish(folder, "a--s", KEY_A, OLD)
    place = folder.places.choose("a--s", ".png", KEY_B, replaces=lambda record: True)
    staged = folder.stage_result(place.name, ".png", NEW, LOG, {"status": "done", "key": KEY_B})
    foreign = folder.paths.image(f"older/a--s-{KEY_A[:8]}", ".png")
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    assert folder.publish_staged(staged).name == f"a--s-{KEY_B[:8]}.png"
    assert sorted(images(folder).values()) == sorted([b"mine", OLD, NEW])
    assert_records_are_true(folder)


@pytest.mark.parametrize(
    "replaced",
    [
        "older/a--s-aaaaaaaa",
        {"a--s": "../../../elsewhere"},
        {"a--s": "older/a--s-bbbbbbbb"},
        {"b--s": f"older/b--s-{KEY_C[:8]}"},
    ],
    ids=range(4),
)
def test_a_staged_record_moves_no_result_that_is_not_its_own_or_where_it_does_not_belong(
    replaced: object, tmp_path: Path
) -> None:
    folder = fresh(tmp_path)
    publish(folder, "a--s", KEY_A, OLD)
    publish(folder, "b--s", KEY_C, IMAGE)
    place = folder.places.choose("a--s", ".png", KEY_B, replaces=lambda record: True)
    staged = folder.stage_result(place.name, ".png", NEW, LOG, {"status": "done", "key": KEY_B})
    record = json.loads((staged / "record.json").read_bytes())
    (staged / "record.json").write_text(json.dumps({**record, "replaced": replaced}))
    folder.publish_staged(staged)
    assert images(folder) == {"a--s.png": OLD, f"a--s-{KEY_B[:8]}.png": NEW, "b--s.png": IMAGE}


def test_results_of_three_recipes_take_turns(folder: BatchFolder, tmp_path: Path) -> None:
    for key, image in ((KEY_A, OLD), (KEY_B, NEW), (KEY_C, IMAGE), (KEY_A, b"never"), (KEY_B, b"never")):
        run_job(fresh(tmp_path), "a--s", key, image, replaces=True)
    assert images(folder) == {
        "a--s.png": NEW, f"older/a--s-{KEY_A[:8]}.png": OLD, f"older/a--s-{KEY_C[:8]}.png": IMAGE,
    }  # fmt: skip
