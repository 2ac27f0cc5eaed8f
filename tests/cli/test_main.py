"""The command line as a whole: help, version, exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.version import VERSION


def test_version_and_help(cli):
    assert cli("--version") == (0, f"style-pipeline {VERSION}\n", "")
    code, out, _ = cli("--help")
    assert code == 0
    assert all(command in out for command in ("run", "stylize", "presets", "doctor", "weights", "schema"))


@pytest.mark.parametrize("module", ["torch", "pydantic", "numpy", "rich.progress"])
def test_help_imports_nothing_heavy(module):
    code = f"import sys, pipeline.cli.main; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_python_m_pipeline():
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"style-pipeline {VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "sise=3"], "did you mean 'size'"),
        (["--set", "size"], "KEY=VALUE"),
        (["--set", "size=[1"], "not a valid value"),
        (["--set", "alpha=1", "--set", "content_weight=1"], "given twice"),
        (["--preset", "nope"], "is not a preset"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--no-such-flag"], "No such option"),
        (["--device", "banana"], "cuda"),
        (["--set", "content_layers=conv5_2"], "ends at relu5_1"),
    ],
)
def test_wrong_usage_is_exit_code_2(cli, night, arguments, words):
    code, _, err = cli("run", night, *arguments)
    assert code == 2
    assert words in err
    assert not Path("outbox").exists()


def test_a_device_that_is_not_there_is_exit_code_3(cli, night):
    code, _, err = cli("run", night, "--device", "cuda:77")
    assert code == 3
    assert "--device" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["run night.yaml", "stylize a.png s.png", "watch --once"])
def test_the_first_signal_ends_the_reading_of_inputs(studio, night, cli, command, number, monkeypatch):
    def read_for_ever(path, tick):
        signal.raise_signal(number)
        for _ in range(10):
            tick()
        pytest.fail("it continues to read")

    studio.drop("c.png")
    monkeypatch.setattr("pipeline.batch.digests.sha256_of", read_for_ever)
    code, _, err = cli(*command.split())
    assert code == 128 + number, err
    assert not list(Path().rglob("*--s.png"))


HELP = """
import contextlib, io, sys
from pipeline.cli.main import app

for words in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        app([*words.split(), "--help"])
    assert "Usage: " in out.getvalue(), words
    heavy = {"torch", "numpy", "watchdog", "filelock", "starlette", "uvicorn"} & set(sys.modules)
    assert not heavy, (words, heavy)
"""


def test_help_of_every_command_of_the_watch_is_quick():
    commands = ["watch", "status", "retry", "health", "service", "service systemd", "run", "serve"]
    done = subprocess.run(
        [sys.executable, "-c", HELP, *commands], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("--max-failures", "x", "expected a whole number, found 'x'"),
        ("--max-failures", "-1", "must be at least 0, found"),
        ("--workers", "65", "must be at most 64, found"),
    ],
)
def test_a_wrong_flag_is_explained_in_plain_words(cli, night, flag, value, text):
    code, _, err = cli("run", night, flag, value)
    assert code == 2
    assert f"Invalid value for '{flag}': {text}" in err
    assert "Input should be" not in err


def test_every_command_has_a_help_that_fits(cli):
    for command in ((), ("weights",), ("service",)):
        code, out, _ = cli(*command, "--help")
        assert code == 0
        assert "..." not in out.partition("Commands:")[2]
