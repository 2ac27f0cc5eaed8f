from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from disks import deep_folders

from pipeline.errors import DiskError
from pipeline.storage.files import (
    Disk,
    disk_errors,
    is_inside,
    make_private,
    parse_json_object,
    read_json_object,
    sha256_of,
    walk,
)


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(os.name == "nt", reason="other systems tell rights otherwise")
def test_private_folders_are_the_owners_and_those_there_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for _ in range(2):
        make_private(tmp_path / "state" / "checkpoints")
        modes = [path.stat().st_mode & 0o777 for path in (tmp_path, *sorted(tmp_path.rglob("*")))]
        assert modes == [0o755, 0o700, 0o700]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_what_has_no_size_and_no_end_is_no_file_to_hash() -> None:
    with pytest.raises(OSError, match="more than the size of the file"):
        sha256_of(Path("/proc/self/pagemap"), lambda: None)


def test_folders_are_made_and_walked_however_deep(tmp_path: Path) -> None:
    with deep_folders(tmp_path) as deep:
        Disk().make_folder(deep)
        (deep / "file").write_bytes(b"")
        (tmp_path / "link").symlink_to(deep)
        found = list(walk(tmp_path))
    assert len(found) == 1_002
    assert found[-1].path == str(deep / "file")


def test_what_cannot_be_read_is_passed_over_or_raised(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    assert [entry.name for entry in walk(tmp_path / "absent", strict=False)] == []
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a.png", True),
        ("sub/new/a.png", True),
        ("sub/../a.png", True),
        ("link", True),
        ("link/a.png", False),
        ("loop/a.png", False),
        ("../a.png", False),
        ("sub/../../a.png", False),
        ("..", False),
        ("", False),
        ("/etc/passwd", False),
        ("a\0", False),
    ],
)
def test_what_is_inside_a_folder(name: str, inside: bool, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    assert is_inside(folder / name, folder) == inside


def test_a_refusal_of_the_system_names_the_file_and_what_to_check() -> None:
    with pytest.raises(DiskError) as caught, disk_errors(Path("/out"), "cannot be written"):
        full_disk()
    assert caught.value.message == "/out: cannot be written (No space left on device)."
    assert caught.value.next_step == "Check that the disk is there, writable and not full."
    with pytest.raises(DiskError, match="Check that no file is where a folder should be"), disk_errors():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", "/out/a")
    with (
        pytest.raises(DiskError, match="/in/a: cannot be used") as caught,
        disk_errors(next_step="Mount it."),
    ):
        raise OSError(errno.EIO, "Input/output error", "/in/a")
    assert caught.value.next_step == "Mount it."


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000])
def test_json_that_is_damaged_or_no_object_is_an_empty_one(data: bytes, tmp_path: Path) -> None:
    assert parse_json_object(data) == {}
    (tmp_path / "a.json").write_bytes(data)
    assert read_json_object(tmp_path / "a.json") == {}


def test_a_json_object_is_read_from_a_file_and_absent_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"key": 1}')
    assert read_json_object(tmp_path / "a.json") == {"key": 1}
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "a.json/b", tmp_path / ("x" * 300)):
        assert read_json_object(path) == {}


def test_a_file_that_cannot_be_read_now_is_not_taken_for_an_absent_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("builtins.open", full_disk)
    with pytest.raises(OSError, match="No space"):
        read_json_object("a.json")


def test_too_little_free_space_is_an_error_and_so_is_a_disk_that_is_gone(tmp_path: Path) -> None:
    disk = Disk()
    disk.free_bytes = lambda folder: 5 << 20  # type: ignore[method-assign]
    assert disk.require_free(tmp_path, 5 << 20) == 5 << 20
    with pytest.raises(DiskError, match="5 MB free, 6 MB needed"):
        disk.require_free(tmp_path, 6 << 20)
    with pytest.raises(DiskError, match="gone: cannot be used"):
        Disk().require_free(tmp_path / "gone", 0)
