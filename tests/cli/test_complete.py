"""What Tab offers, by the protocol of each shell, and in a real bash."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipeline.cli.commands import complete

ROOT = Path(__file__).parents[2]


@pytest.fixture
def offered(cli, monkeypatch):
    """Return a function that says what bash is offered for a line, of which the last word is incomplete."""

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_STYLE_PIPELINE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["style-pipeline", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        code, out, err = cli()
        assert (code, err) == (0, "")
        return [line for line in out.splitlines() if line]

    return complete


@pytest.fixture
def house(environment: Path) -> Path:
    """Two batches, two quarantined files, and an inbox, at places that config.yaml names."""
    for batch in ("night", "my batch", "no-batch"):
        (environment / "results" / batch).mkdir(parents=True)
        (environment / "results" / batch / ".lock").touch()
    (environment / "results/no-batch/.lock").unlink()
    for number, name in enumerate(("a.jpg", "my photo.jpg")):
        folder = environment / f"bad/{number}"
        folder.mkdir(parents=True)
        (folder / name).touch()
        (folder / "error.json").write_text(json.dumps({"path": name}))
    config = {"outbox": "results", "watch": {"inbox": "drop", "quarantine": "bad"}}
    (environment / "config.yaml").write_text(yaml.safe_dump(config))
    return environment


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("st", {"stylize", "status"}),
        ("weights ", {"show", "import"}),
        ("run --pres", {"--preset"}),
        ("run --preset dr", {"draft"}),
        ("run --preset=dr", {"draft"}),
        ("presets gatys", {"gatys-adam", "gatys-lbfgs"}),
        ("run --device c", {"cpu", "cuda"}),
        ("schema ", {"manifest", "config"}),
        ("hooks pa", {"paused"}),
        ("run over", set()),  # bash itself then offers files
        ("stylize me.jpg sc", set()),
        ("run --set str", set()),
    ],
)
def test_names_are_completed(offered, line, words) -> None:
    assert set(offered(line)) == words


def test_batches_and_quarantined_files_are_completed_as_bash_takes_them(offered, house) -> None:
    assert offered("sheet ") == ["my\\ batch", "night"]
    assert offered("sheet ni") == ["night"]
    assert offered("retry ") == ["a.jpg", "my\\ photo.jpg"]


def test_flags_before_say_where_to_look(offered, house) -> None:
    other = house / "other"
    (other / "outbox/evening").mkdir(parents=True)
    (other / "outbox/evening/.lock").touch()
    (other / "config.yaml").write_text("")
    assert offered("sheet --config other/config.yaml ") == ["evening"]
    assert offered("sheet --outbox other/outbox ") == ["evening"]


@pytest.mark.parametrize(
    "text",
    [
        "outbox: [",
        "outbox: {a: 1}\nwatch: 3\n",
        "- a\n",
        "\0",
        "outbox: ~no-such-user\nwatch: {quarantine: ~no-such-user}\n",
    ],
)
def test_a_configuration_with_mistakes_offers_nothing_and_says_nothing(offered, house, text) -> None:
    (house / "config.yaml").write_text(text)
    assert offered("sheet ") == []
    assert offered("retry ") == []


def test_names_that_no_shell_could_show_are_left_out(offered, house) -> None:
    (house / "results/a\nb").mkdir()
    (house / "results/a\nb/.lock").touch()
    assert offered("sheet a") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_names_with_what_they_are(cli, house, monkeypatch, shell) -> None:
    monkeypatch.setenv("_STYLE_PIPELINE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "style-pipeline sheet m")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert "my batch" in cli()[1]
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "style-pipeline sheet --im")
    out = cli()[1]
    assert "--image" in out
    assert "to send by mail" in out


COMPLETION = """
import sys, pipeline.cli.main as main
sys.argv = ["style-pipeline"]
try:
    main.main()
except SystemExit:
    pass
print(sorted({"torch", "numpy", "uvicorn", "pipeline.spec.config"} & set(sys.modules)))
"""


def test_completion_loads_nothing_heavy(house) -> None:
    environment = {**os.environ, "_STYLE_PIPELINE_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    environment |= {"COMP_WORDS": "style-pipeline\nsheet\nn", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETION], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "night\n[]\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_once_it_is_installed(house, monkeypatch) -> None:
    """As a person does it: install, start another shell, press Tab."""
    command = house / "bin/style-pipeline"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pipeline "$@"\n')
    command.chmod(0o755)
    home = house / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def bash(script: str) -> str:
        # `:` after it: else bash would become the last program, which then finds no shell above it.
        run = ["bash", "--norc", "-c", f"{script}\n:"]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "bash completion installed" in bash("style-pipeline --install-completion")
    tab = """
    source ~/.bashrc
    COMP_WORDS=(style-pipeline sheet my) COMP_CWORD=2
    $(complete -p style-pipeline | sed 's/.*-F \\([^ ]*\\).*/\\1/') style-pipeline
    printf '<%s>\\n' "${COMPREPLY[@]}"
    """
    assert bash(tab) == "<my\\ batch>\n"
    assert "complete -o default -F" in bash("style-pipeline --show-completion")


def test_a_home_that_cannot_be_written_is_named(cli, house, monkeypatch) -> None:
    """Some people's .bashrc belongs to a program that manages it."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/home/me/.bashrc")

    monkeypatch.setattr("typer.completion.install", refuse)
    code, _, err = cli("--install-completion")
    assert code == 3
    assert err.startswith("Error: /home/me/.bashrc: cannot be written (Permission denied).\n")
    assert "--show-completion" in err


def test_pictures_that_wait_are_completed_wherever_they_lie(house, monkeypatch) -> None:
    """No styles, no hidden files, no other files."""
    for name in ("a.jpg", "monet/b c.png", "deep/er/d.webp", "styles/s.jpg", ".e.jpg", "notes.txt"):
        path = house / "drop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    context = SimpleNamespace(params={})
    assert complete.waiting(context, "") == ["a.jpg", "deep/er/d.webp", "monet/b c.png"]  # type: ignore[arg-type]
    monkeypatch.setattr(complete, "MOST_FILES", 0)
    assert complete.waiting(context, "") == []  # type: ignore[arg-type]
