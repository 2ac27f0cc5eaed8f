from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.spec.shards import MOST_SHARDS, Shard, read_shard

NAMES = st.text(st.characters(), max_size=30)


@given(st.lists(NAMES, max_size=30), st.integers(1, 40))
def test_every_job_is_in_exactly_one_shard_whatever_the_order(names: list[str], count: int) -> None:
    shards = [Shard(number, count) for number in range(1, count + 1)]
    taken = [[name for name in names if shard.takes(name)] for shard in shards]
    assert sorted(name for part in taken for name in part) == sorted(names)
    backwards = [[name for name in reversed(names) if shard.takes(name)] for shard in shards]
    assert [part[::-1] for part in backwards] == taken


def test_every_process_of_every_version_finds_the_same_shard() -> None:
    found = [Shard(1, 8).number_of(name) for name in ("me--scream", "lake--monet", "夜--mix", "a/b-s")]
    assert found == [1, 6, 5, 4]


def test_names_that_are_one_file_on_many_disks_are_in_one_shard() -> None:
    shard = Shard(1, 97)
    assert shard.number_of("Straße--Scream") == shard.number_of("STRASSE--SCREAM")


def test_shards_are_about_equal() -> None:
    sizes = [0] * 8
    for number in range(8_000):
        sizes[Shard(1, 8).number_of(f"IMG_{number:04}--monet") - 1] += 1
    assert 900 < min(sizes) <= max(sizes) < 1_100


ARRAY = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "7",
    "SLURM_ARRAY_TASK_COUNT": "8",
}


def array(task: int, least: int, most: int, count: int) -> dict[str, str]:
    return dict(zip(ARRAY, map(str, (task, least, most, count)), strict=True))


@pytest.mark.parametrize(
    ("text", "environment", "number", "count", "origin"),
    [
        ("1/8", {}, 1, 8, ""),
        (" 8 / 8", {}, 8, 8, ""),
        ("1/1", ARRAY, 1, 1, ""),
        ("auto", ARRAY, 4, 8, "SLURM_ARRAY_TASK_ID=3"),
        ("auto", array(3, 1, 8, 8), 3, 8, "SLURM_ARRAY_TASK_ID=3"),
        ("auto", array(6, 0, 14, 8), 4, 8, "SLURM_ARRAY_TASK_ID=6"),
        ("auto", array(5, 3, 5, 2), 2, 2, "SLURM_ARRAY_TASK_ID=5"),
        ("auto", array(7, 7, 7, 1), 1, 1, "SLURM_ARRAY_TASK_ID=7"),
        ("auto/8", array(5, 3, 5, 2), 6, 8, "SLURM_ARRAY_TASK_ID=5"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "0"}, 1, 8, "JOB_COMPLETION_INDEX=0"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, 8, 8, "JOB_COMPLETION_INDEX=7"),
        ("auto", {**ARRAY, "JOB_COMPLETION_INDEX": "7"}, 4, 8, "SLURM_ARRAY_TASK_ID=3"),
    ],
)
def test_which_shard_this_is(
    text: str, environment: dict[str, str], number: int, count: int, origin: str
) -> None:
    assert read_shard(text, environment) == Shard(number, count, origin)


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("", {}, "expected I/N, such as 1/8"),
        ("3", {}, "expected I/N"),
        ("a/b", {}, "expected I/N"),
        ("-1/8", {}, "expected I/N"),
        ("auto/x", {}, "expected I/N"),
        ("1/2/3", {}, "expected I/N"),
        ("0/8", {}, "there is no shard 0; shards are numbered from 1 to 8"),
        ("9/8", {}, "there is no shard 9"),
        ("1/0", {}, "expected 1 to 10,000 shards, found 0"),
        (f"1/{MOST_SHARDS + 1}", {}, "found 10,001"),
        ("auto", {}, "neither SLURM_ARRAY_TASK_ID .* nor JOB_COMPLETION_INDEX .* is set"),
        ("auto/8", {}, "neither SLURM_ARRAY_TASK_ID .* nor JOB_COMPLETION_INDEX .* is set"),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2 says which shard this is, but not"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "2"}, "no shard 2, from JOB_COMPLETION_INDEX=2; expected 0 to 1"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "two"}, "JOB_COMPLETION_INDEX is 'two'; expected a whole number"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_MIN is ''"),
        ("auto", array(3, 0, 7, 3), "are not evenly numbered"),
        ("auto", array(2, 0, 9, 4), "the place of task 2 among them is not known"),
        ("auto/4", array(4, 1, 4, 4), "no shard 4, from SLURM_ARRAY_TASK_ID=4; expected 0 to 3"),
    ],
)
def test_what_is_no_shard(text: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_shard(text, environment)


def test_the_shards_of_a_batch_are_its_jobs(read: Any) -> None:
    batch = read("contents: photos/*\nstyles: styles/*\nsweep: {seed: [1, 2, 3]}\n")
    parts = [replace(batch, shard=Shard(number, 4)) for number in range(1, 5)]
    assert sorted(job.name for part in parts for job in part.jobs()) == sorted(
        job.name for job in batch.jobs()
    )
    assert [len(part) for part in parts] == [len(list(part.jobs())) for part in parts]
    assert sum(map(len, parts)) == len(batch) == 18
    assert parts[0].input_paths() == batch.input_paths()
