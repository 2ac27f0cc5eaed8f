from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DiskError
from pipeline.storage.files import (
    TEMPORARY_PREFIX,
)
from pipeline.storage.temporary import check_writable, sweep_unfinished, write_file

OLD, NEW = b"the old content", b"the new content, longer"


def below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


class FullFile:
    """A file on a disk that fills up in the middle of a write."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> FullFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        self.file.write(data[:5])
        self.file.flush()
        return int(full_disk())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def break_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", full_disk)
    monkeypatch.setattr("builtins.open", full_disk)
    monkeypatch.setattr(os, "open", full_disk)


def break_write(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda *args, **kw: FullFile(real(*args, **kw)))
    monkeypatch.setattr(os, "write", full_disk)


def break_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)


def break_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", full_disk)
    monkeypatch.setattr(os, "rename", full_disk)


def interrupt_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", interrupt)
    monkeypatch.setattr(os, "rename", interrupt)


BREAKS = [break_open, break_write, break_fsync, break_replace, interrupt_replace]
Break = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
def test_a_file_is_written(there: bool, tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.txt"
    path.parent.mkdir()
    if there:
        path.write_bytes(OLD)
    write_file(path, NEW)
    assert path.read_bytes() == NEW
    assert below(path.parent) == ["a.txt"]


def test_its_folders_are_made(tmp_path: Path) -> None:
    write_file(tmp_path / "b/c/a.txt", NEW)
    assert (tmp_path / "b/c/a.txt").read_bytes() == NEW


def test_a_file_that_can_be_written_is_checked_without_writing_it(tmp_path: Path) -> None:
    path = tmp_path / "out/a.txt"
    for there in (False, True):
        check_writable(path)
        assert below(path.parent) == (["a.txt"] if there else [])
        path.write_bytes(OLD)
    assert path.read_bytes() == OLD
    for refused in (path / "b.txt", tmp_path / ("x" * 300)):
        with pytest.raises(DiskError, match="cannot be written"):
            check_writable(refused)


def test_a_large_and_an_empty_file_are_written(tmp_path: Path) -> None:
    for data in (b"", os.urandom(3 << 20)):
        write_file(tmp_path / "a.bin", data)
        assert (tmp_path / "a.bin").read_bytes() == data


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
def test_a_failure_leaves_the_old_content_and_nothing_beside_it(
    broken: Break, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "a.txt"
    path.parent.mkdir()
    if there:
        path.write_bytes(OLD)
    with monkeypatch.context() as patch:
        broken(patch)
        with pytest.raises((DiskError, KeyboardInterrupt)):
            write_file(path, NEW)
    assert below(path.parent) == (["a.txt"] if there else [])
    assert not there or path.read_bytes() == OLD


def test_what_is_written_is_on_the_disk_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flush the file, rename it, flush the folder; a power cut between any two is harmless."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor)
        kind = "folder" if stat.S_ISDIR(mode.st_mode) else f"file of {mode.st_size}"
        events.append(f"fsync {kind}")
        fsync(descriptor)

    def noted_replace(source: str | Path, target: str | Path) -> None:
        events.append("replace")
        assert Path(source).parent == Path(target).parent
        assert Path(source).name.startswith(TEMPORARY_PREFIX)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_file(tmp_path / "a.txt", NEW)
    assert events == [f"fsync file of {len(NEW)}", "replace", "fsync folder"]


def test_a_reader_sees_the_old_or_the_new_file_never_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen, replace = tmp_path / "a.txt", [], os.replace
    path.write_bytes(OLD)

    def looking(source: str | Path, target: str | Path) -> None:
        seen.append(path.read_bytes())
        replace(source, target)
        seen.append(path.read_bytes())

    monkeypatch.setattr(os, "replace", looking)
    write_file(path, NEW)
    assert seen == [OLD, NEW]


def test_what_is_unfinished_is_hidden() -> None:
    assert TEMPORARY_PREFIX.startswith(".")


@pytest.mark.parametrize("blocked", ["folder", "parent"])
def test_a_place_that_cannot_be_written_is_an_error(blocked: str, tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.txt"
    if blocked == "folder":
        path.mkdir(parents=True)
    else:
        path.parent.write_bytes(OLD)
    before = below(tmp_path)
    with pytest.raises(DiskError, match="cannot be written"):
        write_file(path, NEW)
    assert below(tmp_path) == before


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    """Results are for other programs and people too, as if they had been written with open()."""
    (tmp_path / "plain").write_bytes(b"")
    write_file(tmp_path / "a.txt", NEW)
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


WRITER = """
import sys
from pathlib import Path
from pipeline.storage.temporary import published
with published(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def writing(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is half through a file."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name == "nt", reason="other systems lock otherwise")
def test_a_sweep_leaves_alone_what_a_process_is_writing_and_removes_what_a_dead_one_left(
    tmp_path: Path,
) -> None:
    with writing(tmp_path / "a.bin") as alive, writing(tmp_path / "b.bin") as killed:
        killed.kill()
        killed.wait()
        assert len(below(tmp_path)) == 2
        sweep_unfinished(tmp_path)
        assert len(below(tmp_path)) == 1
        alive.communicate("\n")
    assert below(tmp_path) == ["a.bin"]
    sweep_unfinished(tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"half"


def test_a_sweep_touches_nothing_else_and_never_fails(tmp_path: Path) -> None:
    sweep_unfinished(tmp_path / "absent")
    sweep_unfinished(tmp_path / ("x" * 300))
    (tmp_path / "kept").write_bytes(OLD)
    (tmp_path / ".unfinished-folder").mkdir()
    (tmp_path / ".unfinished-link").symlink_to(tmp_path / "kept")
    sweep_unfinished(tmp_path)
    assert below(tmp_path) == [".unfinished-folder", "kept"]


def test_a_writer_whose_file_was_swept_before_it_was_locked_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = Path.open, []

    def swept(path: Path, *arguments: Any, **keywords: Any) -> Any:
        file = real(path, *arguments, **keywords)
        if path.name.startswith(TEMPORARY_PREFIX):
            opened.append(path)
            if len(opened) == 1:
                path.unlink()
        return file

    monkeypatch.setattr(Path, "open", swept)
    write_file(tmp_path / "a.txt", NEW)
    assert (len(opened), below(tmp_path)) == (2, ["a.txt"])
    assert (tmp_path / "a.txt").read_bytes() == NEW
