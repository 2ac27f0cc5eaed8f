from __future__ import annotations

import errno
import json
import logging
import re
from pathlib import Path

import pytest

from pipeline.cli import logs
from pipeline.cli.logs import DATE_AND_TIME, JsonFormatter, LineHandler, TextFormatter, logging_to, rotated
from pipeline.errors import DiskError

LOGGER = logging.getLogger("pipeline.somewhere")


def test_a_line_for_people_has_its_time_in_front() -> None:
    lines: list[str] = []
    with logging_to(LineHandler(lines.append, TextFormatter(datefmt=DATE_AND_TIME)), logging.INFO):
        LOGGER.info("read %s", "a\nb\x1b[31m.png")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d read a\\nb\\x1b\[31m\.png", lines[0])


def test_an_object_for_programs_says_who_recorded_what_is_no_event() -> None:
    lines: list[str] = []
    with logging_to(LineHandler(lines.append, JsonFormatter()), logging.INFO):
        LOGGER.warning("odd")
        LOGGER.info("seen", extra={"event": "word", "facts": {"path": "caf\udce9"}})
    odd, seen = map(json.loads, lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", odd.pop("time"))
    assert odd == {"event": "log", "text": "odd", "level": "warning", "logger": "pipeline.somewhere"}
    del seen["time"]
    assert seen == {"event": "word", "text": "seen", "path": "caf\udce9"}


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_is_kept(formatter: logging.Formatter) -> None:
    lines: list[str] = []
    with logging_to(LineHandler(lines.append, formatter), logging.INFO):
        try:
            raise ValueError("a\x1b[31m")
        except ValueError:
            LOGGER.exception("it broke")
    assert "it broke" in lines[0]
    assert "ValueError: a" in lines[0]
    assert "\x1b" not in lines[0]


def test_records_below_the_level_are_left_out_and_what_was_before_comes_back() -> None:
    logger = logging.getLogger("pipeline")
    before = logger.level, logger.propagate, list(logger.handlers)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        lines: list[str] = []
        with logging_to(LineHandler(lines.append, logging.Formatter("%(levelno)s")), level):
            for each in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                LOGGER.log(each, "word")
        assert lines == [str(each) for each in (10, 20, 30, 40) if each >= level]
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_libraries_stay_out_of_the_log() -> None:
    lines: list[str] = []
    with logging_to(LineHandler(lines.append, TextFormatter()), logging.DEBUG):
        for library in ("torch", "watchdog", "PIL"):
            logging.getLogger(library).debug("word")
            logging.getLogger(library).info("word")
    assert lines == []


class Disk:
    """Takes lines as long as it is not full."""

    def __init__(self) -> None:
        self.full = False
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines.append(line)


@pytest.mark.parametrize("as_json", [False, True])
def test_lines_that_cannot_be_written_are_counted(as_json: bool) -> None:
    disk = Disk()
    formatter = JsonFormatter() if as_json else TextFormatter(datefmt=DATE_AND_TIME)
    with logging_to(LineHandler(disk.write, formatter), logging.INFO):
        for number, disk.full in enumerate([False, True, True, True, False, False, True, False]):
            LOGGER.info("line %d", number)
    texts = [json.loads(line)["text"] if as_json else line[20:] for line in disk.lines]
    assert [text for text in texts if text.startswith("line")] == ["line 0", "line 4", "line 5", "line 7"]
    assert [re.findall(r"\d+ lines?$", text) for text in texts] == [[], ["3 lines"], [], [], ["1 line"], []]
    if as_json:
        assert [json.loads(line).get("lines") for line in disk.lines] == [None, 3, None, None, 1, None]


def test_a_line_about_lost_lines_may_be_lost_itself() -> None:
    def write(line: str) -> None:
        if not space:
            raise OSError(errno.ENOSPC, "No space left on device")
        space.pop()
        written.append(line)

    space: list[None] = []
    written: list[str] = []
    with logging_to(LineHandler(write, logging.Formatter()), logging.INFO):
        for places in (0, 1, 2):
            space[:] = [None] * places
            LOGGER.info("line %d", places)
    assert [text.endswith("1 line") or text for text in written] == [True, True, "line 2"]


def test_lines_are_appended_and_old_files_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 30)
    monkeypatch.setattr(logs, "LOG_FILES", 2)
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
