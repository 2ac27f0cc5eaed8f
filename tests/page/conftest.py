from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_records import add_record, draw
from page_client import World


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Two contents times two styles."""
    folder = tmp_path / "outbox/night"
    for content in ("a", "b"):
        for style in ("monet", "scream"):
            photo = draw(tmp_path / f"photos/{content}.png", "navy" if content == "a" else "gold")
            add_record(
                folder, photo, draw(tmp_path / f"styles/{style}.png", "pink" if style == "monet" else "red")
            )
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A page of an empty outbox and an inbox that a daemon has watched."""
    world = World(tmp_path / "world")
    yield world
    world.close()
