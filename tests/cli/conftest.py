"""The commands as a user types them, with the bundled encoder on very small pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from command_line import QUICK, Studio

from pipeline.cli.main import main


@pytest.fixture
def cli(monkeypatch, capfd):
    """Return a function that runs one command line: (exit code, stdout, stderr).

    Pictures are made in this process, unless `--workers` says otherwise.
    """
    monkeypatch.setattr("pipeline.execution.pool.CPU_WORKERS", 1)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["style-pipeline", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capfd.readouterr()
        code = exit_.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture
def night(make_picture, make_manifest) -> Path:
    """Two contents times one style."""
    make_picture("a.png", 0, (64, 48))
    make_picture("b.png", 1, (48, 64))
    make_picture("s.png", 2, (64, 64))
    return make_manifest({"recipe": QUICK, "contents": ["[ab].png"], "styles": ["s.png"]})


@pytest.fixture
def homeless(monkeypatch):
    """A user who is a number: no entry in the system's list, no home, as in a container."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in (
        *(name for name in os.environ if name.startswith("XDG_")),
        "HOME",
        "LOGNAME",
        "USER",
        "LNAME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("USERNAME", raising=False)


@pytest.fixture
def studio(environment, cli, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("pipeline.watch.owner.PATIENCE_S", 0.05)
    made = Studio(environment, cli)
    monkeypatch.setattr("pipeline.execution.pool.watch_executor", lambda settings, tick: made.executor)
    for module in ("executors", "backend"):  # one of them takes the name from the other when it is loaded
        monkeypatch.setattr(f"pipeline.execution.{module}.InProcessExecutor", lambda settings: made.executor)
    return made
