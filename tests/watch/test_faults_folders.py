"""Folders that lie in one another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import picture_bytes
from faults import case

from pipeline.cli.main import main

# 20: folders in one another
PLACES = ["outbox", "state_dir", "cache_dir", "archive", "quarantine"]


def nested_config(folder: Path, key: str, place: str) -> Path:
    """A configuration with one folder at `place`, the others where they belong."""
    config: dict[str, Any] = {
        "outbox": "outbox", "state_dir": "state", "cache_dir": "cache", "recipe": {"encoder": "vgg19-slim"},
        "watch": {"inbox": "inbox", "notify": "off"},
    }  # fmt: skip
    (config["watch"] if key in {"archive", "quarantine", "inbox"} else config)[key] = place
    (folder / "inbox").mkdir()
    (folder / "inbox" / "a.png").write_bytes(picture_bytes("a"))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@case(20)
@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("how", ["inside", "the same", "through a link", "inbox inside", "a link to above"])
def test_folders_in_one_another_are_refused(
    tmp_path: Path, key: str, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"inside": "inbox/deep/er", "the same": "inbox", "inbox inside": "."}.get(how, "way")
    config = nested_config(tmp_path, key, place)
    if how == "through a link":
        (tmp_path / "way").symlink_to(tmp_path / "inbox")
    if how == "a link to above":
        (tmp_path / "way").symlink_to(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr(sys, "argv", ["style-pipeline", "watch", "--once", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "inbox") in error
    assert key.removesuffix("_dir") in error
    assert tree(tmp_path) == before, "something was made"


@case(20)
def test_the_command_itself_refuses_them(tmp_path: Path) -> None:
    """An inbox that is a link into the outbox, as a process."""
    config = nested_config(tmp_path, "inbox", "way")
    (tmp_path / "outbox" / "in").mkdir(parents=True)
    (tmp_path / "way").symlink_to(tmp_path / "outbox" / "in")
    before = tree(tmp_path)
    command = [sys.executable, "-m", "pipeline", "watch", "--once", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "outbox" in done.stderr
    assert tree(tmp_path) == before
