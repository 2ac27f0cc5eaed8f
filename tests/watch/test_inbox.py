from __future__ import annotations

import os
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DiskError
from pipeline.storage.files import TEMPORARY_PREFIX, Disk
from pipeline.watch.inbox import HIDDEN, Identity, Scan, Seen, scan_inbox
from pipeline.watch.markers import marker_path
from pipeline.watch.settling import Settling
from pipeline.watch.system import (
    NETWORK_FILE_SYSTEMS,
    file_system_type,
    is_being_written,
    is_network_file_system,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="leases and mountinfo are Linux'")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def put(path: Path, data: bytes = b"data") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def scan(inbox: Path) -> Scan:
    return scan_inbox(inbox, Disk())


def names(seen: tuple[Seen, ...]) -> list[str]:
    return [str(one.relative) for one in seen]


def reasons(found: Scan) -> dict[str, str]:
    return {str(path): reason for path, reason in found.ignored}


@dataclass
class FaultyDisk(Disk):
    """Raises where it is told to, and calls `after` when a folder was listed."""

    faults: dict[Path, OSError] = field(default_factory=dict)
    after: Callable[[Path], None] = lambda folder: None

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        if folder in self.faults:
            raise self.faults[folder]
        entries = super().entries(folder)
        self.after(folder)
        return entries


class TestScan:
    def test_an_empty_inbox(self, inbox: Path) -> None:
        assert scan(inbox) == Scan()

    def test_finds_files_at_every_depth_in_the_order_of_their_paths(self, inbox: Path) -> None:
        for name in ("b.png", "a/z.png", "a/b/c/d.jpg", "a.png", "B.png"):
            put(inbox / name)
        assert names(scan(inbox).files) == ["B.png", "a.png", "a/b/c/d.jpg", "a/z.png", "b.png"]

    def test_identity_is_what_the_disk_says(self, inbox: Path) -> None:
        path = put(inbox / "a.png", b"12345")
        (seen,) = scan(inbox).files
        assert seen == Seen(Path("a.png"), Identity.of(path.stat()))
        assert (seen.identity.size, seen.identity.inode) == (5, path.stat().st_ino)

    @pytest.mark.parametrize("change", ["size", "time", "replaced", "mode"])
    def test_identity_tells_a_change(self, inbox: Path, change: str) -> None:
        path = put(inbox / "a.png")
        before = path.stat()
        if change == "size":
            with path.open("ab") as file:
                file.write(b"more")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif change == "time":
            os.utime(path, ns=(0, 1))
        elif change == "replaced":
            put(inbox / "other.png")
            os.utime(inbox / "other.png", ns=(before.st_atime_ns, before.st_mtime_ns))
            os.replace(inbox / "other.png", path)
        else:
            path.chmod(0o600)
        identity, old = scan(inbox).files[0].identity, Identity.of(before)
        changed = {"size": "size", "time": "mtime_ns", "replaced": "inode", "mode": "ctime_ns"}[change]
        # The clock of the file system may not have ticked since the file was made.
        assert changed == "ctime_ns" or getattr(identity, changed) != getattr(old, changed)
        assert changed != "ctime_ns" or replace(identity, ctime_ns=0) == replace(old, ctime_ns=0)

    def test_a_folder_named_like_a_picture_is_a_folder(self, inbox: Path) -> None:
        put(inbox / "x.png" / "y.png")
        (inbox / "empty.png").mkdir()
        assert names(scan(inbox).files) == ["x.png/y.png"]
        assert scan(inbox).ignored == ()

    @pytest.mark.parametrize(
        "name",
        ["line\nbreak.png", "-rf.png", " .png", "*.png", "a'b\"c.png", "p" * 255, "back\\slash.png",
         "a" * 251 + ".png"],
    )  # fmt: skip
    def test_odd_names_are_kept(self, inbox: Path, name: str) -> None:
        put(inbox / name)
        assert names(scan(inbox).files) == [name]

    @linux
    def test_a_name_that_is_not_utf8_is_kept(self, inbox: Path) -> None:
        name = b"caf\xe9.png"
        put(inbox / os.fsdecode(name))
        (seen,) = scan(inbox).files
        assert os.fsencode(seen.relative) == name
        assert (inbox / seen.relative).read_bytes() == b"data"

    @linux
    def test_two_spellings_of_one_name_are_two_files(self, inbox: Path) -> None:
        spellings = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
        for name in spellings:
            put(inbox / name)
        assert sorted(names(scan(inbox).files)) == sorted(spellings)

    def test_hundreds_of_folders_deep(self, inbox: Path) -> None:
        with descended(inbox, ["d"] * 300) as bottom:
            descriptor = os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=bottom)
            os.close(descriptor)
        assert names(scan(inbox).files) == ["d/" * 300 + "x.png"]

    def test_a_path_longer_than_the_system_takes_is_named_and_the_rest_goes_on(self, inbox: Path) -> None:
        with descended(inbox, ["n" * 250] * 20):
            pass
        put(inbox / "a.png")
        found = scan(inbox)
        assert names(found.files) == ["a.png"]
        ((path, reason),) = found.ignored
        assert path.parts[0] == "n" * 250
        assert reason.startswith("cannot be")

    @pytest.mark.parametrize(
        "name",
        [".hidden.png", "~$open.png", "~a.png", "a.png.part", "A.PNG.PART", "a.tmp", "a.Tmp", "a.crdownload",
         "a.png.CRDOWNLOAD", "Thumbs.db", "THUMBS.DB", "desktop.ini", "Desktop.ini", ".DS_Store",
         "old.jpg~", "b.jpg.partial",
         "b.filepart", "b.jpg.!qB", "a.jpg:Zone.Identifier", "Icon\r"],
    )  # fmt: skip
    def test_files_that_are_none_of_ours(self, inbox: Path, name: str) -> None:
        put(inbox / name)
        put(inbox / "folder" / name)
        put(inbox / "styles" / name)
        found = scan(inbox)
        assert (found.files, found.styles) == ((), ())
        assert set(reasons(found)) == {name, f"folder/{name}", f"styles/{name}"}
        assert all(reasons(found).values())

    @pytest.mark.parametrize(
        "name", ["part.png", "a.part.png", "tmp", "done", "my thumbs.db.png", "~.d/../x~y"]
    )
    def test_names_that_only_look_like_it(self, inbox: Path, name: str) -> None:
        put(inbox / Path(name).name)
        assert len(scan(inbox).files) == 1

    @pytest.mark.parametrize(
        "name",
        ["__MACOSX", "@eaDir", ".git", "~backup", "#recycle", "$RECYCLE.BIN", "@Recycle", ".Trash-1000",
         "lost+found", "System Volume Information", "x.jpg.download", ".thumbnails"],
    )  # fmt: skip
    def test_folders_not_looked_into(self, inbox: Path, name: str) -> None:
        put(inbox / name / "deep" / "a.png")
        put(inbox / "below" / name / "a.png")
        found = scan(inbox)
        assert found.files == ()
        assert set(reasons(found)) == {name, f"below/{name}"}

    def test_sidecars_and_raw_files_stay_where_they_are(self, inbox: Path) -> None:
        """A card of a camera is copied whole; what is developed from it is what is meant."""
        for name in ("a.jpg", "a.xmp", "a.jpg.xmp", "a.CR3", "b.dng", "b.AAE", "shoot.raw/c.jpg"):
            put(inbox / name)
        found = scan(inbox)
        assert names(found.files) == ["a.jpg", "shoot.raw/c.jpg"]
        assert set(reasons(found)) == {"a.xmp", "a.jpg.xmp", "a.CR3", "b.dng", "b.AAE"}
        assert "develop it" in reasons(found)["b.dng"]

    def test_names_that_the_configuration_ignores(self, inbox: Path) -> None:
        for name in ("a_SMALL.jpg", "a.jpg", "Rejected/b.jpg", "styles/s_small.png", "styles/s.png"):
            put(inbox / name)
        found = scan_inbox(inbox, Disk(), ("*_small.*", "rejected", "styles"))
        assert (names(found.files), names(found.styles)) == (["a.jpg"], ["styles/s.png"])
        assert set(reasons(found)) == {"a_SMALL.jpg", "Rejected", "styles/s_small.png"}
        assert "config.yaml" in reasons(found)["Rejected"]

    def test_what_is_neither_file_nor_folder(self, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(inbox.parent / "outside" / "a.png")
        (inbox / "link.png").symlink_to(inbox.parent / "outside" / "a.png")
        (inbox / "folder").symlink_to(inbox.parent / "outside")
        (inbox / "loop").symlink_to(inbox)
        (inbox / "broken.png").symlink_to("nowhere")
        os.mkfifo(inbox / "fifo.png")
        monkeypatch.chdir(inbox)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket.png")
            found = scan(inbox)
        assert found.files == ()
        assert set(reasons(found)) == {
            "link.png", "folder", "loop", "broken.png", "fifo.png", "socket.png",
        }  # fmt: skip
        assert "link" in reasons(found)["link.png"]

    def test_our_own_files_pass_in_silence(self, inbox: Path) -> None:
        put(inbox / HIDDEN / "claimed" / "a.png")
        put(inbox / f"{TEMPORARY_PREFIX}0123")
        put(inbox / "folder" / f"{TEMPORARY_PREFIX}0123")
        put(marker_path(inbox / "a.png"))
        put(marker_path(inbox / "folder" / "b.png"))
        assert scan(inbox) == Scan(markers=frozenset({Path(".a.png.done"), Path("folder/.b.png.done")}))

    def test_our_folders_name_elsewhere_is_somebody_elses(self, inbox: Path) -> None:
        put(inbox / "folder" / HIDDEN / "a.png")
        assert reasons(scan(inbox)) == {f"folder/{HIDDEN}": "hidden"}

    def test_a_folder_named_like_a_marker_is_none(self, inbox: Path) -> None:
        (inbox / ".a.png.done").mkdir()
        put(inbox / "..done")
        put(inbox / ".done")
        found = scan(inbox)
        assert found.markers == frozenset()
        assert set(reasons(found)) == {".a.png.done", "..done", ".done"}

    def test_the_style_library(self, inbox: Path) -> None:
        put(inbox / "styles" / "waves.jpg")
        put(inbox / "styles" / "old" / "mosaic.jpg")
        put(inbox / "other" / "styles" / "job.png")
        put(inbox / "a.png")
        found = scan(inbox)
        assert names(found.styles) == ["styles/waves.jpg"]
        assert names(found.files) == ["a.png", "other/styles/job.png"]
        assert set(reasons(found)) == {"styles/old"}

    def test_a_file_that_vanishes_is_not_there(self, inbox: Path) -> None:
        put(inbox / "a.png")
        put(inbox / "b.png")
        disk = FaultyDisk(after=lambda folder: (inbox / "a.png").unlink())
        found = scan_inbox(inbox, disk)
        assert (names(found.files), found.ignored) == (["b.png"], ())

    def test_a_folder_that_vanishes_is_not_there(self, inbox: Path) -> None:
        put(inbox / "gone" / "a.png")
        put(inbox / "b.png")
        disk = FaultyDisk({inbox / "gone": FileNotFoundError(2, "No such file")})
        found = scan_inbox(inbox, disk)
        assert (names(found.files), found.ignored) == (["b.png"], ())

    def test_a_folder_that_cannot_be_read_is_named_and_the_rest_goes_on(self, inbox: Path) -> None:
        put(inbox / "locked" / "a.png")
        put(inbox / "open" / "b.png")
        found = scan_inbox(inbox, FaultyDisk({inbox / "locked": PermissionError(13, "Permission denied")}))
        assert names(found.files) == ["open/b.png"]
        assert reasons(found) == {"locked": "cannot be read: Permission denied"}

    @pytest.mark.parametrize("number", [2, 5, 13, 20, 116])
    def test_an_inbox_that_cannot_be_read_is_the_machines_fault(self, inbox: Path, number: int) -> None:
        error = OSError(number, os.strerror(number))
        with pytest.raises(DiskError) as raised:
            scan_inbox(inbox, FaultyDisk({inbox: error}))
        assert str(inbox) in raised.value.message
        assert os.strerror(number) in raised.value.message
        assert raised.value.next_step

    def test_an_inbox_that_is_missing_or_a_file(self, inbox: Path) -> None:
        for path in (inbox / "missing", put(inbox / "file")):
            with pytest.raises(DiskError):
                scan(path)

    def test_it_changes_nothing(self, inbox: Path) -> None:
        put(inbox / "a" / "b.png")
        before = [(path, path.lstat().st_ctime_ns) for path in sorted(inbox.rglob("*"))]
        scan(inbox)
        assert [(path, path.lstat().st_ctime_ns) for path in sorted(inbox.rglob("*"))] == before


class TestMarker:
    def test_lies_beside_its_file(self) -> None:
        assert marker_path(Path("folder/a.png")) == Path("folder/.a.png.done")

    @pytest.mark.parametrize("name", ["n" * 249, "n" * 250, "n" * 255, "é" * 127, "\udcff" * 255])
    def test_is_never_longer_than_a_name_may_be(self, inbox: Path, name: str) -> None:
        marker = marker_path(inbox / name)
        assert len(os.fsencode(marker.name)) <= 255
        if "\udcff" not in name or sys.platform == "linux":
            put(marker)
            assert scan(inbox).markers == {marker.relative_to(inbox)}

    def test_names_stay_apart(self) -> None:
        assert marker_path(Path("n" * 255)) != marker_path(Path("n" * 254 + "m"))


class descended:  # noqa: N801
    """Make folders below a folder without a long path; give the descriptor of the last, remove all but it."""

    def __init__(self, top: Path, parts: list[str]) -> None:
        self.top, self.parts = top, parts

    def __enter__(self) -> int:
        self.descriptor = os.open(self.top, os.O_RDONLY)
        for part in self.parts:
            os.mkdir(part, dir_fd=self.descriptor)
            below = os.open(part, os.O_RDONLY, dir_fd=self.descriptor)
            os.close(self.descriptor)
            self.descriptor = below
        return self.descriptor

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def seen(name: str = "a.png", version: int = 0) -> Seen:
    return Seen(Path(name), Identity(1, 2, 3, version, 4))


class TestSettling:
    """Two seconds to settle, a minute at most."""

    @pytest.fixture(autouse=True)
    def _make(self) -> None:
        self.clock, self.written = Clock(), set[Path]()
        self.settling = Settling(self.clock, 2, 60, lambda relative: relative in self.written)

    def observe(self, *files: Seen, after: float = 0) -> list[Seen]:
        self.clock.now += after
        self.settling.observe(files)
        return self.settling.quiet

    def settle(self, *files: Seen) -> None:
        for _ in range(3):
            self.observe(*files, after=1)

    def test_three_observations_over_the_time_are_needed(self) -> None:
        assert self.observe(seen()) == []
        assert self.observe(seen(), after=1) == []
        assert self.observe(seen(), after=1) == [seen()]
        assert self.settling.waiting == 0

    def test_two_observations_are_too_few_however_long(self) -> None:
        assert self.observe(seen()) == []
        assert self.observe(seen(), after=1000) == []
        assert self.observe(seen()) == [seen()]

    def test_many_observations_are_not_enough_in_no_time(self) -> None:
        for _ in range(100):
            assert self.observe(seen(), after=0.01) == []
        assert self.settling.waiting == 1

    def test_time_without_an_observation_settles_nothing(self) -> None:
        for _ in range(3):
            self.observe(seen())
        self.clock.now += 100
        assert self.settling.quiet == []

    @pytest.mark.parametrize("part", ["device", "inode", "size", "mtime_ns", "ctime_ns"])
    def test_a_change_starts_again(self, part: str) -> None:
        changed = replace(seen(), identity=replace(seen().identity, **{part: 99}))
        self.observe(seen())
        self.observe(seen(), after=1)
        assert self.observe(changed, after=1) == []
        assert self.observe(changed, after=1) == []
        assert self.observe(changed, after=1) == [changed]

    def test_a_settled_file_that_changes_starts_again(self) -> None:
        self.settle(seen())
        assert self.observe(seen(version=1), after=1) == []
        assert self.settling.waiting == 1

    def test_going_back_to_an_old_identity_starts_again(self) -> None:
        self.observe(seen(version=0))
        self.observe(seen(version=1), after=1)
        self.observe(seen(version=0), after=1)
        assert self.observe(seen(version=0), after=1) == []
        assert self.observe(seen(version=0), after=1) == [seen(version=0)]

    @pytest.mark.parametrize("version", [-(10**18), 0, 10**20])
    def test_times_of_files_do_not_matter(self, version: int) -> None:
        self.settle(seen(version=version))
        assert self.settling.quiet == [seen(version=version)]

    def test_a_file_that_was_away_starts_again(self) -> None:
        self.observe(seen())
        self.observe(seen(), after=1)
        self.observe(after=1)
        assert self.observe(seen(), after=1) == []

    def test_in_the_order_in_which_they_settled(self) -> None:
        self.observe(seen("z"))
        self.observe(seen("b"), seen("z"), after=1)
        self.observe(seen("a"), seen("b"), seen("z"), after=1)
        assert self.observe(seen("a"), seen("b"), seen("z"), after=1) == [seen("z"), seen("b")]
        assert self.observe(seen("a"), seen("b"), seen("z"), after=1) == [seen("z"), seen("b"), seen("a")]

    def test_settled_at_once_longest_unchanged_first(self) -> None:
        self.observe(seen("z"))
        self.observe(seen("a"), seen("c"), seen("z"), after=0.5)
        self.observe(seen("a"), seen("c"), seen("z"), after=0.5)
        expected = [seen("z"), seen("a"), seen("c")]
        assert self.observe(seen("a"), seen("c"), seen("z"), after=5) == expected

    def test_an_open_writer_holds_it_back(self) -> None:
        self.written.add(Path("a.png"))
        self.settle(seen("a.png"), seen("b.png"))
        assert self.settling.quiet == [seen("b.png")]
        assert self.observe(seen("a.png"), after=1000) == []
        self.written.clear()
        assert self.observe(seen("a.png")) == [seen("a.png")]

    def test_writers_are_asked_for_only_when_all_else_is_well(self) -> None:
        asked: list[Path] = []
        settling = Settling(self.clock, 2, 60, lambda relative: bool(asked.append(relative)))
        for _ in range(5):
            settling.observe([seen()])
            self.clock.now += 0.9
        assert asked == [Path("a.png")]

    def test_an_unreadable_file_comes_back_when_it_changes(self) -> None:
        self.settle(seen(), seen("b"))
        self.settling.mark_unreadable(seen(), "cut off")
        assert self.settling.quiet == [seen("b")]
        assert self.settling.unreadable == {Path("a.png"): "cut off"}
        assert self.settling.waiting == 1
        assert self.observe(seen(), after=10) == []
        self.settle(seen(version=1))
        assert self.settling.quiet == [seen(version=1)]
        assert not self.settling.is_overdue(seen(version=1))
        assert self.settling.unreadable == {}

    def test_an_unreadable_file_comes_back_when_its_time_is_up(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        assert self.observe(seen(), after=57.9) == []
        assert not self.settling.is_overdue(seen())
        assert self.observe(seen(), after=0.1) == [seen()]
        assert self.settling.is_overdue(seen())
        self.settling.mark_unreadable(seen(), "still cut off")
        assert self.settling.quiet == [seen()]

    def test_a_mark_is_for_one_identity(self) -> None:
        self.settle(seen(version=1))
        self.settling.mark_unreadable(seen(version=0), "an old look")
        self.settling.mark_unreadable(seen("unknown"), "never followed")
        assert self.settling.quiet == [seen(version=1)]
        assert not self.settling.is_overdue(seen("unknown"))

    def test_forgetting(self) -> None:
        self.settle(seen(), seen("b"))
        self.settling.forget(seen())
        self.settling.forget(seen("unknown"))
        assert self.settling.quiet == [seen("b")]
        assert self.observe(seen(), seen("b"), after=1) == [seen("b")]

    def test_forgetting_an_old_identity_keeps_the_new_one(self) -> None:
        self.settle(seen(version=1))
        self.settling.forget(seen(version=0))
        assert self.settling.quiet == [seen(version=1)]

    def test_memory_does_not_outlive_the_files(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        self.observe(after=1)
        assert (self.settling.unreadable, self.settling.waiting) == ({}, 0)
        self.settle(seen())
        assert self.settling.quiet == [seen()]

    def test_nothing_is_due_when_nothing_waits(self) -> None:
        assert self.settling.next_due_s() is None
        self.settle(seen())
        assert self.settling.next_due_s() is None

    def test_scans_are_due_often_enough_and_not_too_often(self) -> None:
        self.observe(seen())
        assert self.settling.next_due_s() == 0.5
        self.observe(seen(), after=1.9)
        assert self.settling.next_due_s() == pytest.approx(0.1)
        self.clock.now += 0.09
        assert self.settling.next_due_s() == 0.02
        self.clock.now += 100
        assert self.settling.next_due_s() == 0.02

    def test_a_file_held_open_is_not_asked_for_without_a_pause(self) -> None:
        self.written.add(Path("a.png"))
        self.settle(seen())
        assert self.observe(seen(), after=100) == []
        assert self.settling.next_due_s() == 0.5

    def test_an_unreadable_file_is_due_when_its_time_is_up(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        assert self.settling.next_due_s() == 58
        self.clock.now += 10
        assert self.settling.next_due_s() == 48

    def test_the_soonest_counts(self) -> None:
        self.settle(seen())
        self.settling.mark_unreadable(seen(), "cut off")
        self.observe(seen(), seen("new"), after=1)
        assert self.settling.next_due_s() == 0.5

    def test_following_what_is_due_settles_in_little_more_than_the_time(self) -> None:
        started, scans = self.clock.now, 0
        while not self.observe(seen(), after=self.settling.next_due_s() or 0):
            scans += 1
        assert 2 <= self.clock.now - started <= 2.1
        assert scans <= 6


def steps() -> st.SearchStrategy[list[tuple[float, dict[str, int]]]]:
    """Scans, each after some seconds: which files are there, in which version."""
    files = st.dictionaries(st.sampled_from("abc"), st.integers(0, 1), max_size=3)
    return st.lists(st.tuples(st.sampled_from([0.0, 0.001, 0.5, 1.0, 2.0, 5.0]), files), max_size=30)


@given(steps(), st.sampled_from([0.25, 1.0, 2.0]))
def test_quiet_is_exactly_what_three_equal_looks_over_the_time_say(
    scans: list[tuple[float, dict[str, int]]], settle_s: float
) -> None:
    clock = Clock()
    settling = Settling(clock, settle_s, 60)
    history: list[tuple[float, dict[str, int]]] = []
    for wait, files in scans:
        clock.now += wait
        settling.observe([seen(name, version) for name, version in sorted(files.items())])
        history.append((clock.now, files))
        expected = {seen(name, files[name]) for name in files if has_settled(history, name, settle_s)}
        assert set(settling.quiet) == expected
        assert len(settling.quiet) + settling.waiting == len(files)
        assert (settling.next_due_s() is None) == (settling.waiting == 0)


def has_settled(history: list[tuple[float, dict[str, int]]], name: str, settle_s: float) -> bool:
    """The definition, word by word: the last looks in a row that show the file as it is now."""
    version = history[-1][1][name]
    times = []
    for time, files in reversed(history):
        if files.get(name) != version:
            break
        times.append(time)
    return len(times) >= 3 and times[0] - times[-1] >= settle_s


@given(steps(), st.floats(0.01, 100), st.dictionaries(st.sampled_from("abc"), st.integers(0, 1), min_size=1))
def test_whatever_happened_files_left_alone_become_quiet(
    scans: list[tuple[float, dict[str, int]]], settle_s: float, last: dict[str, int]
) -> None:
    clock = Clock()
    settling = Settling(clock, settle_s, 1000)
    for wait, files in scans:
        clock.now += wait
        settling.observe([seen(name, version) for name, version in files.items()])
    files_ = [seen(name, version) for name, version in last.items()]
    settling.observe(files_)
    started = clock.now
    while (due := settling.next_due_s()) is not None:
        assert clock.now - started <= 1.5 * settle_s + 0.1, "it should have settled"
        clock.now += due
        settling.observe(files_)
    assert set(settling.quiet) == set(files_)


@linux
class TestWriters:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = put(tmp_path / "a.png")
        descriptor = os.open(path, os.O_WRONLY)
        try:
            if not is_being_written(path):
                pytest.skip("no leases on this file system")
        finally:
            os.close(descriptor)
        return path

    @pytest.fixture
    def writer(self, path: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Another process that has the file open until it reads something."""
        code = f"""
f = open({str(path)!r}, "ab")
print(flush=True)
input()
f.close()
print(flush=True)
input()
"""
        with subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            yield process
            process.kill()

    def test_another_process_is_noticed_until_it_closes(
        self, path: Path, writer: subprocess.Popen[bytes]
    ) -> None:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        assert is_being_written(path)
        assert is_being_written(path), "to ask changes nothing"
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        writer.stdout.readline()
        assert not is_being_written(path)

    @pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
    def test_every_way_of_writing(self, path: Path, flags: int) -> None:
        descriptor = os.open(path, flags)
        assert is_being_written(path)
        os.close(descriptor)
        assert not is_being_written(path)

    def test_readers_are_no_writers(self, path: Path) -> None:
        with path.open("rb"):
            assert not is_being_written(path)

    def test_nothing_stays_behind(self, path: Path) -> None:
        """Neither descriptors nor a lease, which would refuse the writer that will not wait."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10_000):
            is_being_written(path)
        with path.open("ab"):
            for _ in range(1000):
                is_being_written(path)
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    def test_a_lease_for_writing_is_a_writer(self, path: Path) -> None:
        """As file servers hold for their clients. The question breaks it, with a signal to its holder."""
        code = f"""
import fcntl, os, signal
signal.signal(signal.SIGIO, lambda number, frame: None)
f = open({str(path)!r}, "r+b")
fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(flush=True)
input()
"""
        with subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert is_being_written(path)
            holder.kill()

    def test_a_writer_that_comes_during_the_lease_ends_nobody(self, path: Path) -> None:
        """The kernel sends a signal then, to whichever thread would take it."""
        code = f"""
import fcntl, os, signal, threading
from pathlib import Path
from pipeline.watch.system import is_being_written

real, refused = fcntl.fcntl, []

def intruding(descriptor, command, argument=0):
    result = real(descriptor, command, argument)
    if command == fcntl.F_SETLEASE and argument == fcntl.F_RDLCK:
        try:
            os.close(os.open({str(path)!r}, os.O_WRONLY | os.O_NONBLOCK))
        except BlockingIOError:
            refused.append(True)
    return result

fcntl.fcntl = intruding
stop = threading.Event()
idle = threading.Thread(target=stop.wait)  # blocks no signals
idle.start()
answers = [is_being_written(Path({str(path)!r})) for _ in range(20)]
stop.set()
idle.join()
assert answers == [False] * 20, answers
assert len(refused) == 20, "the lease was not there"
assert not signal.sigpending()
os.close(os.open({str(path)!r}, os.O_WRONLY | os.O_NONBLOCK))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    def test_what_cannot_be_asked_is_not_being_written(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(path)
        os.mkfifo(tmp_path / "fifo")
        with path.open("ab"):
            assert not is_being_written(tmp_path / "link")
        for name in ("fifo", "missing", "."):
            assert not is_being_written(tmp_path / name)

    @pytest.mark.parametrize("number", [13, 22, 38])
    def test_a_lease_that_is_refused_says_nothing(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        import fcntl

        def refuse(*arguments: object) -> int:
            raise OSError(number, os.strerror(number))

        before = len(os.listdir("/proc/self/fd"))
        with path.open("ab"):
            monkeypatch.setattr(fcntl, "fcntl", refuse)
            assert not is_being_written(path)
        assert len(os.listdir("/proc/self/fd")) == before


def test_elsewhere_writers_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.png")
    monkeypatch.setattr(sys, "platform", "darwin")
    with path.open("ab"):
        assert not is_being_written(path)


MOUNTS = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
40 21 0:50 / /mnt/share rw,relatime shared:20 master:3 - nfs4 server:/export rw,addr=10.0.0.1
41 40 8:2 / /mnt/share/local rw - xfs /dev/sdb1 rw
42 21 0:51 / /mnt/my\040photos\134\011x rw - cifs //nas/my\040photos rw
43 21 0:52 / /mnt/twice rw - ext4 /dev/sdc1 rw
44 43 0:53 / /mnt/twice rw - fuse.sshfs me@there: rw
45 21 0:54 / /mnt/none rw - tmpfs - - tmpfs rw
46 21 8:3 /sub - dir /odd rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/me/inbox", "ext4"),
        ("/", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/inbox/deep", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/share/local/inbox", "xfs"),
        ("/mnt/my photos\\\tx/inbox", "cifs"),
        ("/mnt/twice/inbox", "fuse.sshfs"),
        ("/mnt/none", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path(path: str, expected: str) -> None:
    assert file_system_type(Path(path), MOUNTS) == expected


@pytest.mark.parametrize(
    "text", ["", "\n\n", "nonsense", "1 2 3 - ext4", "1 2 3:4 / /elsewhere rw - ext4 a rw"]
)
def test_no_file_system_is_known(text: str) -> None:
    assert file_system_type(Path("/home"), text) == ""


def test_which_file_systems_are_on_the_network() -> None:
    assert {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.rclone"} <= NETWORK_FILE_SYSTEMS
    assert (
        not {"ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "vfat", "fuse", ""} & NETWORK_FILE_SYSTEMS
    )


@linux
def test_proc_is_no_network() -> None:
    assert not is_network_file_system(Path("/proc/self"))


@linux
def test_a_share_is_known_by_its_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share"
    (share / "inbox").mkdir(parents=True)
    (tmp_path / "link").symlink_to(share / "inbox")
    lines = f"1 0 8:1 / / rw - ext4 a rw\n2 1 0:9 / {share} rw - cifs b rw\n".encode()
    monkeypatch.setattr(Path, "read_bytes", lambda self: lines)
    assert is_network_file_system(share / "inbox")
    assert is_network_file_system(tmp_path / "link")
    assert not is_network_file_system(tmp_path)
