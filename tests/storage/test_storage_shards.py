"""Who may work on a batch at the same time, and who repairs what."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from batch_folders import IMAGE, KEY_A, KEY_B, files, fresh, publish, run_job, staged

from pipeline.errors import LockedError
from pipeline.storage import shards
from pipeline.storage.files import TEMPORARY_PREFIX
from pipeline.storage.outbox import BatchFolder


def shard(tmp_path: Path, label: str) -> BatchFolder:
    """The folder as the process of a shard sees it."""
    return BatchFolder(tmp_path / "outbox", "night", shard=label)


def test_shards_of_one_division_work_side_by_side(tmp_path: Path) -> None:
    with shard(tmp_path, "1-of-2").locked(), shard(tmp_path, "2-of-2").locked():
        for label, name, key in (("1-of-2", "a--s", KEY_A), ("2-of-2", "b--s", KEY_B)):
            assert run_job(shard(tmp_path, label), name, key) == name
    assert [name for name in files(fresh(tmp_path)) if name.endswith(".png")] == ["a--s.png", "b--s.png"]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("", "", "another process is working on this batch"),
        ("", "1-of-2", "another process is working on this batch"),
        ("1-of-2", "", "shard 1 of 2 of this batch is being made"),
        ("1-of-2", "1-of-2", "another process is working on this shard"),
        ("1-of-2", "2-of-3", "shard 1 of 2 of this batch is being made"),
    ],
)
def test_what_would_make_a_picture_twice_is_refused_at_once(
    first: str, second: str, words: str, tmp_path: Path
) -> None:
    with (
        shard(tmp_path, first).locked(),
        pytest.raises(LockedError, match=words),
        shard(tmp_path, second).locked(),
    ):
        pass
    for label in (second, first):  # and nothing stays locked
        with shard(tmp_path, label).locked():
            pass


def test_a_shard_that_cannot_begin_leaves_the_others_alone(tmp_path: Path) -> None:
    with shard(tmp_path, "1-of-2").locked():
        for label in ("1-of-2", "1-of-3", ""):
            with pytest.raises(LockedError), shard(tmp_path, label).locked():
                pass
        with shard(tmp_path, "2-of-2").locked():
            pass


def test_results_of_the_same_bytes_do_not_meet_on_the_stage(tmp_path: Path) -> None:
    """Two contents that are copies of each other have one key, and may be in two shards."""
    with shard(tmp_path, "1-of-2").locked(), shard(tmp_path, "2-of-2").locked():
        first, second = shard(tmp_path, "1-of-2"), shard(tmp_path, "2-of-2")
        waiting = staged(first, "a--s", KEY_A)
        publish(second, "copy--s", KEY_A)
        assert first.publish_staged(waiting).read_bytes() == IMAGE
    assert [name for name in files(fresh(tmp_path)) if name.endswith(".png")] == ["a--s.png", "copy--s.png"]


def test_a_shard_publishes_what_it_left_itself_and_not_what_others_are_about_to(tmp_path: Path) -> None:
    staged(shard(tmp_path, "1-of-2"), "a--s", KEY_A)
    with shard(tmp_path, "2-of-2").locked():  # it is alone, and so completes everything
        assert (fresh(tmp_path).path / "a--s.png").is_file()
        staged(shard(tmp_path, "2-of-2"), "b--s", KEY_B)
        half_written = fresh(tmp_path).path / f"{TEMPORARY_PREFIX}x"
        half_written.touch()
        staged(shard(tmp_path, "1-of-2"), "c--s", KEY_A[:-1] + "b")
        with shard(tmp_path, "1-of-2").locked():
            assert (fresh(tmp_path).path / "c--s.png").is_file()
            assert not (fresh(tmp_path).path / "b--s.png").exists()
            assert half_written.exists()
    with shard(tmp_path, "1-of-2").locked():
        assert (fresh(tmp_path).path / "b--s.png").is_file()
        assert not half_written.exists()


@pytest.mark.parametrize("label", ["", "1-of-5"])
def test_another_division_completes_what_an_earlier_one_left(label: str, tmp_path: Path) -> None:
    folder = shard(tmp_path, "2-of-2")
    staged(folder, "a--s", KEY_A)
    (folder.stage.folder / f"{TEMPORARY_PREFIX}x").mkdir()
    with shard(tmp_path, label).locked():
        assert (fresh(tmp_path).path / "a--s.png").is_file()
    assert list(folder.stage.folder.iterdir()) == []


def test_the_summaries_of_shards_are_those_of_their_last_runs(tmp_path: Path) -> None:
    first, second = (shard(tmp_path, label) for label in ("1-of-2", "2-of-2"))
    with first.locked():
        assert first.shards.not_ended() == [1, 2]
        first.shards.write_part({"jobs": 3})
    with second.locked():
        assert second.shards.read_parts() == {1: {"jobs": 3}}
        second.shards.write_part({"jobs": 4})
        assert second.shards.not_ended() == []
    with first.locked():
        assert first.shards.not_ended() == [1]
    with fresh(tmp_path).locked():  # the whole batch: what shards once did says nothing any more
        assert first.shards.read_parts() == {}
    assert fresh(tmp_path).shards.not_ended() == []


def test_what_shards_share_is_written_by_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PATIENCE_S", 0.01)
    with ExitStack() as stack:
        folders = [shard(tmp_path, label) for label in ("1-of-2", "2-of-2")]
        for folder in folders:
            stack.enter_context(folder.locked())
        with (
            folders[0].shards.merging(),
            pytest.raises(LockedError, match="busy for 0 seconds"),
            folders[1].shards.merging(),
        ):
            pass
        with folders[1].shards.merging():
            pass
    with fresh(tmp_path).shards.merging(), fresh(tmp_path).shards.merging():
        pass  # no shards, no lock
