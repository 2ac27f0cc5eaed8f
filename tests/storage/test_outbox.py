from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from disks import HookedDisk, Points, failing

from pipeline.errors import DiskError, LockedError, PathError
from pipeline.storage.files import TEMPORARY_PREFIX
from pipeline.storage.outbox import BatchFolder, log_bytes, read_record

KEY_A, KEY_B, KEY_C = "a" * 64, "b" * 64, "c" * 64
IMAGE, LOG = b"a picture", b"step,total\n1,2\n"


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    return fresh(tmp_path)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill, as against a power loss, does not depend on what the disk has written yet."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def fresh(tmp_path: Path) -> BatchFolder:
    """The folder as the next process sees it."""
    return BatchFolder(tmp_path / "outbox", "night")


def publish(folder: BatchFolder, name: str, key: str, image: bytes = IMAGE) -> Path:
    return folder.publish(name, ".png", image, LOG, {"status": "done", "key": key})


def run_job(folder: BatchFolder, wanted: str, key: str, image: bytes = IMAGE, replaces: bool = False) -> str:
    """What the runner does: place the job, and publish it unless it is done, or bring it back."""
    place = folder.place(wanted, ".png", key, replaces=lambda record: replaces)
    if place.older:
        folder.publish_staged(folder.stage_older(place))
        folder.remove_older(place)
    elif not place.done:
        publish(folder, place.name, key, image)
    return place.name


def files(folder: BatchFolder) -> list[str]:
    found = (
        path.relative_to(folder.folder).as_posix() for path in folder.folder.rglob("*") if path.is_file()
    )
    return sorted(name for name in found if name != ".lock")


class Killed(BaseException):
    """The process ended here."""


def dying(tmp_path: Path, at: int | None) -> tuple[BatchFolder, Points]:
    """The folder in a process that dies at a point between two operations."""

    def die() -> None:
        raise Killed

    points = Points(at, die)
    return BatchFolder(tmp_path / "outbox", "night", HookedDisk(points)), points


def points_of_a_publication(tmp_path: Path) -> list[str]:
    folder, points = dying(tmp_path / "measured", None)
    with folder.locked():
        points.passed.clear()
        publish(folder, "a--s", KEY_A)
    return points.passed


# Publication


def test_log_first_image_next_record_last(tmp_path: Path) -> None:
    folder, points = dying(tmp_path, None)
    path = publish(folder, "a--s", KEY_A)
    moves = [point for point in points.passed if point.startswith(("after rename", "after replace"))]
    assert [move.split()[-1] for move in moves] == [KEY_A, "a--s.csv", "a--s.png", "a--s.json"]
    assert path == folder.folder / "a--s.png"
    assert path.read_bytes() == IMAGE
    assert (folder.logs / "a--s.csv").read_bytes() == LOG
    record = json.loads((folder.logs / "a--s.json").read_text(encoding="utf-8"))
    assert record == {"status": "done", "key": KEY_A, "image": "a--s.png"}
    assert files(folder) == ["a--s.png", "logs/a--s.csv", "logs/a--s.json"]


def test_everything_is_synced_before_it_is_seen(tmp_path: Path) -> None:
    points = points_of_a_publication(tmp_path)
    staged = next(i for i, point in enumerate(points) if point.endswith(KEY_A) and "before rename" in point)
    synced = [point.split()[-1] for point in points[:staged] if point.startswith("after sync ")]
    assert synced == ["log.csv", "image.png", "record.json"]


@pytest.mark.usefixtures("no_waiting")
def test_killed_anywhere_the_next_owner_ends_the_publication_or_begins_anew(tmp_path: Path) -> None:
    points = points_of_a_publication(tmp_path)
    staged = next(i for i, point in enumerate(points) if point.endswith(KEY_A) and "after rename" in point)
    assert 20 < len(points) < 80
    for at in range(len(points)):
        place = tmp_path / str(at)
        fresh(place).logs.mkdir(parents=True)
        with pytest.raises(Killed):
            publish(dying(place, at)[0], "a--s", KEY_A)
        assert [name for name in files(fresh(place)) if name.endswith(".png") and ".staged" not in name] in (
            [],
            ["a--s.png"],
        )
        again = fresh(place)
        with again.locked():
            assert again.place("a--s", ".png", KEY_A).done == (at >= staged), points[at]
            run_job(again, "a--s", KEY_A)
        # The same name, and nothing left over under another.
        assert files(again) == ["a--s.png", "logs/a--s.csv", "logs/a--s.json"], points[at]
        assert list(again.stage_folder.iterdir()) == []


@pytest.mark.usefixtures("no_waiting")
def test_killed_anywhere_a_forced_rerun_leaves_whole_files(tmp_path: Path) -> None:
    for at in range(len(points_of_a_publication(tmp_path))):
        place = tmp_path / str(at)
        publish(fresh(place), "a--s", KEY_A)
        with suppress(Killed):
            publish(dying(place, at)[0], "a--s", KEY_A, b"the picture made again")
        assert fresh(place).place("a--s", ".png", KEY_A).done
        assert (place / "outbox/night/a--s.png").read_bytes() in {IMAGE, b"the picture made again"}
        with fresh(place).locked():
            pass
        assert files(fresh(place)) == ["a--s.png", "logs/a--s.csv", "logs/a--s.json"]


def test_an_image_taken_away_at_once_is_not_published_again(tmp_path: Path) -> None:
    """A consumer moves pictures out as soon as they are there; the process dies before the record is."""
    points = points_of_a_publication(tmp_path)
    at = next(i for i, point in enumerate(points) if point == "after rename image.png a--s.png")
    fresh(tmp_path).logs.mkdir(parents=True)
    with pytest.raises(Killed):
        publish(dying(tmp_path, at)[0], "a--s", KEY_A)
    (tmp_path / "outbox/night/a--s.png").unlink()
    again = fresh(tmp_path)
    with again.locked():
        assert files(again) == ["logs/a--s.csv", "logs/a--s.json"]


def test_a_drop_is_done_though_its_image_was_taken_away(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    record = {"status": "done", "key": KEY_A, "drop": "d1"}
    folder.publish("a--s", ".png", IMAGE, LOG, record).unlink()
    assert fresh(tmp_path).place("a--s", ".png", KEY_A, drop="d1").done
    assert not fresh(tmp_path).place("a--s", ".png", KEY_A, drop="d2").done
    assert not fresh(tmp_path).place("a--s", ".png", KEY_A).done


def test_a_file_put_at_the_last_moment_is_not_overwritten(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    staged = folder.stage("a--s", ".png", IMAGE, LOG, {"status": "done", "key": KEY_A})
    (folder.folder / "a--s.png").write_bytes(b"mine")
    assert folder.publish_staged(staged).name == f"a--s-{KEY_A[:8]}.png"
    assert (folder.folder / "a--s.png").read_bytes() == b"mine"
    later = fresh(tmp_path).place("a--s", ".png", KEY_A)
    assert (later.name, later.done) == (f"a--s-{KEY_A[:8]}", True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("operation", ["mkdir", "write", "sync", "sync_folder", "rename", "replace"])
def test_a_disk_that_fails_is_the_machines_fault(operation: str, number: int, tmp_path: Path) -> None:
    folder = BatchFolder(tmp_path / "outbox", "night", HookedDisk(failing(operation, number)))
    with pytest.raises(DiskError, match=os.strerror(number)) as caught:
        publish(folder, "a--s", KEY_A)
    assert str(folder.folder) in caught.value.message
    assert read_record(folder.record_path("a--s")) == {}
    again = fresh(tmp_path)
    with again.locked():
        run_job(again, "a--s", KEY_A)
    assert files(again) == ["a--s.png", "logs/a--s.csv", "logs/a--s.json"]


def test_names_in_folders_are_published_in_folders(folder: BatchFolder) -> None:
    publish(folder, "1_1e+06/generated_100", KEY_A)
    assert files(folder) == [
        "1_1e+06/generated_100.png",
        "logs/1_1e+06/generated_100.csv",
        "logs/1_1e+06/generated_100.json",
    ]
    assert folder.place("1_1e+06/generated_100", ".png", KEY_A).done


def test_the_log_is_csv() -> None:
    rows = [(1, 0.123456789), (2, 1e-9)]
    assert log_bytes(("step", "total"), rows) == b"step,total\n1,0.123457\n2,1e-09\n"


def test_a_record_may_hold_any_file_name(folder: BatchFolder) -> None:
    """A path with bytes that are no UTF-8 is a text with surrogates in Python."""
    record = {"status": "done", "key": KEY_A, "content": {"path": "/in/caf\udce9 Ünï 字.png"}}
    folder.publish("a--s", ".png", IMAGE, LOG, record)
    assert read_record(folder.record_path("a--s"))["content"] == record["content"]
    folder.write_summary({"failures": [{"error": "/in/caf\udce9.png: cannot be read."}]})


# Older results

OLD, NEW = b"the old picture", b"the new picture"
REPLACED = ["a--s.png", f"older/a--s-{KEY_A[:8]}.png"]


def images(folder: BatchFolder) -> dict[str, bytes]:
    return {path: (folder.folder / path).read_bytes() for path in files(folder) if path.endswith(".png")}


def assert_records_are_true(folder: BatchFolder) -> None:
    """Every record of a result names an image with the bytes that were made for its key."""
    made = {KEY_A: OLD, KEY_B: NEW}
    for path in folder.logs.rglob("*.json"):
        record = read_record(path)
        image = folder.folder / record["image"]
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
    assert read_record(folder.record_path(older)) == {"status": "done", "key": KEY_A, "image": f"{older}.png"}
    new = {"status": "done", "key": KEY_B, "image": "a--s.png", "replaced": older}
    assert read_record(folder.record_path("a--s")) == new
    assert folder.place("a--s", ".png", KEY_B).done
    assert folder.place("a--s", ".png", KEY_A, replaces=lambda record: True).older == older


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
        if twice:  # and once more while it is put right
            with suppress(Killed), dying(place, at)[0].locked():
                pass
        assert_records_are_true(fresh(place))
        shown = [image for path, image in images(fresh(place)).items() if ".staged" not in path]
        assert shown.count(OLD) == 1, points[at]
        again = fresh(place)
        with again.locked():
            assert again.place("a--s", ".png", KEY_B).done == (at >= staged), points[at]
            make_new(again)
        assert images(again) == dict(zip(REPLACED, (NEW, OLD), strict=True)), points[at]
        assert len(files(again)) == 6, points[at]
        assert list(again.stage_folder.iterdir()) == []


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
        # Killed between the two, the old one may be there twice; the next that takes its name mends it.
        after = fresh(place)
        make_new(after)
        assert images(after) == dict(zip(REPLACED, (NEW, OLD), strict=True)), points[at]
        assert len(files(after)) == 6, points[at]


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
    assert read_record(folder.record_path(f"older/a--s-{KEY_A[:8]}"))["key"] == KEY_A


def test_a_file_of_someone_else_in_older_is_never_overwritten(tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A, OLD)
    foreign = fresh(tmp_path).image_path(f"older/a--s-{KEY_A[:8]}", ".png")
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    make_new(fresh(tmp_path))
    assert foreign.read_bytes() == b"mine"
    assert images(fresh(tmp_path))[f"older/a--s-{KEY_A[:16]}.png"] == OLD
    assert fresh(tmp_path).place("a--s", ".png", KEY_A).older == f"older/a--s-{KEY_A[:16]}"


def test_a_file_put_into_older_at_the_last_moment_leaves_both_where_they_are(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    publish(folder, "a--s", KEY_A, OLD)
    place = folder.place("a--s", ".png", KEY_B, replaces=lambda record: True)
    staged = folder.stage(place.name, ".png", NEW, LOG, {"status": "done", "key": KEY_B})
    foreign = folder.image_path(f"older/a--s-{KEY_A[:8]}", ".png")
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    assert folder.publish_staged(staged).name == f"a--s-{KEY_B[:8]}.png"
    assert sorted(images(folder).values()) == sorted([b"mine", OLD, NEW])
    assert_records_are_true(folder)


def test_a_staged_record_moves_no_result_to_where_it_does_not_belong(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    publish(folder, "a--s", KEY_A, OLD)
    place = folder.place("a--s", ".png", KEY_B, replaces=lambda record: True)
    staged = folder.stage(place.name, ".png", NEW, LOG, {"status": "done", "key": KEY_B})
    record = read_record(staged / "record.json")
    (staged / "record.json").write_text(json.dumps({**record, "replaced": "../../../elsewhere"}))
    folder.publish_staged(staged)
    assert images(folder) == {"a--s.png": OLD, f"a--s-{KEY_B[:8]}.png": NEW}


def test_results_of_three_recipes_take_turns(folder: BatchFolder, tmp_path: Path) -> None:
    for key, image in ((KEY_A, OLD), (KEY_B, NEW), (KEY_C, IMAGE), (KEY_A, b"never"), (KEY_B, b"never")):
        run_job(fresh(tmp_path), "a--s", key, image, replaces=True)
    assert images(folder) == {
        "a--s.png": NEW, f"older/a--s-{KEY_A[:8]}.png": OLD, f"older/a--s-{KEY_C[:8]}.png": IMAGE,
    }  # fmt: skip


# Runs


def test_the_runs_before_the_last_are_kept_up_to_a_hundred(folder: BatchFolder) -> None:
    for number in range(103):
        folder.add_run({"done": number, "batch": "café\udce9"})
    lines = (folder.logs / "runs.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["done"] for line in lines] == list(range(3, 103))


def test_of_runs_with_very_many_pictures_fewer_are_kept(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.outbox.RUNS_BYTES", 150)
    kept = []
    for number, length in enumerate((30, 30, 30, 200, 30)):  # a line has 27 more
        folder.add_run({"done": number, "pictures": "x" * length})
        lines = (folder.logs / "runs.jsonl").read_bytes().splitlines()
        kept.append([json.loads(line)["done"] for line in lines])
    assert kept == [[0], [0, 1], [1, 2], [3], [4]]


# Done


def test_nothing_is_done_in_an_empty_folder(folder: BatchFolder) -> None:
    place = folder.place("a--s", ".png", KEY_A)
    assert (place.name, place.done) == ("a--s", False)
    assert not folder.folder.exists()


def test_done_is_a_record_with_the_key_and_its_image(tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A)
    assert fresh(tmp_path).place("a--s", ".png", KEY_A).done
    assert not fresh(tmp_path).place("a--s", ".png", KEY_B).done


def test_an_image_that_was_deleted_is_not_done_but_missing(tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A).unlink()
    place = fresh(tmp_path).place("a--s", ".png", KEY_A)
    assert (place.name, place.done, place.missing) == ("a--s", False, True)
    # A file that is dropped once more asks for its picture once more.
    assert not fresh(tmp_path).place("a--s", ".png", KEY_A, drop="d1").missing


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b'{"status": "done", "key": "' + KEY_A.encode() + b'"',
        b"[" * 100_000,
        json.dumps({"status": "failed", "key": KEY_A, "image": "a--s.png"}).encode(),
        json.dumps({"status": "done", "key": KEY_A}).encode(),
        json.dumps({"status": "done", "key": KEY_A, "image": None}).encode(),
        json.dumps({"status": "done", "key": KEY_A, "image": "\0"}).encode(),
        json.dumps({"status": "done", "key": KEY_A, "image": "x" * 5000}).encode(),
        json.dumps({"status": "done", "key": [KEY_A], "image": "a--s.png"}).encode(),
    ],
    ids=range(14),
)
def test_a_damaged_record_is_not_done(record: bytes, tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A)
    (tmp_path / "outbox/night/logs/a--s.json").write_bytes(record)
    folder = fresh(tmp_path)
    place = folder.place("a--s", ".png", KEY_A)
    assert not place.done
    assert not place.missing
    run_job(folder, "a--s", KEY_A)
    again = fresh(tmp_path)
    assert again.place("a--s", ".png", KEY_A).done


def test_a_record_that_is_a_folder_is_not_done(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    folder.record_path("a--s").mkdir(parents=True)
    assert not folder.place("a--s", ".png", KEY_A).done


# Names


@pytest.mark.parametrize("order", [(KEY_A, KEY_B), (KEY_B, KEY_A)], ids=["ab", "ba"])
def test_two_jobs_of_one_name_get_two(order: Sequence[str], tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    names = {key: run_job(folder, "a--s", key, key.encode()) for key in order}
    assert names[order[0]] == "a--s"
    assert names[order[1]] == f"a--s-{order[1][:8]}"
    assert {name: folder.image_path(name, ".png").read_bytes() for name in names.values()} == {
        name: key.encode() for key, name in names.items()
    }
    # Whatever the order from now on, everyone finds their own.
    for keys in (order, order[::-1]):
        later = fresh(tmp_path)
        places = {key: later.place("a--s", ".png", key) for key in keys}
        assert {key: place.name for key, place in places.items()} == names
        assert all(place.done for place in places.values())


def test_a_third_job_of_one_name_gets_a_third(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    assert len({run_job(folder, "a--s", key) for key in (KEY_A, KEY_B, KEY_C)}) == 3


def test_short_ids_that_are_alike_do_not_meet(tmp_path: Path) -> None:
    """Eight digits of a key may be the same for two jobs; their pictures still are two."""
    twin, other = "d" * 8 + "0" * 56, "d" * 8 + "1" * 56
    folder = fresh(tmp_path)
    run_job(folder, "a--s", KEY_A)
    names = [run_job(folder, "a--s", key, key.encode()) for key in (twin, other)]
    assert len(set(names)) == 2
    later = fresh(tmp_path)
    assert [run_job(later, "a--s", key) for key in (other, twin)] == names[::-1]


def test_names_that_differ_in_case_are_one_name(tmp_path: Path) -> None:
    """They are one file on many disks."""
    folder = fresh(tmp_path)
    names = [run_job(folder, name, key) for name, key in (("A--s", KEY_A), ("a--S", KEY_B), ("a--s", KEY_C))]
    assert len({name.casefold() for name in names}) == 3
    later = fresh(tmp_path)
    assert [run_job(later, name, key) for name, key in (("a--s", KEY_C), ("A--s", KEY_A))] == [
        names[2],
        names[0],
    ]


def test_names_in_other_folders_do_not_collide(folder: BatchFolder) -> None:
    assert run_job(folder, "x/a", KEY_A) == "x/a"
    assert run_job(folder, "y/a", KEY_B) == "y/a"


def test_a_file_of_someone_else_is_never_overwritten(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    folder.folder.mkdir(parents=True)
    foreign = folder.image_path("a--s", ".png")
    foreign.write_bytes(b"mine")
    for _ in range(2):
        assert run_job(fresh(tmp_path), "a--s", KEY_A) == f"a--s-{KEY_A[:8]}"
    assert foreign.read_bytes() == b"mine"
    assert fresh(tmp_path).place("a--s", ".png", KEY_A).done


def test_a_file_put_where_a_job_failed_is_not_overwritten(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    folder.write_record("a--s", {"status": "failed", "key": KEY_A})
    foreign = folder.image_path("a--s", ".png")
    foreign.write_bytes(b"mine")
    run_job(fresh(tmp_path), "a--s", KEY_A)
    assert foreign.read_bytes() == b"mine"


def test_a_folder_with_the_wanted_name_is_no_hindrance(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    folder.image_path("a--s", ".png").mkdir(parents=True)
    run_job(folder, "a--s", KEY_A)
    assert fresh(tmp_path).place("a--s", ".png", KEY_A).done


def test_a_failed_job_keeps_no_name(tmp_path: Path) -> None:
    fresh(tmp_path).write_record("a--s", {"status": "failed", "key": KEY_A})
    assert run_job(fresh(tmp_path), "a--s", KEY_B) == "a--s"


# One at a time

HOLDER = """
import sys
from pathlib import Path
from pipeline.storage.outbox import BatchFolder
with BatchFolder(Path(sys.argv[1]), "night").locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "outbox")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_told_to_wait(tmp_path: Path) -> None:
    with holder(tmp_path), pytest.raises(LockedError) as caught, fresh(tmp_path).locked():
        pytest.fail("two processes hold one folder")
    assert caught.value.exit_code == 5
    assert str(tmp_path / "outbox/night") in caught.value.message
    assert caught.value.next_step


def test_a_refused_process_touches_nothing(tmp_path: Path) -> None:
    with holder(tmp_path):
        unfinished = tmp_path / "outbox/night" / f"{TEMPORARY_PREFIX}1"
        unfinished.write_bytes(b"being written by the holder")
        with pytest.raises(LockedError), fresh(tmp_path).locked():
            pass
        assert unfinished.exists()


def test_what_cannot_be_swept_is_no_reason_not_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another user, or on a disk without such locks."""
    litter = tmp_path / "outbox/night" / f"{TEMPORARY_PREFIX}1"
    litter.parent.mkdir(parents=True)
    litter.touch()

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.storage.files._remove_unless_locked", refuse)
    with fresh(tmp_path).locked():
        assert litter.exists()


def test_a_process_that_is_killed_lets_go(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with fresh(tmp_path).locked():
        pass


def test_another_batch_is_free(tmp_path: Path) -> None:
    with holder(tmp_path), BatchFolder(tmp_path / "outbox", "day").locked():
        pass


def test_a_folder_is_let_go_after_an_error(folder: BatchFolder) -> None:
    with pytest.raises(Killed), folder.locked():
        raise Killed
    with folder.locked():
        pass


def test_leftovers_of_a_dead_process_are_removed_and_nothing_else(folder: BatchFolder) -> None:
    publish(folder, "x/a--s", KEY_A)
    kept = files(folder)
    for place in (folder.folder, folder.logs, folder.folder / "x", folder.logs / "x"):
        (place / f"{TEMPORARY_PREFIX}0123456789abcdef").write_bytes(b"half")
    (folder.folder / ".hidden").write_bytes(b"of someone else")
    with folder.locked():
        assert files(folder) == sorted([*kept, ".hidden"])


def test_a_leftover_that_is_a_folder_is_no_crash(folder: BatchFolder) -> None:
    leftover = folder.logs / "x" / f"{TEMPORARY_PREFIX}1"
    (leftover / f"{TEMPORARY_PREFIX}2").mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    with folder.locked():
        assert not leftover.exists()
        assert leftover.parent.exists()


def test_a_leftover_that_cannot_be_removed_is_the_machines_fault_at_most(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.logs.mkdir(parents=True)
    leftover = folder.logs / f"{TEMPORARY_PREFIX}1"
    leftover.write_bytes(b"half")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        patch.setattr(Path, "unlink", refuse)
        with suppress(DiskError), folder.locked():
            pass
    assert leftover.exists()
    with folder.locked():
        assert not leftover.exists()


@pytest.mark.parametrize("blocked", ["outbox", "outbox/night", "outbox/night/logs"])
def test_an_outbox_that_is_a_file_is_named(blocked: str, tmp_path: Path, folder: BatchFolder) -> None:
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    # Another batch can be made in an outbox where this one cannot.
    kind = DiskError if blocked == "outbox" else PathError
    with pytest.raises(kind) as caught, folder.locked():
        pass
    assert str(tmp_path / "outbox") in caught.value.message


# What cannot be used


def staged(folder: BatchFolder, name: str, key: str) -> Path:
    return folder.stage(name, ".png", IMAGE, LOG, {"status": "done", "key": key})


def put_foreign(stage: Path, kind: str) -> Path:
    """Something on the stage that this program did not put there; return what must still be there."""
    path = stage / (KEY_C if "record" in kind else ".DS_Store")
    if "record" in kind:
        path.mkdir(parents=True)
        (path / "image.png").write_bytes(b"theirs")
    if kind == "file":
        path.write_bytes(b"theirs")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path = stage / KEY_C
        path.symlink_to(stage.parent)
    elif kind == "loop":
        path = stage / KEY_C
        path.symlink_to(path)
    elif kind == "folder as record":
        (path / "record.json").mkdir()
    elif kind == "loop as record":
        (path / "record.json").symlink_to("record.json")
    elif kind == "pipe as record":
        os.mkfifo(path / "record.json")
    return path


@pytest.mark.parametrize(
    "kind", ["file", "folder", "link", "loop", "folder as record", "loop as record", "pipe as record"]
)
def test_foreign_things_on_the_stage_are_left_alone_and_said(kind: str, tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    staged(folder, "a--s", KEY_A)
    foreign = put_foreign(folder.stage_folder, kind)
    for _ in range(2):
        again = fresh(tmp_path)
        assert again.staged_drops() == []
        with again.locked():
            assert again.left_alone == (f"{foreign}: is no result, and left alone.",)
            assert run_job(again, "b--s", KEY_B) == "b--s"
    assert os.path.lexists(foreign)
    assert again.image_path("a--s", ".png").read_bytes() == IMAGE
    assert again.image_path("b--s", ".png").read_bytes() == IMAGE


def test_a_foreign_file_in_a_staged_result_is_left_alone(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    place = staged(folder, "a--s", KEY_A)
    (place / ".DS_Store").write_bytes(b"theirs")
    assert folder.publish_staged(place).read_bytes() == IMAGE
    assert not folder.is_staged(KEY_A)
    for _ in range(2):
        again = fresh(tmp_path)
        with again.locked():
            assert again.left_alone == (f"{place}: is not empty, and left alone.",)
    assert [path.name for path in place.iterdir()] == [".DS_Store"]


def test_a_result_that_cannot_be_published_waits_and_the_others_are(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    waiting = staged(folder, "x.png/y", KEY_A)
    staged(folder, "b--s", KEY_B)
    (folder.folder / "x.png").write_bytes(b"in the way")
    again = fresh(tmp_path)
    with again.locked():
        (said,) = again.left_alone
        assert f"{folder.folder / 'x.png'}: cannot be written" in said
        assert f"waits in {waiting}" in said
        assert again.is_staged(KEY_A)
    assert again.image_path("b--s", ".png").read_bytes() == IMAGE
    (folder.folder / "x.png").unlink()
    with fresh(tmp_path).locked():
        pass
    assert folder.image_path("x.png/y", ".png").read_bytes() == IMAGE


@pytest.mark.parametrize("image", ["../../evil.png", "ABOVE/evil.png", "link/evil.png", "..", "\0.png", ""])
def test_a_staged_record_leads_nowhere_else(image: str, tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    place = staged(folder, "a--s", KEY_A)
    (folder.folder / "link").symlink_to(tmp_path)
    record = json.loads((place / "record.json").read_bytes())
    record["image"] = image.replace("ABOVE", str(tmp_path))
    (place / "record.json").write_text(json.dumps(record))
    before = sorted(tmp_path.rglob("*.png"))
    with folder.locked():
        (said,) = folder.left_alone
        assert "leads out of the folder" in said
    assert sorted(tmp_path.rglob("*.png")) == before


DEEP = "/".join(["n"] * 2_200)


@pytest.mark.parametrize("name", ["x" * 256, "x" * 251, DEEP, "file.png/y", "loop/y"])
def test_a_name_that_cannot_be_used_is_known_before_the_work(name: str, folder: BatchFolder) -> None:
    folder.logs.mkdir(parents=True)
    (folder.folder / "file.png").write_bytes(b"a picture")
    (folder.folder / "loop").symlink_to("loop")
    folder.check_name("x" * 250, ".png")
    folder.check_name("new/folder/x", ".png")
    with pytest.raises(PathError, match="cannot be written"):
        folder.check_name(name, ".png")
    assert not folder.place(name, ".png", KEY_A).done
    assert folder.is_untaken("y" * 300)
    assert not folder.has_record(f"{DEEP}/y", ".png")


def test_a_name_whose_record_would_be_a_folder_is_not_taken(folder: BatchFolder) -> None:
    (folder.logs / "a--s.json").mkdir(parents=True)
    (folder.logs / f"a--s-{KEY_A[:8]}.csv").mkdir()
    assert run_job(folder, "a--s", KEY_A) == f"a--s-{KEY_A[:16]}"
    assert fresh(folder.folder.parents[1]).place("a--s", ".png", KEY_A).done


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP])
@pytest.mark.parametrize("operation", ["mkdir", "write", "rename", "replace"])
def test_what_a_disk_says_of_a_name_is_no_fault_of_the_machine(
    operation: str, number: int, tmp_path: Path
) -> None:
    folder = BatchFolder(tmp_path / "outbox", "night", HookedDisk(failing(operation, number)))
    folder.folder.parent.mkdir()
    with pytest.raises(PathError, match=os.strerror(number)) as caught:
        publish(folder, "a--s", KEY_A)
    assert caught.value.next_step
