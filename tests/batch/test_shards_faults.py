"""Shards share an outbox: real processes, side by side, killed at every point."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import picture_bytes
from PIL import Image

from pipeline.spec.shards import Shard

DRIVER = Path(__file__).parents[1] / "shard_driver.py"
# What a run that was killed is completed by: the same shards, the whole batch, or another division of it.
LATER = (["1/2", "2/2"], [""], ["1/3", "2/3", "3/3"])
TWO = Shard(1, 2)
# Some in each of two shards.
LETTERS = "abcghi"


class Shards:
    """A process that forks shards: quicker than an interpreter for each."""

    def __init__(self) -> None:
        command = [sys.executable, str(DRIVER)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, folder: Path, *runs: tuple[str, int | None]) -> list[tuple[int, int]]:
        """Run shards at once; return the exit code of each, and how many points it passed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), "runs": runs}) + "\n")
        self.process.stdin.flush()
        return [tuple(each) for each in json.loads(self.process.stdout.readline())]


@pytest.fixture(scope="module")
def shards() -> Iterator[Shards]:
    server = Shards()
    yield server
    server.process.communicate()


def prepare(folder: Path) -> Path:
    """Seven jobs in two shards: two of them have the same bytes, in different shards; two the same name."""
    names = [f"photos/{letter}" for letter in LETTERS]
    first, second = (next(n for n in names if TWO.number_of(f"{n[-1]}--s") == number) for number in (1, 2))
    seeds = {name: name for name in names} | {second: first, "more/b": "more"}
    for name, seed in seeds.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(seed))
    (folder / "s.png").write_bytes(picture_bytes("style"))
    manifest = {"contents": ["photos/*.png", "more/b.png"], "styles": ["s.png"]}
    (folder / "night.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def pictures(folder: Path) -> list[str]:
    found = [path for path in (folder / "outbox/night").rglob("*.png") if ".s" not in str(path.parent)]
    for path in found:
        Image.open(io.BytesIO(path.read_bytes())).load()
    return sorted(path.name for path in found)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_bytes()) for path in (folder / "outbox/night/logs").glob("*.json")]
    assert all(record["status"] == "done" for record in found)
    return {record["image"]: record for record in found}


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "outbox/night/summary.json").read_bytes()))


def check_now(folder: Path) -> None:
    """What holds at every moment: what can be seen is whole, and a record names a picture that is there."""
    there = pictures(folder)
    assert set(records(folder)) <= set(there)


def check_end(folder: Path) -> None:
    """What holds when all is done: each picture once, under one name, and nothing is left over."""
    there = pictures(folder)
    assert len(there) == 7
    assert [name for name in there if len(name) == len("a--s.png")] == [
        f"{letter}--s.png" for letter in LETTERS
    ]
    assert set(records(folder)) == set(there)
    for name, record in records(folder).items():
        assert (folder / "outbox/night" / name).read_bytes() == picture_bytes(record["key"])
    contents = [record["content"]["path"] for record in records(folder).values()]
    assert len(set(contents)) == 7
    left = [path for path in folder.rglob("*") if path.name.startswith(".unfinished-")]
    left += [path for stage in folder.rglob("*.staged") for path in stage.iterdir()]
    assert left == []
    counted = summary(folder)
    assert counted["jobs"] == counted["done"] + counted["skipped"] == 7
    assert sorted(each["path"] for each in counted["pictures"]) == there


def test_two_shards_at_once_make_every_picture_once(shards: Shards, tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    codes = [code for code, _ in shards.run(folder, ("1/2", None), ("2/2", None))]
    assert codes == [0, 0]
    check_end(folder)
    merged = summary(folder)
    assert (merged["done"], merged["skipped"], merged["reason"]) == (7, 0, "finished")
    assert merged["shards"] == {"count": 2, "not_ended": []}
    runs = (folder / "outbox/night/logs/runs.jsonl").read_bytes().splitlines()
    assert sum(json.loads(line)["done"] for line in runs) == 7
    assert [code for code, _ in shards.run(folder, *((f"{n}/5", None) for n in range(1, 6)))] == [0] * 5
    check_end(folder)
    assert summary(folder)["skipped"] == 7


def test_a_shard_that_was_killed_is_in_the_summary_by_its_records(shards: Shards, tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    ((_, points),) = shards.run(prepare(tmp_path / "measured"), ("1/2", None))
    assert shards.run(folder, ("1/2", points // 2))[0][0] == -signal.SIGKILL
    assert shards.run(folder, ("2/2", None))[0][0] == 0
    merged = summary(folder)
    assert merged["shards"] == {"count": 2, "not_ended": [1]}
    assert merged["done"] == len(pictures(folder)) < 7
    assert merged["done"] + merged["not_begun"] == merged["jobs"] == 7
    assert shards.run(folder, ("1/2", None))[0][0] == 0
    check_end(folder)


def kill_at(points: Iterable[int], shards: Shards, place: Path) -> None:
    """SIGKILL one of two shards at each point while the other works; others then complete the batch."""
    for point in points:
        folder = prepare(place / str(point))
        killed, other = shards.run(folder, ("1/2", point), ("2/2", None))
        assert killed[0] == -signal.SIGKILL
        assert other[0] == 0
        check_now(folder)
        for shard in LATER[point % len(LATER)]:
            assert shards.run(folder, (shard, None))[0][0] == 0
        check_end(folder)
        shutil.rmtree(folder)


def count_points(shards: Shards, place: Path) -> int:
    ((code, points),) = shards.run(prepare(place / "measured"), ("1/2", None))
    assert code == 0
    # Beside another, which may have made the folders, it passes a few less.
    return points - 30


def test_a_kill_at_some_points_loses_nothing(shards: Shards, tmp_path: Path) -> None:
    points = count_points(shards, tmp_path)
    assert points > 100
    kill_at(range(0, points, 13), shards, tmp_path)


@pytest.mark.faults
def test_a_kill_at_any_point_loses_nothing(shards: Shards, tmp_path: Path) -> None:
    kill_at(range(count_points(shards, tmp_path)), shards, tmp_path)


@pytest.mark.faults
def test_kills_of_both_again_and_again_lose_nothing(shards: Shards, tmp_path: Path) -> None:
    points = count_points(shards, tmp_path)
    for start in range(0, points, 7):
        folder = prepare(tmp_path / str(start))
        for each in range(4):
            shards.run(folder, ("1/2", (start + 31 * each) % points), ("2/2", (start + 57 * each) % points))
            check_now(folder)
        for shard in LATER[start % len(LATER)]:
            assert shards.run(folder, (shard, None))[0][0] == 0
        check_end(folder)
        shutil.rmtree(folder)
