"""What of the watcher is best seen from within; the rest is in test_daemon and test_faults_*."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.spec.config import WatchConfig
from pipeline.storage.files import Disk
from pipeline.watch import watcher
from pipeline.watch.claims import Claims
from pipeline.watch.events import Waker
from pipeline.watch.inbox import OBSERVATIONS


def test_the_library_is_read_once_however_many_styles_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "styles").mkdir(parents=True)
    for number in range(20):
        (inbox / "styles" / f"{number}.png").touch()
    now, read, read_library = [0.0], [], watcher.read_library

    def counted(*arguments: object) -> object:
        read.append(arguments)
        return read_library(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(watcher, "read_library", counted)
    claims = Claims(inbox, tmp_path / "archive", tmp_path / "quarantine", Disk())
    watching = watcher.Watcher(
        WatchConfig(inbox=inbox, settle_s=1),
        claims,
        Disk(),
        Waker(inbox, "off"),
        lambda kind, text, **facts: None,
        lambda: now[0],
    )
    for _ in range(OBSERVATIONS):
        watching.look()
        now[0] += 1
    for number, seen in enumerate(watching.unjudged_styles()):
        watching.judge_style(seen, "" if number else "no picture")
    assert sum(path is not None for path in watching.library.values()) == 19
    assert len(watching.known_styles) == 20
    assert len(read) == 1
