"""The command line as a whole: help, version, exit codes."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.commands.help import LOOK, MAKE, ORDER, SET_UP, WATCH
from pipeline.cli.main import app
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


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run", "cannot be read (File name too long)"),
        ("try --styles s.png", "cannot be read (File name too long)"),
        ("sheet", "is no batch in"),
        ("stylize a.png s.png -o", "results are PNG"),
    ],
)
def test_a_name_that_no_disk_takes_is_wrong_usage(cli, night, command, words):
    code, _, err = cli(*command.split(), "x" * 300)
    assert code == 2
    assert words in err


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


def every_command(group=None, *names: str) -> list[tuple[tuple[str, ...], Any]]:
    """Return all commands with the words that call them, groups among them."""
    group = group or typer.main.get_command(app)
    found: list[tuple[tuple[str, ...], Any]] = [(names, group)]
    for name, command in getattr(group, "commands", {}).items():
        found += every_command(command, *names, name)
    return found


ALL = every_command()


@pytest.mark.parametrize("words", [words for words, command in ALL if hasattr(command, "commands")])
def test_a_list_of_commands_fits(cli, words):
    code, out, _ = cli(*words, "--help")
    assert code == 0
    lines = out.partition("Examples:")[2].splitlines()[3:] if not words else out.splitlines()
    assert [line for line in lines if "..." in line and "Usage" not in line] == []


def test_commands_are_listed_under_headings(cli):
    out = cli("--help")[1]
    assert [heading for heading in (MAKE, LOOK, WATCH, SET_UP) if f"\n{heading}:\n" not in out] == []
    assert "\nCommands:" not in out


@pytest.mark.parametrize(("words", "command"), ALL, ids=lambda value: str(value))
def test_every_command_shows_examples_that_can_be_parsed(cli, words, command):
    """Its options stand under headings, in the same order everywhere."""
    code, out, _ = cli(*words, "--help")
    assert code == 0
    headings = [line.rstrip(":") for line in out.splitlines() if re.match(r"\w.*:$", line)]
    options = [heading for heading in headings if heading in ORDER]
    assert options == sorted(options, key=ORDER.index)
    if hasattr(command, "commands"):
        return
    examples = (command.epilog or "").splitlines()
    assert examples, "it has no example"
    for example in examples:
        assert f"\n  {example}\n" in out
        line = re.split(r"\s[|>&]", example)[0]
        assert line.split()[1 : 1 + len(words)] == list(words)
        result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--help"])
        assert result.exit_code == 0, f"{line}\n{result.output}"
