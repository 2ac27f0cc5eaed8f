from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import MakeManifest

from pipeline.spec.batches import Batch
from pipeline.spec.manifest import read_manifest


@pytest.fixture
def here(environment: Path) -> Path:
    """A folder with photos/{a,b,c}.jpg, styles/{s,t}.png and files that are not pictures."""
    names = ("photos/c.jpg", "photos/a.jpg", "photos/b.PNG", "photos/.hidden.jpg", "photos/notes.txt")
    for name in (*names, "styles/t.png", "styles/s.png", "start.png"):
        path = environment / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    (environment / "photos/folder.jpg").mkdir()
    return environment


@pytest.fixture
def read(here: Path, make_manifest: MakeManifest) -> Any:
    """Return a function that reads a manifest written in YAML, under the name night.yaml."""

    def read_text(text: str, config: Any = None, flags: Any = None, name: str = "night.yaml") -> Batch:
        return read_manifest(make_manifest(text, name), config or {}, flags or {})

    return read_text
