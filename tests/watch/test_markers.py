from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from claimed import ID, OTHER, taken, with_disk
from disks import HookedDisk, failing
from heartbeats import Shown, make_config
from watching import put

from pipeline.storage.files import Disk
from pipeline.watch.claims import Claims
from pipeline.watch.events import Waker
from pipeline.watch.inbox import scan_inbox
from pipeline.watch.markers import marker_path
from pipeline.watch.watcher import Watcher

pytestmark = pytest.mark.usefixtures("no_sync")


class TestMarker:
    def test_lies_beside_its_file(self) -> None:
        assert marker_path(Path("folder/a.png")) == Path("folder/.a.png.done")

    @pytest.mark.parametrize("name", ["n" * 249, "n" * 250, "n" * 255, "é" * 127, "\udcff" * 255])
    def test_is_never_longer_than_a_name_may_be(self, inbox: Path, name: str) -> None:
        marker = marker_path(inbox / name)
        assert len(os.fsencode(marker.name)) <= 255
        if "\udcff" not in name or sys.platform == "linux":
            put(inbox / name)
            put(marker)
            assert scan_inbox(inbox, Disk()).markers == {marker.relative_to(inbox)}

    def test_names_stay_apart(self) -> None:
        assert marker_path(Path("n" * 255)) != marker_path(Path("n" * 254 + "m"))


def test_a_file_that_replaced_one_that_was_left_is_new(claims: Claims) -> None:
    home = claims.leave(taken(claims, "a.png"))
    home.with_name("new").write_bytes(b"picture")
    home.with_name("new").replace(home)
    assert not claims.markers.is_done(Path("a.png"))


def test_a_file_that_was_edited_is_new(claims: Claims) -> None:
    home = claims.leave(taken(claims, "a.png"))
    home.write_bytes(b"another picture")
    assert not claims.markers.is_done(Path("a.png"))


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b"null", b'{"inode": 1}'])
def test_a_marker_that_says_something_else_marks_nothing(claims: Claims, marker: bytes) -> None:
    home = claims.leave(taken(claims, "a.png"))
    marker_path(home).write_bytes(marker)
    assert not claims.markers.is_done(Path("a.png"))


def test_a_marker_is_removed(claims: Claims) -> None:
    home = claims.leave(taken(claims, "a.png"))
    claims.markers.remove(marker_path(Path("a.png")))
    assert not claims.markers.is_done(Path("a.png"))
    assert home.exists()
    claims.markers.remove(marker_path(Path("a.png")))  # gone already


def test_a_marker_is_not_replaced_by_another_drops(claims: Claims) -> None:
    first, second = taken(claims, "a.png", b"1", ID), taken(claims, "a.png", b"2", OTHER)
    assert claims.leave(first) == claims.inbox / "a.png"
    assert claims.leave(second) == claims.archive_folder / "a.png"
    assert claims.markers.is_done(Path("a.png"))


def test_an_original_without_a_possible_marker_goes_to_the_archive(claims: Claims) -> None:
    claim = taken(claims, "a.png")
    long = failing("replace", errno.ENAMETOOLONG, lambda path: path.name.endswith(".done"))
    assert with_disk(claims, long).leave(claim) == claims.archive_folder / "a.png"


def test_a_persons_file_in_the_markers_place_is_not_replaced(claims: Claims) -> None:
    claim = taken(claims, "a.png")
    theirs = put(claims.inbox / ".a.png.done", b"a note")
    assert claims.leave(claim) == claims.archive_folder / "a.png"
    assert theirs.read_bytes() == b"a note"


def watcher_of(claims: Claims, disk: Disk, shown: Shown) -> Watcher:
    return Watcher(make_config(claims.inbox.parent), disk, Waker(claims.inbox, "off"), shown.notify)


def test_only_a_marker_goes_with_its_file(claims: Claims) -> None:
    """A hidden file of such a name, which a person or another program made, stays where it is."""
    home = claims.leave(taken(claims, "sub/a.png"))
    theirs = [put(claims.inbox / name, b"a note") for name in (".transfer.done", "sub/.rsync.done")]
    watcher = watcher_of(claims, Disk(), Shown())
    watcher.scan()
    assert marker_path(home).exists()
    home.unlink()
    watcher.scan()
    assert not marker_path(home).exists()
    assert [path.read_bytes() for path in theirs] == [b"a note"] * 2


def test_a_marker_that_cannot_be_removed_is_mentioned_once_and_stops_nothing(claims: Claims) -> None:
    claims.leave(taken(claims, "sub/a.png")).unlink()
    put(claims.inbox / "b.png")
    shown = Shown()
    watcher = watcher_of(claims, HookedDisk(failing("unlink", errno.EACCES)), shown)
    for _ in range(2):
        watcher.scan()
    (text,) = shown.texts("ignored")
    assert text.startswith("sub/.a.png.done: marks a file that is gone, and cannot be removed (Permission")
    assert not watcher.is_empty
