from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import logfile
from pipeline.cli.logfile import rotated
from pipeline.errors import DiskError


def test_lines_are_appended_and_old_files_kept_up_to_a_number(monkeypatch) -> None:
    monkeypatch.setattr(logfile, "LOG_BYTES", 30)
    monkeypatch.setattr(logfile, "LOG_FILES", 2)
    for line in ("one", "two"):
        with rotated(Path("there/log")) as write:
            write(f"{line:>10}")
    assert [path.name for path in Path("there").iterdir()] == ["log"]
    with rotated(Path("there/log")) as write:
        for number in range(6):
            write(f"{number:>10}")
    kept = sorted(path.name for path in Path("there").iterdir())
    assert kept == ["log", "log.1", "log.2"]
    assert Path("there/log").read_text().split() == ["4", "5"]


def test_a_file_that_cannot_be_opened_is_the_machines_fault() -> None:
    Path("file").touch()
    with pytest.raises(DiskError, match="cannot be written") as caught, rotated(Path("file/log")):
        pass
    assert "--log-file" in caught.value.next_step


if Path("/dev/full").exists():

    def test_a_refused_line_is_raised_and_never_written_later() -> None:
        log = Path("log")
        log.symlink_to("/dev/full")
        with rotated(log) as write:
            with pytest.raises(OSError, match="space"):
                write("lost")
            log.unlink()
            write("kept")
        assert log.read_text() == "kept\n"
