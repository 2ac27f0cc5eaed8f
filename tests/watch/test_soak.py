"""The commands with the real engine, killed at any moment while someone moves and adds files."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import picture_bytes
from PIL import Image
from watching import Watched, wait_until

from pipeline.storage.files import TEMPORARY_PREFIX

pytestmark = [
    pytest.mark.soak,
    pytest.mark.case(25, "a soak"),
    pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc"),
]

KILLS = 12
# As long as a start with torch and a few jobs take; longer on a busy machine only means fewer jobs a round.
LONGEST_S = 10.0
SIZE = (48, 36)
RECIPE = {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 6, "margin": 0}


def picture(name: str) -> bytes:
    return picture_bytes(name, size=SIZE)


def children(pid: int) -> list[int]:
    """The processes that a process has started, oldest first; none if it is gone."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def ended(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def killed_somewhere(words: list[str], chance: random.Random, meanwhile: Callable[[], None]) -> int:
    """Run a command, kill it at some moment, perhaps a worker of its before; return how many were killed."""
    targets = chance.choice([["worker", "all"], ["all"]])
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for number, target in enumerate(targets):
            for _ in range(4):
                if over(process, chance.uniform(0, LONGEST_S / 4)):
                    return number
                meanwhile()
            workers = children(process.pid)
            if target == "worker" and workers:
                os.kill(chance.choice(workers), signal.SIGKILL)
        process.kill()
    wait_until(lambda: all(ended(pid) for pid in workers), "workers end with their parent")
    return len(targets)


def over(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "pipeline", *map(str, words)]


def finish(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def contents_done(records: list[dict[str, Any]]) -> Counter[str]:
    """How often each content was done, by its digest."""
    return Counter(record["content"]["sha256"] for record in records if record["status"] == "done")


def assert_whole(outbox: Path, pictures: int) -> None:
    """So many pictures, each whole, of the size asked for, and nothing half written beside them."""
    images = list(outbox.glob("*/**/*.png"))
    assert len(images) == pictures
    for path in images:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.load()
        assert image.size == SIZE
    assert [path for path in outbox.rglob("*") if path.name.startswith(TEMPORARY_PREFIX)] == []


class Intruder:
    """Drops pictures into the inbox, and moves those that still lie there to other names and folders."""

    def __init__(self, watched: Watched, chance: random.Random) -> None:
        self.watched, self.chance, self.number = watched, chance, 0

    def __call__(self) -> None:
        self.number += 1
        if self.chance.random() < 0.6:
            self.watched.drop(f"{self.number}.png", picture(f"dropped {self.number}"))
            return
        lying = sorted(path for path in self.watched.inbox.glob("*.png"))
        if lying:
            target = self.watched.inbox / self.chance.choice(["album", ""]) / f"moved {self.number}.png"
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # the daemon was quicker
                self.chance.choice(lying).rename(target)


@pytest.mark.parametrize("seed", [1])
def test_a_daemon_with_the_real_engine(seed: int, tmp_path: Path, record_property: Any) -> None:
    chance, watched = random.Random(seed), Watched(tmp_path, job_timeout_s=60)
    config = watched.configure(recipe=RECIPE, device="cpu", max_attempts=100, checkpoint_s=0.2)
    (watched.inbox / "styles" / "s.png").write_bytes(picture("the style"))
    intruder, kills = Intruder(watched, chance), 0
    while kills < KILLS:
        kills += killed_somewhere(command("watch", "--config", config), chance, intruder)
        watched.assert_nothing_lost()
        watched.assert_nothing_partial()
    finish(command("watch", "--once", "--config", config))
    watched.assert_nothing_lost()
    assert [path for path in watched.originals() if watched.archive not in path.parents] == []
    done = contents_done(watched.records())
    assert set(done.values()) == {1}
    assert len(done) == len(watched.inputs)
    assert_whole(watched.outbox, len(watched.inputs))
    record_property("times", kills)


@pytest.mark.parametrize("seed", [1])
def test_a_run_of_two_workers_with_the_real_engine(seed: int, tmp_path: Path, record_property: Any) -> None:
    chance, photos, aside = random.Random(seed), tmp_path / "photos", tmp_path / "aside"
    for folder in (photos, aside, tmp_path / "styles"):
        folder.mkdir()
    for number in range(8):
        (photos / f"{number}.png").write_bytes(picture(f"photo {number}"))
    for name in ("s", "t"):
        (tmp_path / "styles" / f"{name}.png").write_bytes(picture(f"style {name}"))
    manifest = tmp_path / "night.yaml"
    manifest.write_text(
        yaml.safe_dump({"recipe": RECIPE, "contents": ["photos/*.png"], "styles": ["styles/*.png"]})
    )
    config = tmp_path / "config.yaml"
    settings = {"outbox": "outbox", "state_dir": "state", "cache_dir": "cache", "device": "cpu"}
    config.write_text(yaml.safe_dump({**settings, "max_attempts": 100, "checkpoint_s": 0.2}))
    words = command("run", manifest, "--config", config, "--workers", 2)

    def intrude() -> None:
        """Take a photograph away or bring it back, or add one."""
        if away := sorted(aside.iterdir()):
            away[0].rename(photos / away[0].name)
        elif chance.random() < 0.3:
            number = len(list(photos.iterdir()))
            (aside / "new").write_bytes(picture(f"photo {number}"))
            (aside / "new").rename(photos / f"{number}.png")
        else:
            path = chance.choice(sorted(photos.iterdir()))
            path.rename(aside / path.name)

    kills = 0
    while kills < KILLS:
        kills += killed_somewhere(words, chance, intrude)
    for path in aside.iterdir():
        path.rename(photos / path.name)
    finish(words)
    records = [json.loads(path.read_bytes()) for path in (tmp_path / "outbox").glob("*/logs/**/*.json")]
    done = contents_done(records)
    assert set(done.values()) == {2}  # once with each style
    assert len(done) == len(list(photos.iterdir()))
    # A photograph that was away when its turn came has failed under a name of its own.
    made = [record["key"] for record in records if record["status"] == "done"]
    assert len(set(made)) == len(made) == 2 * len(done)
    assert_whole(tmp_path / "outbox", len(made))
    record_property("times", kills)
