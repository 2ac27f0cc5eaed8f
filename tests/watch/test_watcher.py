"""What of the watcher is best seen from within; the rest is in test_daemon and test_faults_*."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.spec.config import Config, WatchConfig
from pipeline.storage.files import Disk
from pipeline.watch import library
from pipeline.watch.events import Waker
from pipeline.watch.settling import OBSERVATIONS
from pipeline.watch.watcher import Watcher


def test_the_library_is_read_once_however_many_styles_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "styles").mkdir(parents=True)
    for number in range(20):
        (inbox / "styles" / f"{number}.png").touch()
    now, read, style_paths = [0.0], [], library.style_paths

    def counted(*arguments: object) -> object:
        read.append(arguments)
        return style_paths(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(library, "style_paths", counted)
    watching = Watcher(
        Config(watch=WatchConfig(inbox=inbox, settle_s=1)).resolved(tmp_path),
        Disk(),
        Waker(inbox, "off"),
        lambda kind, text, **facts: None,
        lambda: now[0],
    )
    for _ in range(OBSERVATIONS):
        watching.scan()
        now[0] += 1
    for number, seen in enumerate(watching.library.unchecked()):
        watching.library.note_check(seen, "" if number else "no picture")
    assert sum(path is not None for path in watching.library.paths.values()) == 19
    assert len(watching.library.known) == 20
    assert len(read) == 1
