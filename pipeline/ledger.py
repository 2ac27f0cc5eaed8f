"""Ledger: what outlives the process and is in no record: how often a job was tried, how fast jobs ran."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DiskError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    job_key TEXT PRIMARY KEY,
    count   INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS speeds (
    encoder TEXT PRIMARY KEY,
    device  TEXT NOT NULL,
    seconds_per_megapixel_step REAL NOT NULL
);
"""


class Ledger:
    """Attempts by `job_key` and speeds by encoder, in sqlite3 below `state_dir`. May be deleted."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "ledger.sqlite3"
        with self._guarded():
            state_dir.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            with self._guarded():
                self._database.executescript(_SCHEMA)
        except DiskError:
            self._database.close()
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DiskError(
                f"{self.path}: the ledger cannot be used ({error}).",
                "Check that state_dir can be written; a damaged ledger may be deleted.",
            ) from error

    def _execute(self, query: str, values: tuple[object, ...] = ()) -> Any:
        with self._guarded():
            return self._database.execute(query, values).fetchone()

    def attempts(self, key: str) -> int:
        """Return how often a job was begun and not ended, by success, failure or a stop."""
        row = self._execute("SELECT count FROM attempts WHERE job_key = ?", (key,))
        return int(row[0]) if row else 0

    def any_attempts(self, least: int) -> bool:
        return self._execute("SELECT 1 FROM attempts WHERE count >= ? LIMIT 1", (least,)) is not None

    def begin(self, key: str) -> None:
        """Record an attempt, on disk before this returns: what follows may kill the process."""
        self._execute(
            "INSERT INTO attempts VALUES (?, 1) ON CONFLICT (job_key) DO UPDATE SET count = count + 1", (key,)
        )

    def end(self, key: str) -> None:
        """Forget a job's attempts: the process survived it."""
        self._execute("DELETE FROM attempts WHERE job_key = ?", (key,))

    def note_speed(self, encoder: str, device: str, seconds_per_megapixel_step: float) -> None:
        """Keep the speed of the last job done with an encoder, for estimates."""
        self._execute(
            "INSERT OR REPLACE INTO speeds VALUES (?, ?, ?)", (encoder, device, seconds_per_megapixel_step)
        )

    def speed(self, encoder: str) -> tuple[str, float] | None:
        """Return the device and the seconds per megapixel and step last seen with an encoder."""
        query = "SELECT device, seconds_per_megapixel_step FROM speeds WHERE encoder = ?"
        row = self._execute(query, (encoder,))
        return (str(row[0]), float(row[1])) if row else None

    def close(self) -> None:
        self._database.close()
