from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest
from disks import HookedDisk, failing

from pipeline.errors import DiskError, LockedError
from pipeline.storage.files import Disk
from pipeline.watch.owner import PATIENCE_S, Owner, inode_of

# Takes an inbox, says so, and holds it until its stdin ends.
HOLDER = """
import sys
from pathlib import Path
from pipeline.storage.files import Disk
from pipeline.watch.owner import Owner

with Owner(Path(sys.argv[1]), Disk()).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.watch.owner.PATIENCE_S", 0.05)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def owner_of(inbox: Path) -> Owner:
    return Owner(inbox, Disk())


@contextmanager
def holder(inbox: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the inbox."""
    command = [sys.executable, "-c", HOLDER, str(inbox)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_an_inbox_is_held_and_let_go(inbox: Path) -> None:
    owner = owner_of(inbox)
    assert not owner.is_held()
    with owner.held():
        assert owner_of(inbox).is_held()
        owner.check()
        said = owner_of(inbox).holder()
        assert said["pid"] == os.getpid()
        assert said["host"]
        assert said["since"]
    assert not owner_of(inbox).is_held()
    with owner.held():
        pass  # and may be held again


def test_it_is_let_go_after_an_error(inbox: Path) -> None:
    with pytest.raises(KeyboardInterrupt), owner_of(inbox).held():
        raise KeyboardInterrupt
    assert not owner_of(inbox).is_held()


def test_asking_whether_it_is_held_makes_nothing(inbox: Path) -> None:
    assert not owner_of(inbox).is_held()
    assert owner_of(inbox).holder() == {}
    assert not inbox.exists()


def test_a_second_owner_learns_who_the_first_is(inbox: Path) -> None:
    with holder(inbox) as first:
        with pytest.raises(LockedError) as caught, owner_of(inbox).held():
            pass
        assert caught.value.exit_code == 5
        assert str(inbox) in caught.value.message
        assert f"process {first.pid} on " in caught.value.message
        assert "\n" not in str(caught.value)
        assert caught.value.next_step
        assert owner_of(inbox).holder()["pid"] == first.pid  # the second wrote nothing of itself


def test_a_second_owner_in_the_same_process_is_refused_too(inbox: Path) -> None:
    with owner_of(inbox).held(), pytest.raises(LockedError), owner_of(inbox).held():
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_holder_that_is_unknown_is_another_process(inbox: Path, content: bytes) -> None:
    with holder(inbox):
        (inbox / ".style-pipeline/holder.json").write_bytes(content)
        with pytest.raises(LockedError, match="another process is watching it"), owner_of(inbox).held():
            pass


def test_a_killed_owner_leaves_nothing_to_clean(inbox: Path) -> None:
    with holder(inbox) as first:
        assert owner_of(inbox).is_held()
        first.kill()
        first.wait()
        assert not owner_of(inbox).is_held()
        with owner_of(inbox).held():
            assert owner_of(inbox).holder()["pid"] == os.getpid()


def test_a_check_does_not_lose_the_lock(inbox: Path) -> None:
    with holder(inbox):
        assert all(owner_of(inbox).is_held() for _ in range(3))
        with pytest.raises(LockedError):
            owner_of(inbox).take()


def test_a_check_does_not_remove_the_lock_file(inbox: Path) -> None:
    """Whoever opened it just before would hold a lock that nobody else sees."""
    with owner_of(inbox).held():
        pass
    lock = inbox / ".style-pipeline/lock"
    before = inode_of(lock)
    assert not owner_of(inbox).is_held()
    assert inode_of(lock) == before


def test_an_owner_that_starts_during_a_check_waits_for_its_end(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look holds the lock for an instant; it must not make a starting daemon give up."""
    monkeypatch.setattr("pipeline.watch.owner.PATIENCE_S", PATIENCE_S)
    look = owner_of(inbox)
    look.disk.make_folder(look.lock_path.parent)
    looking = filelock.FileLock(look.lock_path)
    looking.acquire()
    # The first pause of the one who waits is when the look ends.
    monkeypatch.setattr("time.sleep", lambda seconds: looking.release())
    with owner_of(inbox).held():
        assert owner_of(inbox).is_held()


# The folder is not what it was


def test_a_folder_that_was_replaced_is_noticed(inbox: Path) -> None:
    owner = owner_of(inbox)
    with owner.held():
        inbox.rename(inbox.with_name("away"))
        for replaced in (False, True):
            if replaced:
                inbox.mkdir()
            with pytest.raises(DiskError, match="is not the folder used before") as caught:
                owner.check()
            assert f"mkdir -p {inbox}/.style-pipeline" in caught.value.next_step
            assert not (inbox / ".style-pipeline").exists()  # nothing is made where a disk is missing
        inbox.rmdir()
        inbox.with_name("away").rename(inbox)
        owner.check()  # it is back


def test_a_folder_made_anew_on_purpose_is_taken(inbox: Path) -> None:
    owner = owner_of(inbox)
    with owner.held():
        shutil.rmtree(inbox)
        (inbox / ".style-pipeline").mkdir(parents=True)
        owner.check()
        assert owner_of(inbox).is_held()
        assert owner_of(inbox).holder()["pid"] == os.getpid()
        owner.check()
    assert not owner_of(inbox).is_held()


def test_a_folder_that_another_took_meanwhile_is_not_ours(inbox: Path) -> None:
    owner = owner_of(inbox)
    with owner.held():
        inbox.rename(inbox.with_name("away"))
        with holder(inbox) as other:
            with pytest.raises(LockedError, match=f"process {other.pid} "):
                owner.check()
            other.kill()
            other.wait()
            owner.check()  # and ours again when that one has gone
            assert owner_of(inbox).is_held()


def test_a_lock_file_that_was_removed_is_made_again(inbox: Path) -> None:
    owner = owner_of(inbox)
    with owner.held():
        (inbox / ".style-pipeline/lock").unlink()
        owner.check()
        with pytest.raises(LockedError), owner_of(inbox).held():
            pass


@pytest.mark.parametrize("operation", ["mkdir", "write", "replace"])
def test_a_folder_that_cannot_be_written_is_named(inbox: Path, operation: str) -> None:
    owner = Owner(inbox, HookedDisk(failing(operation)))
    with pytest.raises(DiskError, match=f"{inbox}: cannot be used") as caught, owner.held():
        pass
    assert caught.value.exit_code == 3


def test_an_inbox_that_is_a_file_is_named(inbox: Path) -> None:
    inbox.write_bytes(b"")
    with pytest.raises(DiskError, match=str(inbox)), owner_of(inbox).held():
        pass
