from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from batch_folders import (
    IMAGE,
    KEY_A,
    LOG,
    Killed,
    dying,
    files,
    fresh,
    points_of_a_publication,
    publish,
    run_job,
)
from disks import HookedDisk, failing

from pipeline.errors import DiskError, LockedError, PathError
from pipeline.storage.files import TEMPORARY_PREFIX
from pipeline.storage.outbox import BatchFolder, log_bytes

# Publication


def test_log_first_image_next_record_last(tmp_path: Path) -> None:
    folder, points = dying(tmp_path, None)
    path = publish(folder, "a--s", KEY_A)
    moves = [point for point in points.passed if point.startswith(("after rename", "after replace"))]
    assert [move.split()[-1] for move in moves] == [KEY_A, "a--s.csv", "a--s.png", "a--s.json"]
    assert path == folder.path / "a--s.png"
    assert path.read_bytes() == IMAGE
    assert (folder.paths.logs / "a--s.csv").read_bytes() == LOG
    record = json.loads((folder.paths.logs / "a--s.json").read_text(encoding="utf-8"))
    assert record == {"status": "done", "key": KEY_A, "image": "a--s.png"}
    assert files(folder) == ["a--s.png", "logs/a--s.csv", "logs/a--s.json"]


def test_everything_is_synced_before_it_is_seen(tmp_path: Path) -> None:
    points = points_of_a_publication(tmp_path)
    staged = next(i for i, point in enumerate(points) if point.endswith(KEY_A) and "before rename" in point)
    synced = [point.split()[-1] for point in points[:staged] if point.startswith("after sync ")]
    assert synced == ["log.csv", "image.png", "record.json"]


@pytest.mark.usefixtures("no_waiting")
def test_killed_anywhere_the_next_owner_completes_the_publication_or_starts_over(tmp_path: Path) -> None:
    points = points_of_a_publication(tmp_path)
    staged = next(i for i, point in enumerate(points) if point.endswith(KEY_A) and "after rename" in point)
    assert 20 < len(points) < 80
    for at in range(len(points)):
        place = tmp_path / str(at)
        fresh(place).paths.logs.mkdir(parents=True)
        with pytest.raises(Killed):
            publish(dying(place, at)[0], "a--s", KEY_A)
        assert [name for name in files(fresh(place)) if name.endswith(".png") and ".staged" not in name] in (
            [],
            ["a--s.png"],
        )
        again = fresh(place)
        with again.locked():
            assert again.places.choose("a--s", ".png", KEY_A).done == (at >= staged), points[at]
            run_job(again, "a--s", KEY_A)
        # The same name, and nothing left over under another.
        assert files(again) == ["a--s.png", "logs/a--s.csv", "logs/a--s.json"], points[at]
        assert list(again.stage.folder.iterdir()) == []


@pytest.mark.usefixtures("no_waiting")
def test_killed_anywhere_a_forced_rerun_leaves_whole_files(tmp_path: Path) -> None:
    for at in range(len(points_of_a_publication(tmp_path))):
        place = tmp_path / str(at)
        publish(fresh(place), "a--s", KEY_A)
        with suppress(Killed):
            publish(dying(place, at)[0], "a--s", KEY_A, b"the picture made again")
        assert fresh(place).places.choose("a--s", ".png", KEY_A).done
        assert (place / "outbox/night/a--s.png").read_bytes() in {IMAGE, b"the picture made again"}
        with fresh(place).locked():
            pass
        assert files(fresh(place)) == ["a--s.png", "logs/a--s.csv", "logs/a--s.json"]


def test_an_image_taken_away_at_once_is_not_published_again(tmp_path: Path) -> None:
    """A consumer moves pictures out as soon as they are there; the process dies before the record is."""
    points = points_of_a_publication(tmp_path)
    at = next(i for i, point in enumerate(points) if point == "after rename image.png a--s.png")
    fresh(tmp_path).paths.logs.mkdir(parents=True)
    with pytest.raises(Killed):
        publish(dying(tmp_path, at)[0], "a--s", KEY_A)
    (tmp_path / "outbox/night/a--s.png").unlink()
    again = fresh(tmp_path)
    with again.locked():
        assert files(again) == ["logs/a--s.csv", "logs/a--s.json"]


def test_a_drop_is_done_though_its_image_was_taken_away(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    record = {"status": "done", "key": KEY_A, "drop": "d1"}
    folder.publish_staged(folder.stage_result("a--s", ".png", IMAGE, LOG, record)).unlink()
    assert fresh(tmp_path).places.choose("a--s", ".png", KEY_A, drop="d1").done
    assert not fresh(tmp_path).places.choose("a--s", ".png", KEY_A, drop="d2").done
    assert not fresh(tmp_path).places.choose("a--s", ".png", KEY_A).done


def test_a_file_put_at_the_last_moment_is_not_overwritten(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    staged = folder.stage_result("a--s", ".png", IMAGE, LOG, {"status": "done", "key": KEY_A})
    (folder.path / "a--s.png").write_bytes(b"mine")
    assert folder.publish_staged(staged).name == f"a--s-{KEY_A[:8]}.png"
    assert (folder.path / "a--s.png").read_bytes() == b"mine"
    later = fresh(tmp_path).places.choose("a--s", ".png", KEY_A)
    assert (later.name, later.done) == (f"a--s-{KEY_A[:8]}", True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("operation", ["mkdir", "write", "sync", "sync_folder", "rename", "replace"])
def test_a_disk_that_fails_is_the_machines_fault(operation: str, number: int, tmp_path: Path) -> None:
    folder = BatchFolder(tmp_path / "outbox", "night", HookedDisk(failing(operation, number)))
    with pytest.raises(DiskError, match=os.strerror(number)) as caught:
        publish(folder, "a--s", KEY_A)
    assert str(folder.path) in caught.value.message
    assert folder.paths.read_record("a--s") == {}
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
    assert folder.places.choose("1_1e+06/generated_100", ".png", KEY_A).done


def test_the_log_is_csv() -> None:
    rows = [(1, 0.123456789), (2, 1e-9)]
    assert log_bytes(("step", "total"), rows) == b"step,total\n1,0.123457\n2,1e-09\n"


def test_a_record_may_hold_any_file_name(folder: BatchFolder) -> None:
    """A path with bytes that are no UTF-8 is a text with surrogates in Python."""
    record = {"status": "done", "key": KEY_A, "content": {"path": "/in/caf\udce9 Ünï 字.png"}}
    folder.publish_staged(folder.stage_result("a--s", ".png", IMAGE, LOG, record))
    assert folder.paths.read_record("a--s")["content"] == record["content"]
    folder.write_summary({"failures": [{"error": "/in/caf\udce9.png: cannot be read."}]})


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP])
@pytest.mark.parametrize("operation", ["mkdir", "write", "rename", "replace"])
def test_what_a_disk_says_of_a_name_is_no_fault_of_the_machine(
    operation: str, number: int, tmp_path: Path
) -> None:
    folder = BatchFolder(tmp_path / "outbox", "night", HookedDisk(failing(operation, number)))
    folder.path.parent.mkdir()
    with pytest.raises(PathError, match=os.strerror(number)) as caught:
        publish(folder, "a--s", KEY_A)
    assert caught.value.next_step


# Runs


def test_the_runs_before_the_last_are_kept_up_to_a_hundred(folder: BatchFolder) -> None:
    for number in range(103):
        folder.add_run({"done": number, "batch": "café\udce9"})
    lines = (folder.paths.logs / "runs.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["done"] for line in lines] == list(range(3, 103))


def test_of_runs_with_very_many_pictures_fewer_are_kept(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.outbox.RUNS_BYTES", 150)
    kept = []
    for number, length in enumerate((30, 30, 30, 200, 30)):  # a line has 27 more
        folder.add_run({"done": number, "pictures": "x" * length})
        lines = (folder.paths.logs / "runs.jsonl").read_bytes().splitlines()
        kept.append([json.loads(line)["done"] for line in lines])
    assert kept == [[0], [0, 1], [1, 2], [3], [4]]


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
    leftover = tmp_path / "outbox/night" / f"{TEMPORARY_PREFIX}1"
    leftover.parent.mkdir(parents=True)
    leftover.touch()

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.storage.temporary._remove_unless_locked", refuse)
    with fresh(tmp_path).locked():
        assert leftover.exists()


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
    for place in (folder.path, folder.paths.logs, folder.path / "x", folder.paths.logs / "x"):
        (place / f"{TEMPORARY_PREFIX}0123456789abcdef").write_bytes(b"half")
    (folder.path / ".hidden").write_bytes(b"of someone else")
    with folder.locked():
        assert files(folder) == sorted([*kept, ".hidden"])


def test_a_leftover_that_is_a_folder_is_no_crash(folder: BatchFolder) -> None:
    leftover = folder.paths.logs / "x" / f"{TEMPORARY_PREFIX}1"
    (leftover / f"{TEMPORARY_PREFIX}2").mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    with folder.locked():
        assert not leftover.exists()
        assert leftover.parent.exists()


def test_a_leftover_that_cannot_be_removed_is_the_machines_fault_at_most(
    folder: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.paths.logs.mkdir(parents=True)
    leftover = folder.paths.logs / f"{TEMPORARY_PREFIX}1"
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
