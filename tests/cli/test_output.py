"""What becomes of a command whose output cannot be written: the command itself, as a process."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import picture_bytes

from pipeline.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
# The command as it is, but for the mathematics.
DRIVER = r"""
import sys
from fakes import FakeExecutor
from pipeline.spec.jobs import JobResult
import pipeline.cli.main, pipeline.execution.executors

class Fake(FakeExecutor):
    def _run(self, task, on_step, should_stop):
        if task.job.content.stem == "fault":
            raise ZeroDivisionError("a fault\nof \x1b[31m ours")
        if task.job.content.stem == "broken":
            details = "Traceback (most recent call last):\n  somewhere"
            return JobResult("failed", error="broken.png: unexpected KeyError", details=details)
        if task.job.content.stem.endswith("odd"):
            return JobResult("failed", error="s.png: damaged.", next_step="Copy it again.")
        return super()._run(task, on_step, should_stop)

pipeline.execution.executors.InProcessExecutor = lambda *arguments, **options: Fake({"slow": "wait"})
pipeline.cli.main.main()
"""


@pytest.fixture
def night(environment: Path) -> Path:
    """Three contents times one style."""
    for name in ("a", "b", "字", "s"):
        Path(f"{name}.png").write_bytes(picture_bytes(name))
    path = Path("night.yaml")
    recipe = {"encoder": "vgg19-slim", "size": 16, "pyramid": 0, "steps": 4}
    path.write_text(yaml.safe_dump({"recipe": recipe, "contents": ["[ab字].png"], "styles": ["s.png"]}))
    return path


def command(*words: object, **options: Any) -> subprocess.Popen[bytes]:
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    environment = {**os.environ, **paths, **options.pop("environment", {})}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *map(str, words)],
        env=environment,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def summary() -> dict[str, Any]:
    return json.loads(Path("outbox/night/summary.json").read_text())


def made() -> set[str]:
    return {path.stem for path in Path("outbox/night").glob("*.png")}


ALL = {"a--s", "b--s", "字--s"}


def broken_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def lost_terminal() -> int:
    """A terminal that was closed; writing to it is an input/output error."""
    ours, theirs = pty.openpty()
    os.close(ours)
    return theirs


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("lost", "flags"), [(broken_pipe, []), (lost_terminal, []), (full_disk, []), (full_disk, ["--json"])]
)
def test_a_run_whose_output_is_lost_makes_every_picture(lost, flags, night) -> None:
    stream = lost()
    code, _, _ = ended(command("run", night, "--workers", 1, *flags, stdout=stream, stderr=stream))
    os.close(stream)
    assert code == 0
    assert made() == ALL
    assert summary()["done"] == 3


def test_a_run_whose_reader_leaves_after_the_first_line_makes_every_picture(night) -> None:
    process = command("run", night, "--workers", 1, "--json", stderr=subprocess.DEVNULL)
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    process.wait(60)
    assert first["status"] == "done"
    assert (process.returncode, made()) == (0, ALL)


def test_a_run_with_closed_streams_writes_its_lines_into_no_file(night) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    words = [sys.executable, "-c", DRIVER, "run", str(night), "--workers", "1"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words], env={**os.environ, "PYTHONPATH": paths}
    )
    assert (done.returncode, made()) == (0, ALL)


def test_a_name_that_the_terminal_cannot_show_ends_no_run(night) -> None:
    narrow = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    code, out, err = ended(command("run", night, "--workers", 1, environment=narrow))
    assert (code, made()) == (0, ALL), err
    assert "done \\u5b57--s" in err
    assert "3 done" in out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_picture_is_made_even_if_its_path_cannot_be_printed(night) -> None:
    stream = full_disk()
    code, _, err = ended(command("stylize", "a.png", "s.png", stdout=stream))
    os.close(stream)
    assert (code, Path("a--s.png").exists()) == (0, True), err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["presets"], ["schema", "config"]])
def test_an_answer_that_is_lost_is_the_machines_fault(words) -> None:
    stream = full_disk()
    code, _, err = ended(command(*words, stdout=stream))
    os.close(stream)
    assert code == 3
    assert err.startswith("Error: Standard output cannot be written (No space left on device).")


def test_an_answer_that_nobody_reads_to_its_end_is_no_error() -> None:
    stream = broken_pipe()
    assert ended(command("schema", "config", stdout=stream)) == (0, "", "")
    os.close(stream)


def test_a_terminal_that_closes_stops_a_run_and_its_summary_says_so(night) -> None:
    Path("b.png").rename("slow.png")
    night.write_text(night.read_text().replace("[ab", "*[w"))
    ours, theirs = pty.openpty()
    process = command(
        *("run", night, "--workers", 1),
        **{"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = b""
    while b"1/4" not in shown:  # the live display
        shown += os.read(ours, 65536)
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP
    written = summary()
    assert (written["reason"], written["done"], written["interrupted"], written["not_begun"]) == (
        "stopped",
        0,
        1,
        1,
    )


# Faults that nobody foresaw


def test_an_unforeseen_fault_has_an_exit_code_of_its_own(night) -> None:
    Path("b.png").rename("fault.png")
    night.write_text(night.read_text().replace("[ab", "*[at"))
    code, _, err = ended(command("run", night, "--workers", 1))
    assert code == 70
    assert "Traceback (most recent call last):" in err
    assert "\x1b" not in err
    *_, message, advice = err.splitlines()
    assert message == "Error: unexpected ZeroDivisionError: a fault\\nof \\x1b[31m ours"
    assert "please report it" in advice
    written = summary()
    assert (written["reason"], written["done"]) == ("fault", len(made()))
    assert "a fault" in written["fault"]


def test_stylize_shows_the_traceback_of_a_fault_for_it_leaves_no_record(night) -> None:
    Path("a.png").rename("broken.png")
    code, out, err = ended(command("stylize", "broken.png", "s.png"))
    assert (code, out) == (70, "")
    assert "Traceback (most recent call last):\n  somewhere" in err
    assert "Error: broken.png: unexpected KeyError" in err
    assert "record" not in err
    assert not Path("broken--s.png").exists()


def test_failures_with_one_cause_are_grouped_at_the_end(night) -> None:
    for name in ("a", "b"):
        Path(f"{name}.png").rename(f"{name}-odd.png")
    night.write_text(night.read_text().replace("[ab", "*[d"))
    code, out, err = ended(command("run", night, "--workers", 1))
    assert code == 1
    assert "2 failed" in out
    failed = [line for line in err.splitlines() if line.startswith("failed ")]
    assert failed == ["failed a-odd--s, b-odd--s: s.png: damaged. Copy it again."]


# Names


def test_no_name_forges_a_line_of_an_error(monkeypatch, capfd) -> None:
    for words in (["run", "a\nError: \x1b[31m.yaml"], ["run", "a.yaml", "b\x1b[31m"], ["x\x1b[31m"]):
        monkeypatch.setattr(sys, "argv", ["style-pipeline", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capfd.readouterr()
        assert (exit_.value.code, out) == (2, "")
        assert sum(line.startswith("Error: ") for line in err.splitlines()) == 1
        assert "\x1b" not in err


def test_every_problem_of_a_manifest_has_a_line(monkeypatch, capfd) -> None:
    Path("a\nb.yaml").write_text("contents: 3\nrecipe: {size: big}\nodd: 1\n")
    monkeypatch.setattr(sys, "argv", ["style-pipeline", "run", "a\nb.yaml"])
    with pytest.raises(SystemExit):
        main()
    err = capfd.readouterr().err.splitlines()
    assert all(line.removeprefix("Error: ").startswith("a\\nb.yaml:") for line in err)
    assert len(err) >= 3
