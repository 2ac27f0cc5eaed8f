from __future__ import annotations

import json
import os
import socket
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from watching import put

from pipeline.errors import DiskError
from pipeline.storage.files import TEMPORARY_PREFIX, Disk
from pipeline.storage.paths import HIDDEN
from pipeline.watch.inbox import Identity, Scan, Seen, scan_inbox
from pipeline.watch.markers import marker_path

linux = pytest.mark.skipif(sys.platform != "linux", reason="leases and mountinfo are Linux'")


def scan(inbox: Path) -> Scan:
    return scan_inbox(inbox, Disk())


def names(seen: tuple[Seen, ...]) -> list[str]:
    return [str(one.relative) for one in seen]


def reasons(found: Scan) -> dict[str, str]:
    return {str(path): reason for path, reason in found.ignored}


@dataclass
class FaultyDisk(Disk):
    """Raises where it is asked to, and calls `after` when a folder was listed."""

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
    def test_identity_shows_a_change(self, inbox: Path, change: str) -> None:
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

    def test_a_path_longer_than_the_system_takes_is_named_and_the_rest_is_found(self, inbox: Path) -> None:
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
    def test_names_that_only_resemble_these(self, inbox: Path, name: str) -> None:
        put(inbox / Path(name).name)
        assert len(scan(inbox).files) == 1

    @pytest.mark.parametrize(
        "name",
        ["__MACOSX", "@eaDir", ".git", "~backup", "#recycle", "$RECYCLE.BIN", "@Recycle", ".Trash-1000",
         "lost+found", "System Volume Information", "x.jpg.download", ".thumbnails"],
    )  # fmt: skip
    def test_folders_that_are_not_scanned(self, inbox: Path, name: str) -> None:
        put(inbox / name / "deep" / "a.png")
        put(inbox / "below" / name / "a.png")
        found = scan(inbox)
        assert found.files == ()
        assert set(reasons(found)) == {name, f"below/{name}"}

    def test_sidecars_raw_files_and_videos_stay_where_they_are(self, inbox: Path) -> None:
        """A card of a camera is copied whole; what is developed from it is what is meant."""
        for name in ("a.jpg", "a.xmp", "a.jpg.xmp", "a.CR3", "b.dng", "b.AAE", "b.MOV", "shoot.raw/c.jpg"):
            put(inbox / name)
        found = scan(inbox)
        assert names(found.files) == ["a.jpg", "shoot.raw/c.jpg"]
        assert set(reasons(found)) == {"a.xmp", "a.jpg.xmp", "a.CR3", "b.dng", "b.AAE", "b.MOV"}
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
        marker = json.dumps({"inode": 1, "size": 2, "mtime_ns": 3}).encode()
        put(marker_path(inbox / "a.png"), marker)
        put(marker_path(inbox / "folder" / "b.png"), marker)
        put(inbox / "folder" / "b.png")
        found = scan(inbox)
        assert (found.markers, found.stray) == ({Path("folder/.b.png.done")}, {Path(".a.png.done")})
        assert found.ignored == ()

    @pytest.mark.parametrize(
        "data", [b"a note", b"", b"{}", b'{"inode": 1, "size": 2}', b'{"inode": 1}' + b" " * 1025]
    )
    def test_a_hidden_file_named_like_a_marker_is_none(self, inbox: Path, data: bytes) -> None:
        put(inbox / ".transfer.done", data)
        assert scan(inbox) == Scan(ignored=((Path(".transfer.done"), "hidden"),))

    def test_a_marker_whose_file_is_ignored_for_a_while_is_kept(self, inbox: Path) -> None:
        marker = put(marker_path(put(inbox / "a.png")), b'{"inode": 1, "size": 2, "mtime_ns": 3}')
        found = scan_inbox(inbox, Disk(), ("a.*",))
        assert (found.files, found.markers, found.stray) == ((), {marker.relative_to(inbox)}, frozenset())

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

    def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_found(self, inbox: Path) -> None:
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
