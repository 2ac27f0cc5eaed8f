"""What tests of the storage share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from batch_folders import fresh

from pipeline.storage.outbox import BatchFolder


@pytest.fixture
def folder(tmp_path: Path) -> BatchFolder:
    return fresh(tmp_path)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill, as against a power loss, does not depend on what the disk has written yet."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
