from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from batch_folders import KEY_A, KEY_B, KEY_C, fresh, publish, run_job

from pipeline.errors import PathError
from pipeline.storage.outbox import BatchFolder

# Done


def test_nothing_is_done_in_an_empty_folder(folder: BatchFolder) -> None:
    place = folder.places.choose("a--s", ".png", KEY_A)
    assert (place.name, place.done) == ("a--s", False)
    assert not folder.path.exists()


def test_done_is_a_record_with_the_key_and_its_image(tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A)
    assert fresh(tmp_path).places.choose("a--s", ".png", KEY_A).done
    assert not fresh(tmp_path).places.choose("a--s", ".png", KEY_B).done


def test_an_image_that_was_deleted_is_not_done_but_missing(tmp_path: Path) -> None:
    publish(fresh(tmp_path), "a--s", KEY_A).unlink()
    place = fresh(tmp_path).places.choose("a--s", ".png", KEY_A)
    assert (place.name, place.done, place.missing) == ("a--s", False, True)
    # A file that is dropped once more asks for its picture once more.
    assert not fresh(tmp_path).places.choose("a--s", ".png", KEY_A, drop="d1").missing


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
    place = folder.places.choose("a--s", ".png", KEY_A)
    assert not place.done
    assert not place.missing
    run_job(folder, "a--s", KEY_A)
    again = fresh(tmp_path)
    assert again.places.choose("a--s", ".png", KEY_A).done


def test_a_record_that_is_a_folder_is_not_done(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    folder.paths.record("a--s").mkdir(parents=True)
    assert not folder.places.choose("a--s", ".png", KEY_A).done


# Names


@pytest.mark.parametrize("order", [(KEY_A, KEY_B), (KEY_B, KEY_A)], ids=["ab", "ba"])
def test_two_jobs_of_one_name_get_two(order: Sequence[str], tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    names = {key: run_job(folder, "a--s", key, key.encode()) for key in order}
    assert names[order[0]] == "a--s"
    assert names[order[1]] == f"a--s-{order[1][:8]}"
    assert {name: folder.paths.image(name, ".png").read_bytes() for name in names.values()} == {
        name: key.encode() for key, name in names.items()
    }
    # Whatever the order from now on, everyone finds their own.
    for keys in (order, order[::-1]):
        later = fresh(tmp_path)
        places = {key: later.places.choose("a--s", ".png", key) for key in keys}
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
    folder.path.mkdir(parents=True)
    foreign = folder.paths.image("a--s", ".png")
    foreign.write_bytes(b"mine")
    for _ in range(2):
        assert run_job(fresh(tmp_path), "a--s", KEY_A) == f"a--s-{KEY_A[:8]}"
    assert foreign.read_bytes() == b"mine"
    assert fresh(tmp_path).places.choose("a--s", ".png", KEY_A).done


def test_a_file_put_where_a_job_failed_is_not_overwritten(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    folder.write_record("a--s", {"status": "failed", "key": KEY_A})
    foreign = folder.paths.image("a--s", ".png")
    foreign.write_bytes(b"mine")
    run_job(fresh(tmp_path), "a--s", KEY_A)
    assert foreign.read_bytes() == b"mine"


def test_a_folder_with_the_wanted_name_is_no_hindrance(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    folder.paths.image("a--s", ".png").mkdir(parents=True)
    run_job(folder, "a--s", KEY_A)
    assert fresh(tmp_path).places.choose("a--s", ".png", KEY_A).done


def test_a_failed_job_keeps_no_name(tmp_path: Path) -> None:
    fresh(tmp_path).write_record("a--s", {"status": "failed", "key": KEY_A})
    assert run_job(fresh(tmp_path), "a--s", KEY_B) == "a--s"


DEEP = "/".join(["n"] * 2_200)


@pytest.mark.parametrize("name", ["x" * 256, "x" * 251, DEEP, "file.png/y", "loop/y"])
def test_a_name_that_cannot_be_used_is_known_before_the_work(name: str, folder: BatchFolder) -> None:
    folder.paths.logs.mkdir(parents=True)
    (folder.path / "file.png").write_bytes(b"a picture")
    (folder.path / "loop").symlink_to("loop")
    folder.places.check("x" * 250, ".png")
    folder.places.check("new/folder/x", ".png")
    with pytest.raises(PathError, match="cannot be written"):
        folder.places.check(name, ".png")
    assert not folder.places.choose(name, ".png", KEY_A).done
    assert folder.places.is_untaken("y" * 300)
    assert not folder.places.has_record(f"{DEEP}/y", ".png")


def test_a_name_whose_record_would_be_a_folder_is_not_taken(folder: BatchFolder) -> None:
    (folder.paths.logs / "a--s.json").mkdir(parents=True)
    (folder.paths.logs / f"a--s-{KEY_A[:8]}.csv").mkdir()
    assert run_job(folder, "a--s", KEY_A) == f"a--s-{KEY_A[:16]}"
    assert fresh(folder.path.parents[1]).places.choose("a--s", ".png", KEY_A).done
