"""Whether a process holds a lock file."""

from __future__ import annotations

from pathlib import Path

import filelock
import pytest

from pipeline.storage.locks import is_locked


def test_a_file_is_locked_while_someone_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    with filelock.FileLock(path):
        assert is_locked(path)
    assert not is_locked(path)
    path.touch()
    assert not is_locked(path)


def test_on_a_disk_without_locks_nothing_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_lock: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    (tmp_path / "lock").touch()
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert not is_locked(tmp_path / "lock")
