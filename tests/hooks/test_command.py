"""Commands of the user, run for real: what they inherit, how they end, and what is left of them."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.hooks import command
from pipeline.hooks.command import Ended, run_command

IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def run(
    *words: str,
    data: bytes = b"",
    timeout_s: float = 30.0,
    folder: Path | None = None,
    must_end: Callable[[], bool] = lambda: False,
    **variables: str,
) -> Ended:
    return run_command(words, data, folder or Path.cwd(), timeout_s, variables, must_end)


def python(code: str, **more) -> Ended:
    return run(sys.executable, "-c", code, **more)


def is_there(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 10
    while is_there(pid):
        assert time.monotonic() < until, f"process {pid} is still there"


def test_it_gets_the_data_and_the_variables_and_its_folder(environment: Path) -> None:
    (environment / "there").mkdir()
    ended = run(
        "sh", "-c", 'cat; echo "$WORD"; pwd', data=b"data\n", folder=environment / "there", WORD="a b"
    )
    assert ended.problem == ""
    assert ended.output == ("data", "a b", str(environment / "there"))


def test_no_shell_reads_the_words() -> None:
    assert run("echo", "$HOME", "*", "a b", ";", "`id`").output == ("$HOME * a b ; `id`",)


def test_what_goes_wrong_is_said(environment: Path) -> None:
    assert run("sh", "-c", "echo why >&2; exit 3") == Ended(
        "it ended with exit code 3", ("why",), pytest.approx(0, abs=30)
    )
    assert run("sh", "-c", "kill -9 $$").problem == "it was ended by signal 9"
    assert run("no-such-program").problem == "it cannot be started (No such file or directory)"
    assert "cannot be started" in run("true", folder=environment / "absent").problem
    assert "cannot be started" in run("true", WORD="a\0b").problem


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
def test_it_inherits_no_descriptor_and_no_terminal(environment: Path) -> None:
    with open(environment / "lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        code = "print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1], os.getsid(0) == os.getpid())"
        ended = python(f"import os; {code}")
    assert ended.output == ("[0, 1, 2] True",)


def test_one_that_reads_nothing_and_one_that_writes_much_end_like_any_other() -> None:
    much = json.dumps("x" * 1_000_000).encode()
    assert run("true", data=much).problem == ""
    ended = python("for i in range(30_000): print(i, 'x' * 100)")
    assert ended.problem == ""
    assert len(ended.output) == command.KEPT_LINES + 1
    assert ended.output[-1].endswith("more lines)")


def test_one_that_floods_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "OUTPUT_BYTES", 100_000)
    ended = run("yes")
    assert "wrote more than" in ended.problem
    assert not ended.was_late


def test_one_that_hangs_is_ended_with_all_its_processes(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if they ignore TERM."""
    monkeypatch.setattr(command, "TERM_S", 0.1)
    child = f"{IGNORES_TERM}; open('child', 'w').write(str(__import__('os').getpid())); time.sleep(1000)"
    code = f"""{IGNORES_TERM}
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", {child!r}])
while not os.path.exists("child") or not open("child").read(): pass
open("ready", "w").close()
time.sleep(1000)"""
    began = time.monotonic()
    ended = python(code, must_end=lambda: Path("ready").exists())
    assert ended.problem == "it was ended, as style-pipeline ends"
    assert time.monotonic() - began < 20
    wait_until_gone(int(Path("child").read_text()))


def test_what_it_started_has_time_to_clean_up_though_it_ended_itself(environment: Path) -> None:
    child = """import os, signal, time
def clean(*_):
    time.sleep(0.1)
    open("cleaned", "w").close()
    os._exit(0)
signal.signal(signal.SIGTERM, clean)
open("ready", "w").close()
time.sleep(1000)"""
    start = f"subprocess.Popen([sys.executable, '-c', {child!r}])"
    python(
        f"import subprocess, sys, time; {start}; time.sleep(1000)",
        must_end=lambda: Path("ready").exists(),
    )
    assert Path("cleaned").exists()


def test_one_whose_time_is_over_was_late() -> None:
    ended = run("sh", "-c", "echo begun; exec sleep 1000", timeout_s=0.3)
    assert ended.problem == "it was ended, as its time was over (timeout_s)"
    assert ended.was_late
    assert ended.output == ("begun",)
    assert 0.3 <= ended.seconds < 20


def test_what_it_leaves_behind_is_not_waited_for_and_lives_on(environment: Path) -> None:
    """A browser that was opened, say. It keeps the output open, too."""
    began = time.monotonic()
    ended = run("sh", "-c", "sleep 1000 & echo $!")
    assert ended.problem == ""
    assert time.monotonic() - began < 20
    (pid,) = map(int, ended.output)
    assert is_there(pid)
    os.kill(pid, 9)


def test_odd_bytes_and_empty_lines_in_its_output_do_no_harm() -> None:
    ended = python(r"import os; os.write(1, b'\xff\n\n  \na\r\n' + b'y' * 2000)")
    assert ended.output == ("�", "a", "y" * command.KEPT_CHARACTERS)


def test_it_works_without_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert run("cat", data=b"data").output == ("data",)


def test_it_is_run_from_any_thread() -> None:
    found: list[Ended] = []
    threads = [threading.Thread(target=lambda: found.append(run("echo", "a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [ended.output for ended in found] == [("a",)] * 4
