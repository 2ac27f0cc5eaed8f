"""`run --shard`: a part of a batch, beside other processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.spec.shards import Shard
from pipeline.storage.outbox import BatchFolder

NAMES = ["a--s", "b--s"]


def split() -> tuple[int, int, int]:
    """Return a number of shards that separates the two pictures, and the shard of each."""
    for count in range(2, 99):
        first, second = map(Shard(1, count).number_of, NAMES)
        if first != second:
            return count, first, second
    raise AssertionError


def test_two_shards_make_one_batch_with_one_summary_and_one_sheet(cli, night):
    count, first, second = split()
    code, out, err = cli("run", night, "--shard", f"{first}/{count}")
    assert code == 0, err
    assert f"shard {first} of {count}: 1 of 2 pictures" in err
    assert out.startswith("1 done")
    folder = Path("outbox/night")
    found = json.loads((folder / "summary.json").read_bytes())
    assert (found["jobs"] >= 1, found["done"]) == (True, 1)
    assert first not in found["shards"]["not_ended"]
    code, _, err = cli("run", night, "--shard", f"{second}/{count}")
    assert code == 0, err
    found = json.loads((folder / "summary.json").read_bytes())
    assert (found["jobs"], found["done"]) == (2, 2)
    assert sorted(each["path"] for each in found["pictures"]) == ["a--s.png", "b--s.png"]
    page = (folder / "index.html").read_text()
    assert all(f"{name}.png" in page for name in NAMES)
    code, out, _ = cli("run", night)
    assert (code, out.startswith("Nothing to do: all 2 pictures are there")) == (0, True)


def test_a_dry_run_lists_the_pictures_of_its_shard(cli, night):
    count, first, _ = split()
    code, out, _ = cli("run", night, "--shard", f"{first}/{count}", "--dry-run")
    assert code == 0
    assert "a--s" in out
    assert "b--s" not in out
    assert f"shard {first} of {count}: 1 of 2 pictures" in out
    assert not Path("outbox").exists()


def test_a_shard_without_pictures_says_so(cli, night):
    numbers = set(map(Shard(1, 3).number_of, NAMES))
    (empty, *_) = {1, 2, 3} - numbers
    code, out, _ = cli("run", night, "--shard", f"{empty}/3")
    assert code == 0
    assert "Nothing to do: this shard of" in out


def test_auto_says_which_variable_it_used(cli, night, monkeypatch):
    for name, value in (("ID", 1), ("MIN", 0), ("MAX", 3), ("COUNT", 4)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    code, _, err = cli("run", night, "--shard", "auto")
    assert code == 0, err
    assert "shard 2 of 4, by SLURM_ARRAY_TASK_ID=1" in err
    assert (Path("outbox/night/.shards") / "2-of-4.json").is_file()


@pytest.mark.parametrize("text", ["auto", "0/2", "3/2", "half"])
def test_what_is_no_shard_starts_nothing(text, cli, night, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    code, _, err = cli("run", night, "--shard", text)
    assert code == 2
    assert f"--shard {text}" in err
    assert not Path("outbox").exists()


def test_the_whole_batch_is_not_run_beside_a_shard(cli, night):
    folder = BatchFolder(Path("outbox").resolve(), "night", shard="1-of-2")
    with folder.locked():
        code, _, err = cli("run", night)
        assert code == 5
        assert "shard 1 of 2 of this batch is being made" in err
        code, _, err = cli("run", night, "--shard", "1/2")
        assert (code, "another process is working on this shard" in err) == (5, True)
        assert cli("run", night, "--shard", "2/2")[0] == 0
