"""How threads wait is said before torch is loaded, and the user's word counts; settings that they share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.threads import SharedContext
from pipeline.transfer.devices import list_devices

# Says, at the moment torch is imported, what OpenMP is going to read.
SPY = """
import importlib.abc, os, sys
class Spy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Spy())
"""
COMMAND = "from pipeline.cli.main import main; sys.argv = ['style-pipeline', 'doctor']; main()"
IN_PYTHON = "from pipeline import stylize; stylize('content.png', 'style.png')"


@pytest.mark.parametrize("program", [COMMAND, IN_PYTHON])
@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE 4000"), ("ACTIVE", "ACTIVE None")])
def test_threads_sleep_while_they_wait(program, given, found, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SPY + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == found, done.stderr


def test_a_shared_context_is_entered_by_the_first_and_left_by_the_last():
    said = []

    @contextmanager
    def change() -> Iterator[None]:
        said.append("changed")
        yield
        said.append("restored")

    shared = SharedContext(change)
    for _ in range(2):
        with shared, shared:
            assert said[-1] == "changed"
        assert said[-1] == "restored"
    assert said == ["changed", "restored"] * 2


def test_one_thread_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert list_devices()[-1].label == "CPU, 1 thread"
