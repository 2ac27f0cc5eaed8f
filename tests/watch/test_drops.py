"""Which drop a name means."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.storage.control import Drop
from pipeline.watch.drops import find_drop, unfinished_drops

STATUS: dict[str, Any] = {
    "running": {"name": "day/a--s", "path": "day/a.png", "id": "20240229-120000-0000000a"},
    "begun": [{"id": "20240229-120000-0000000b", "path": "b.png"}],
    "waits": [{"path": path} for path in ("c.png", "day/c.png", "day/d.png", "café.png", "night.yaml")],
    "quarantined": [{"id": "20240229-110000-0000000f", "path": "day/bad.png"}],
}
RUNNING = Drop("day/a.png", "20240229-120000-0000000a", "day/a--s")
BEGUN = Drop("b.png", "20240229-120000-0000000b")


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("day/a--s", RUNNING),
        ("day/a.png", RUNNING),
        ("a.png", RUNNING),
        ("20240229-120000-0000000a", RUNNING),
        ("20240229-120000-0000000b", BEGUN),
        ("b.png", BEGUN),
        ("day/c.png", Drop("day/c.png")),
        ("c.png", Drop("c.png")),  # a whole path wins over a file's name
        ("d.png", Drop("day/d.png")),
        ("cafe\u0301.png", Drop("café.png")),  # as another system spells it
        ("night.yaml", Drop("night.yaml")),
    ],
)
def test_a_name_means_one_drop(name: str, drop: Drop) -> None:
    assert find_drop(name, STATUS) == drop


@pytest.mark.parametrize(
    ("name", "error", "advice"),
    [
        ("", "is called ''", "See `style-pipeline status`."),
        ("2024", "'2024' means 2 pictures: day/a.png (20240229-120000-0000000a), b.png (", "the whole path"),
        ("day/a", "is called 'day/a'", "Did you mean "),
        ("nigth.yaml", "is called 'nigth.yaml'", "Did you mean night.yaml? See `style-pipeline status`."),
        ("xyz", "is called 'xyz'", "See `style-pipeline status`."),
        ("bad.png", "is called 'bad.png'", "`style-pipeline retry 20240229-110000-0000000f` brings it back."),
    ],
)
def test_a_name_that_means_none_or_several_is_explained(name: str, error: str, advice: str) -> None:
    with pytest.raises(UsageError) as raised:
        find_drop(name, STATUS)
    assert error in raised.value.message
    assert advice in raised.value.next_step


def test_two_files_of_one_name_need_their_paths() -> None:
    status = {**STATUS, "waits": [{"path": "x/c.png"}, {"path": "y/c.png"}]}
    with pytest.raises(UsageError, match=r"'c.png' means 2 pictures: x/c.png, y/c.png\."):
        find_drop("c.png", status)


def test_what_an_older_daemon_runs_has_no_drop_and_is_left_out() -> None:
    """Its state says nothing of the drop until it is restarted; its claim is there."""
    status = {**STATUS, "running": {"name": "a--s", "step": 1, "steps": 2}}
    assert unfinished_drops(status)[0] == BEGUN
