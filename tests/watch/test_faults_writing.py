"""Drops that are written slowly, left unfinished, renamed, overwritten or dropped twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from fakes import picture_bytes
from faults import (
    IN_ALL_MODES,
    PATIENT,
    Passing,
    Writer,
    archived,
    case,
    held,
    of_kind,
    outputs,
    running,
    style,
    thirds,
)
from watching import Watched

# 5, 6: slow writers


@case(5)
@IN_ALL_MODES
def test_a_file_that_is_open_for_writing_is_never_taken(tmp_path: Path, mode: str) -> None:
    """Not even when its bytes so far are a whole picture, and not after settle_max_s."""
    watched = Watched(tmp_path, mode, settle_max_s=0.1)
    with running(watched) as daemon:
        passing, writer = Passing(watched, daemon), Writer(watched, "slow.png")
        for piece in (*thirds(picture_bytes("slow")), b"and more"):
            writer.write(piece)
            passing()
            passing()
            assert writer.path.exists()
        writer.close()
        daemon.until("done", name="slow--s")
    watched.assert_done(["slow--s.png", *passing.names])


@pytest.mark.faults
@case(5)
@IN_ALL_MODES
def test_a_writer_that_closes_and_opens_again(tmp_path: Path, mode: str) -> None:
    """As some cameras and file servers write: no descriptor is held in the pauses."""
    watched = Watched(tmp_path, mode, **PATIENT)
    first, *rest = thirds(picture_bytes("slow"))
    path = watched.inbox / "slow.png"
    path.write_bytes(first)
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        for piece in rest:
            passing()
            with path.open("ab") as file:
                file.write(piece)
        watched.inputs[path.read_bytes()] += 1
        daemon.until("done", name="slow--s")
    watched.assert_done(["slow--s.png", *passing.names])


@case(5)
@IN_ALL_MODES
def test_a_file_that_is_opened_again_after_it_settled(tmp_path: Path, mode: str) -> None:
    """It is found open at the moment it is taken, and goes back to its place."""
    watched = Watched(tmp_path, mode, routes={"new": {"styles": ["later"]}})
    path = watched.drop("new/a.png")
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="new/a.png")
        with path.open("ab") as file:
            style(watched, "later.png")
            passing()
            passing()
            assert of_kind(daemon, "started", "name") == [
                f"well{n}--{s}" for n in range(2) for s in ("later", "s")
            ]
            watched.inputs[path.read_bytes()] -= 1
            file.write(b"and more")
        watched.inputs[path.read_bytes()] += 1
        daemon.until("done", name="a--later")
    watched.inputs = +watched.inputs
    watched.assert_promises()
    assert "new/a--later.png" in outputs(watched)


@case(6)
@IN_ALL_MODES
def test_full_size_first_and_content_later(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, **PATIENT)
    names = ["truncated.png", "allocated.png"]
    data = {name: picture_bytes(name) for name in names}
    for name in names:
        (watched.inbox / name).touch()
    os.truncate(watched.inbox / names[0], len(data[names[0]]))
    with (watched.inbox / names[1]).open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, len(data[names[1]]))
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="allocated.png")
        daemon.until("waits", path="truncated.png")
        for name in names:
            pieces = thirds(data[name])
            with (watched.inbox / name).open("r+b", buffering=0) as file:
                for piece in pieces[:2]:
                    file.write(piece)
                    passing()
            with (watched.inbox / name).open("r+b", buffering=0) as file:
                file.seek(len(data[name]) - len(pieces[2]))
                file.write(pieces[2])
            watched.inputs[data[name]] += 1
            daemon.until("done", name=f"{Path(name).stem}--s")
    watched.assert_done(["truncated--s.png", "allocated--s.png", *passing.names])


# 7, 8: not a whole picture yet


@case(7)
@IN_ALL_MODES
def test_a_truncated_picture_is_completed_later(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, **PATIENT)
    data = picture_bytes("cut", "jpeg", (60, 40))
    path = watched.inbox / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="cut.jpg")
        passing()
        path.write_bytes(data)
        watched.inputs[data] += 1
        daemon.until("done", name="cut--s")
    watched.assert_done(["cut--s.png", *passing.names])
    assert of_kind(daemon, "waits") == ["cut.jpg"], "reported more than once"


@case(7)
@IN_ALL_MODES
def test_a_picture_that_stays_truncated_is_quarantined(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, settle_max_s=0.2)
    data = picture_bytes("cut", "jpeg", (60, 40))[:-200]
    watched.drop("album/cut.jpg", data)
    with running(watched) as daemon:
        event = daemon.until("quarantined", path="album/cut.jpg")
        Passing(watched, daemon)()
    assert str(watched.inbox / "album" / "cut.jpg") in event["error"]
    assert event["next_step"]
    watched.assert_promises()
    assert outputs(watched) == ["inbox/well0--s.png"]
    report = json.loads((watched.quarantine / event["id"] / "error.json").read_bytes())
    assert report["error"] == event["error"]
    assert (watched.quarantine / event["id"] / "cut.jpg").read_bytes() == data


@pytest.mark.faults
@case(7)
def test_cron_gives_a_truncated_picture_its_time_over_several_runs(tmp_path: Path) -> None:
    watched = Watched(tmp_path, **PATIENT)
    watched.drop("cut.jpg", picture_bytes("cut", "jpeg", (60, 40))[:-200])
    assert watched.once().process.returncode == 0
    assert (watched.inbox / "cut.jpg").exists()
    watched.watch["settle_max_s"] = 0.001
    watched.configure()
    run = watched.once()
    assert run.process.returncode == 1
    assert of_kind(run, "quarantined") == ["cut.jpg"]
    watched.assert_promises()


@case(8)
@IN_ALL_MODES
def test_zero_bytes_that_are_filled_later(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, **PATIENT)
    path = watched.inbox / "empty.png"
    path.touch()
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="empty.png")
        passing()
        path.write_bytes(picture_bytes("full"))
        watched.inputs[picture_bytes("full")] += 1
        daemon.until("done", name="empty--s")
    watched.assert_done(["empty--s.png", *passing.names])


# 9: ways in


@case(9)
@IN_ALL_MODES
def test_a_temporary_name_becomes_the_final_one(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        names = ["x.png.part", "y.crdownload", "z.tmp", "~w.png", ".v.png"]
        paths = [watched.drop(name) for name in names]
        passing()
        assert all(path.exists() for path in paths)
        finals = ["x.png", "y.png", "z.png", "w.png", "v.png"]
        for path, final in zip(paths, finals, strict=True):
            path.rename(path.with_name(final))
            daemon.until("done", name=f"{final[0]}--s")
    watched.assert_done([*(f"{final[0]}--s.png" for final in finals), *passing.names])
    assert sorted(of_kind(daemon, "ignored")) == sorted(names)


@case(9)
@IN_ALL_MODES
def test_a_hard_link_is_taken_and_the_other_link_stays(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    data = picture_bytes("linked")
    other = tmp_path / "mine.png"
    other.write_bytes(data)
    with running(watched) as daemon:
        os.link(other, watched.inbox / "linked.png")
        watched.inputs[data] += 1
        daemon.until("done", name="linked--s")
        passing = Passing(watched, daemon)
        passing()
    watched.assert_done(["linked--s.png", *passing.names])
    assert other.read_bytes() == data


@case(9)
@IN_ALL_MODES
def test_a_folder_is_moved_in_and_filled_further(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    tree = tmp_path / "album"
    for name in ("a.png", "deep/er/b.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(picture_bytes(name))
        watched.inputs[picture_bytes(name)] += 1
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        passing()
        tree.rename(watched.inbox / "album")
        daemon.until("done", name="album/a--s")
        daemon.until("done", name="album/deep/er/b--s")
        watched.drop("album/deep/er/c.png")
        watched.drop("album/new/d.png")
        daemon.until("done", name="album/deep/er/c--s")
        daemon.until("done", name="album/new/d--s")
    made = ["a", "deep/er/b", "deep/er/c", "new/d"]
    watched.assert_done([*(f"album/{name}--s.png" for name in made), *passing.names])
    assert (watched.archive / "album" / "deep" / "er" / "b.png").exists()


# 10: times, and files that are replaced


@case(10)
@IN_ALL_MODES
def test_times_in_the_past_and_the_future(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    times = {"before": -1e9, "epoch": 0, "long": 1e9, "future": 4e9}
    for name, at in times.items():
        path = watched.drop(f"{name}.png")
        os.utime(path, (at, at))
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        passing()
        path = watched.drop("late.png")
        os.utime(path, (time.time() + 86400,) * 2)
        daemon.until("done", name="late--s")
    watched.assert_done([*(f"{name}--s.png" for name in times), "late--s.png", *passing.names])


@case(10)
@IN_ALL_MODES
def test_overwritten_while_it_settles(tmp_path: Path, mode: str) -> None:
    """Only the last content is taken, whether the file was replaced or written again."""
    watched = Watched(tmp_path, mode)
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        for name in ("replaced", "rewritten"):
            writer = Writer(watched, f"{name}.png")  # open, so that it cannot settle
            writer.write(picture_bytes("old"))
            passing()
            if name == "replaced":
                watched.drop("replaced.png")
                writer.file.close()
            else:
                os.truncate(writer.path, 0)
                os.pwrite(writer.file.fileno(), picture_bytes("new"), 0)
                writer.close()
            daemon.until("done", name=f"{name}--s")
    watched.assert_done(["replaced--s.png", "rewritten--s.png", *passing.names])


@case(10)
@IN_ALL_MODES
def test_a_new_file_of_the_same_name_while_the_job_runs(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    daemon = watched.start(worker=True, faults={"a": "wait"})
    first, second = picture_bytes("first"), picture_bytes("second")
    watched.drop("a.png", first)
    daemon.until("started", name="a--s")
    watched.drop("a.png", second)
    watched.drop("well.png")
    daemon.until("settled", path="a.png")
    assert (watched.inbox / "a.png").read_bytes() == second
    daemon.stop()
    watched.assert_promises()
    assert watched.once().process.returncode == 0
    watched.assert_promises()
    made = {record["content"]["sha256"]: record["image"] for record in watched.records()}
    assert made[hashlib.sha256(first).hexdigest()] == "a--s.png"
    assert made[hashlib.sha256(second).hexdigest()].startswith("a--s-")
    assert outputs(watched) == sorted(f"inbox/{image}" for image in made.values())
    assert len(made) == 3


# 11, 12


@case(11)
@IN_ALL_MODES
def test_present_at_start_and_being_copied(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    watched.drop("whole.png")
    writer = Writer(watched, "copied.png")
    begin, *rest = thirds(picture_bytes("copied"))
    writer.write(begin)
    with running(watched) as daemon:
        daemon.until("done", name="whole--s")
        passing = Passing(watched, daemon)
        for piece in rest:
            writer.write(piece)
            passing()
            assert writer.path.exists()
        writer.close()
        daemon.until("done", name="copied--s")
    watched.assert_done(["whole--s.png", "copied--s.png", *passing.names])


@pytest.mark.faults
@case(11)
def test_cron_leaves_what_is_being_copied_for_its_next_run(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("whole.png")
    writer = Writer(watched, "copied.png")
    writer.write(picture_bytes("copied"))
    run = watched.once()
    assert run.process.returncode == 0
    assert of_kind(run, "done", "name") == ["whole--s"]
    writer.close()
    watched.assert_promises()
    run = watched.once()
    assert of_kind(run, "done", "name") == ["copied--s"]
    watched.assert_done(["whole--s.png", "copied--s.png"])


@case(12)
@IN_ALL_MODES
def test_the_same_name_and_the_same_bytes_twice(tmp_path: Path, mode: str) -> None:
    """Every drop has its result, and no result is ever replaced."""
    watched = Watched(tmp_path, mode)
    same = picture_bytes("same")
    watched.drop("a.png", same)
    watched.drop("b.png", same)
    watched.drop("a.jpg", picture_bytes("other", "jpeg"))
    watched.drop("A.png")
    with running(watched) as daemon:
        Passing(watched, daemon)()
        before = held(watched)
        watched.drop("a.png", picture_bytes("third"))
        daemon.until("done")
        watched.drop("a.png", same)
        daemon.until("skipped")
    watched.assert_promises()
    assert len(before) == 5
    assert len(held(watched)) == 6
    assert before.items() <= held(watched).items()
    digests = Counter(record["content"]["sha256"] for record in watched.records())
    assert digests == {hashlib.sha256(data).hexdigest(): 2 if data == same else 1 for data in watched.inputs}
    assert len(archived(watched)) == watched.inputs.total()
