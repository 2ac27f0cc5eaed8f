"""Ledger: what outlives the process and is in no record: attempts, speeds, drops, the daemon's state."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import DiskError
from .files import inode_of, make_private

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    job_key TEXT PRIMARY KEY,
    count   INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS progress (
    job_key TEXT PRIMARY KEY,
    steps   INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS speeds (
    encoder TEXT PRIMARY KEY,
    device  TEXT NOT NULL,
    seconds_per_megapixel_step REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS drops (
    id      TEXT PRIMARY KEY,
    inbox   TEXT NOT NULL,
    path    BLOB NOT NULL,
    state   TEXT NOT NULL,
    noticed REAL NOT NULL,
    ended   REAL
);
CREATE TABLE IF NOT EXISTS staged (
    drop_id TEXT NOT NULL,
    job_key TEXT NOT NULL,
    PRIMARY KEY (drop_id, job_key)
);
CREATE TABLE IF NOT EXISTS daemons (
    inbox TEXT PRIMARY KEY,
    state TEXT NOT NULL
);
"""

DropState = Literal["claimed", "done", "set aside"]


@dataclass(frozen=True)
class DropRow:
    """A file taken from an inbox: its path below it, and what became of it. Times are those of `time()`."""

    id: str
    path: Path
    state: DropState
    noticed: float
    ended: float | None


class Ledger:
    """Attempts by `job_key`, speeds by encoder, drops and daemons by inbox, in sqlite3 below `state_dir`.

    May be deleted: claimed files and the records in the outbox tell what is to be done.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "ledger.sqlite3"
        self._owed: deque[tuple[str, str]] = deque()  # changes of attempts that could not be written yet
        self._open()

    def _open(self) -> None:
        with self._guarded():
            make_private(self.path.parent)
            self._database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            self._execute("PRAGMA journal_mode=WAL")
            self._execute("PRAGMA synchronous=FULL")
            with self._guarded():
                self._database.executescript(_SCHEMA)
        except DiskError:
            self._database.close()
            raise
        self._inode = inode_of(self.path)

    def _follow(self) -> None:
        """Begin anew where someone deleted the file, instead of writing where nobody will read."""
        if inode_of(self.path) != self._inode:
            self._database.close()
            self._open()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DiskError(f"{self.path}: the ledger cannot be used ({error}).", _advice(error)) from error

    def _execute(self, query: str, values: tuple[object, ...] = ()) -> Any:
        with self._guarded():
            return self._database.execute(query, values).fetchone()

    def check(self) -> None:
        """Read the whole ledger once.

        Raises:
            DiskError: it is damaged.
        """
        row = self._execute("PRAGMA quick_check(1)")
        with self._guarded(), closing(sqlite3.connect(":memory:")) as fresh:
            if row[0] != "ok":
                raise sqlite3.DatabaseError(row[0])
            fresh.executescript(_SCHEMA)
            if _columns(fresh) - _columns(self._database):
                raise sqlite3.DatabaseError("its tables are not those of a ledger")

    def attempts(self, key: str) -> int:
        """Return how often a job was begun and not ended, by success, failure or a stop."""
        self._settle()
        row = self._execute("SELECT count FROM attempts WHERE job_key = ?", (key,))
        return int(row[0]) if row else 0

    def any_attempts(self, least: int) -> bool:
        return self._execute("SELECT 1 FROM attempts WHERE count >= ? LIMIT 1", (least,)) is not None

    def progress(self, key: str) -> int:
        """Return how many steps of a job were done when its last attempt began."""
        row = self._execute("SELECT steps FROM progress WHERE job_key = ?", (key,))
        return int(row[0]) if row else 0

    def begin(self, key: str, steps: int = 0) -> None:
        """Record an attempt, on disk before this returns: what follows may kill the process.

        So many steps of the job were done before.
        """
        self._settle()
        if steps != self.progress(key):
            self._execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (key, steps))
        self._execute(
            "INSERT INTO attempts VALUES (?, 1) ON CONFLICT (job_key) DO UPDATE SET count = count + 1", (key,)
        )

    def take_back(self, *keys: str) -> None:
        """Take an attempt of each job back that ended by no fault of it; those before it stay counted.

        Where this cannot be written now, it still counts for this process, and is written later.
        """
        self._owed.extend(("UPDATE attempts SET count = count - 1 WHERE job_key = ?", key) for key in keys)
        self._owed.extend(("DELETE FROM attempts WHERE job_key = ? AND count <= 0", key) for key in keys)
        self._settle()

    def end(self, key: str) -> None:
        """Forget a job's attempts: the process survived it. As `take_back` where it cannot be written."""
        self._owed.append(("DELETE FROM attempts WHERE job_key = ?", key))
        self._owed.append(("DELETE FROM progress WHERE job_key = ?", key))
        self._settle()

    def _settle(self) -> None:
        while self._owed:
            query, key = self._owed[0]
            self._execute(query, (key,))
            self._owed.popleft()

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

    def claim(self, drop: str, inbox: Path, path: Path, now: float) -> None:
        """Record that a file is about to be taken."""
        self._execute(
            "INSERT OR IGNORE INTO drops VALUES (?, ?, ?, 'claimed', ?, NULL)",
            (drop, _text(inbox), os.fsencode(path), now),
        )

    def unclaim(self, drop: str) -> None:
        """Forget a file that was not taken after all."""
        self._execute("DELETE FROM drops WHERE id = ?", (drop,))

    def finish(self, drop: str, state: DropState, now: float) -> None:
        """Record what became of a file, and forget what was staged for it."""
        self._execute("UPDATE drops SET state = ?, ended = ? WHERE id = ?", (state, now, drop))
        self._execute("DELETE FROM staged WHERE drop_id = ?", (drop,))

    def claimed(self, inbox: Path) -> list[DropRow]:
        """Return the files taken and not finished, in the order in which they were."""
        return self._drops("state = 'claimed' AND inbox = ? ORDER BY noticed, id", (_text(inbox),))

    def finished_since(self, inbox: Path, since: float) -> list[DropRow]:
        return self._drops("inbox = ? AND ended >= ? ORDER BY ended", (_text(inbox), since))

    def forget_finished(self, before: float) -> None:
        """Drop the rows of files finished before a time, so that the ledger does not grow for ever."""
        self._execute("DELETE FROM drops WHERE ended < ?", (before,))

    def _drops(self, where: str, values: tuple[object, ...]) -> list[DropRow]:
        with self._guarded():
            query = f"SELECT id, path, state, noticed, ended FROM drops WHERE {where}"
            rows = self._database.execute(query, values).fetchall()
        return [DropRow(id, Path(os.fsdecode(path)), *rest) for id, path, *rest in rows]

    def note_staged(self, drop: str, key: str) -> None:
        """Record that a drop's job has its result on the stage: it is published, or will be."""
        self._execute("INSERT OR IGNORE INTO staged VALUES (?, ?)", (drop, key))

    def was_staged(self, drop: str, key: str) -> bool:
        query = "SELECT 1 FROM staged WHERE drop_id = ? AND job_key = ?"
        return self._execute(query, (drop, key)) is not None

    def write_daemon(self, inbox: Path, state: Mapping[str, Any]) -> None:
        """Keep what a daemon says of itself, for `status` and `health`.

        Said every second and of no use after a crash, so it alone does not wait for the disk.
        """
        self._follow()
        self._execute("PRAGMA synchronous=NORMAL")
        try:
            self._execute("INSERT OR REPLACE INTO daemons VALUES (?, ?)", (_text(inbox), json.dumps(state)))
        finally:
            self._execute("PRAGMA synchronous=FULL")

    def read_daemon(self, inbox: Path) -> dict[str, Any]:
        """Return what the last daemon on an inbox said of itself; empty if there was none."""
        row = self._execute("SELECT state FROM daemons WHERE inbox = ?", (_text(inbox),))
        state = json.loads(row[0]) if row else {}
        return state if isinstance(state, dict) else {}

    def close(self) -> None:
        self._database.close()


class LedgerCopy(Ledger):
    """What a ledger holds, in memory: nothing is made or changed on the disk. Without one it is empty."""

    def _open(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        try:
            with self._guarded():
                if self.path.is_file():
                    with closing(_read_only(self.path)) as stored:
                        stored.backup(self._database)
                self._database.executescript(_SCHEMA)
        except DiskError:
            self._database.close()
            raise
        self._inode = inode_of(self.path)


def _read_only(path: Path) -> sqlite3.Connection:
    # Where no process has it open, there is no log of changes beside it, and nothing need be made to read it.
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if log.exists() else "immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=30)


def open_ledger(state_dir: Path) -> tuple[Ledger, str]:
    """Open the ledger; one that is damaged is kept under another name and begun anew, as the note says.

    Raises:
        DiskError: it cannot be opened or made.
    """
    try:
        ledger = Ledger(state_dir)
        try:
            ledger.check()
        except DiskError:
            ledger.close()
            raise
        return ledger, ""
    except DiskError as error:
        # Its subclasses speak of locks and full disks; the class itself of damage.
        if type(error.__cause__) is not sqlite3.DatabaseError:
            raise
    path = state_dir / "ledger.sqlite3"
    kept = path.with_name(f"ledger-damaged-{time.strftime('%Y%m%d-%H%M%S')}.sqlite3")
    os.replace(path, kept)
    for leftover in ("ledger.sqlite3-wal", "ledger.sqlite3-shm"):
        (state_dir / leftover).unlink(missing_ok=True)
    return Ledger(state_dir), f"{path}: was damaged and is begun anew; the old one is {kept.name}"


def _advice(error: OSError | sqlite3.Error) -> str:
    """Return what to do about a ledger; only one that is damaged, and in nobody's use, may go."""
    if type(error) is sqlite3.DatabaseError:  # its subclasses speak of locks and full disks
        return "It is damaged, and may be deleted when no process uses it."
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "Another process is busy with it, or hangs: wait for that one, or end it."
    return "Check that state_dir is there, can be written and has room."


def _columns(database: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return every table's columns by their names."""
    query = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    return set(database.execute(query))


def _text(path: Path | str) -> str:
    """Names need not be UTF-8; sqlite's text must."""
    return str(path).encode(errors="backslashreplace").decode()
