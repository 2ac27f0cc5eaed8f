"""Ledger: what outlives the process and is not in a record: attempts, speeds, drops, the daemon's state."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock

from ..errors import DiskError
from .files import inode_of, make_private, parse_json_object
from .locks import is_locked
from .temporary import remove_unlocked

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts_of (
    job_key TEXT NOT NULL,
    owner   TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (job_key, owner)
);
CREATE TABLE IF NOT EXISTS progress (
    job_key TEXT PRIMARY KEY,
    steps   REAL NOT NULL
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

# How long a process waits for another that has locked the database.
TIMEOUT_S = 30.0

DropState = Literal["claimed", "done", "quarantined"]


@dataclass(frozen=True)
class DropRow:
    """A file taken from an inbox: its path below it, and what became of it. `ended` is a `time()`."""

    id: str
    path: Path
    state: DropState
    ended: float | None


class Ledger:
    """Attempts by `job_key`, speeds by encoder, drops and daemons by inbox, in sqlite3 below `state_dir`.

    May be deleted: claimed files and the records in the outbox say what is still to be done.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "ledger.sqlite3"
        self._owner = _Owner(state_dir / "owners")
        # Changes of attempts that are still to be written, in order.
        self._pending: deque[tuple[str, tuple[str, ...]]] = deque()
        self._open()

    def _open(self) -> None:
        with self._guarded():
            make_private(self.path.parent)
            self._database = sqlite3.connect(self.path, timeout=TIMEOUT_S, isolation_level=None)
        try:
            self._use_write_ahead_log()
            self._execute("PRAGMA synchronous=FULL")
            with self._guarded():
                self._database.executescript(_SCHEMA)
        except DiskError:
            self._database.close()
            raise
        self._inode = inode_of(self.path)

    def _use_write_ahead_log(self) -> None:
        """Switch a new file to a write-ahead log. SQLite does not wait for others that do the same."""
        until = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self._execute("PRAGMA journal_mode=WAL")
                return
            except DiskError as error:
                if not _is_busy(error.__cause__) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _reopen_if_deleted(self) -> None:
        """Open a new file if someone deleted the old one: what is written there could not be read again."""
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
        """Return how many attempts of a job began and did not end in success, failure or a stop.

        Those of another process count once it is dead: until then they may still succeed.
        """
        self._write_pending()
        with self._guarded():
            query = "SELECT owner, count FROM attempts_of WHERE job_key = ?"
            begun = self._database.execute(query, (key,)).fetchall()
            return sum(count for owner, count in begun if not self._owner.is_another_alive(owner))

    def any_attempts(self, least: int) -> bool:
        """Return whether any job may have `least` attempts; those of living processes count too."""
        query = "SELECT 1 FROM attempts_of GROUP BY job_key HAVING SUM(count) >= ? LIMIT 1"
        return self._execute(query, (least,)) is not None

    def progress(self, key: str) -> float:
        """Return how many steps of a job were done when its last attempt began, the last perhaps in part."""
        row = self._execute("SELECT steps FROM progress WHERE job_key = ?", (key,))
        return float(row[0]) if row else 0.0

    def begin(self, key: str, steps: float = 0.0) -> None:
        """Record an attempt, on disk before this returns, because what follows may kill the process.

        `steps` of the job were done before.
        """
        self._write_pending()
        self._show_alive()
        if steps != self.progress(key):
            self._execute("INSERT OR REPLACE INTO progress VALUES (?, ?)", (key, steps))
        query = "INSERT INTO attempts_of VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1"
        self._execute(query, (key, self._owner.name))

    def _show_alive(self) -> None:
        with self._guarded():
            self._owner.show_alive()

    def take_back(self, *keys: str) -> None:
        """Uncount one attempt of each job, which did not cause its end; earlier attempts still count.

        Raises:
            DiskError: this cannot be written now; it is written before attempts are next read or changed.
        """
        mine = "WHERE job_key = ? AND owner = ?"
        for key in keys:
            which = (key, self._owner.name)
            self._pending.append((f"UPDATE attempts_of SET count = count - 1 {mine}", which))
            self._pending.append((f"DELETE FROM attempts_of {mine} AND count <= 0", which))
        self._write_pending()

    def end(self, key: str) -> None:
        """Forget a job's attempts: the process survived it. Errors as in `take_back`."""
        self._pending.append(("DELETE FROM attempts_of WHERE job_key = ?", (key,)))
        self._pending.append(("DELETE FROM progress WHERE job_key = ?", (key,)))
        self._write_pending()

    def _write_pending(self) -> None:
        while self._pending:
            self._execute(*self._pending[0])
            self._pending.popleft()

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
            query = f"SELECT id, path, state, ended FROM drops WHERE {where}"
            rows = self._database.execute(query, values).fetchall()
        return [DropRow(id, Path(os.fsdecode(path)), *rest) for id, path, *rest in rows]

    def note_staged(self, drop: str, key: str) -> None:
        """Record that a drop's job has its result on the stage: it is published, or will be."""
        self._execute("INSERT OR IGNORE INTO staged VALUES (?, ?)", (drop, key))

    def was_staged(self, drop: str, key: str) -> bool:
        query = "SELECT 1 FROM staged WHERE drop_id = ? AND job_key = ?"
        return self._execute(query, (drop, key)) is not None

    def write_daemon(self, inbox: Path, state: Mapping[str, Any]) -> None:
        """Keep a daemon's state for `status` and `health`.

        It is written every second and is useless after a crash, so it alone does not wait for the disk.
        """
        self._reopen_if_deleted()
        self._execute("PRAGMA synchronous=NORMAL")
        try:
            self._execute("INSERT OR REPLACE INTO daemons VALUES (?, ?)", (_text(inbox), json.dumps(state)))
        finally:
            self._execute("PRAGMA synchronous=FULL")

    def read_daemon(self, inbox: Path) -> dict[str, Any]:
        """Return the state that the last daemon on an inbox wrote; empty if there was none."""
        row = self._execute("SELECT state FROM daemons WHERE inbox = ?", (_text(inbox),))
        return parse_json_object(row[0]) if row else {}

    def close(self) -> None:
        self._database.close()
        self._owner.close()


class _Owner:
    """Identifies this process by a random name, and a file of that name that is locked while it lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = secrets.token_hex(8)
        self._lock = filelock.FileLock(folder / self.name)

    def show_alive(self) -> None:
        """Lock the file, which the kernel unlocks however this process ends."""
        if self._lock.is_locked:
            return
        make_private(self.folder)
        for path in self.folder.iterdir():
            remove_unlocked(path)  # of dead processes
        with suppress(NotImplementedError):  # a file system without locks: attempts count at once
            self._lock.acquire()

    def is_another_alive(self, name: str) -> bool:
        return name != self.name and is_locked(self.folder / name)

    def close(self) -> None:
        if self._lock.is_locked:
            self._lock.release(force=True)
            with suppress(OSError):
                (self.folder / self.name).unlink(missing_ok=True)


class LedgerCopy(Ledger):
    """A copy of a ledger in memory, empty if there is no ledger. Nothing on the disk is changed."""

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

    def _show_alive(self) -> None:
        """Do nothing: no other process reads this copy."""


def _read_only(path: Path) -> sqlite3.Connection:
    # With no write-ahead log beside it no process has it open, and it can be read without creating one.
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if log.exists() else "immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=TIMEOUT_S)


def open_ledger(state_dir: Path) -> tuple[Ledger, str]:
    """Open the ledger, and return a note: a damaged one is kept under another name and replaced.

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
        # Its subclasses mean locks and full disks; only the class itself means damage.
        if type(error.__cause__) is not sqlite3.DatabaseError:
            raise
    path = state_dir / "ledger.sqlite3"
    kept = path.with_name(f"ledger-damaged-{time.strftime('%Y%m%d-%H%M%S')}.sqlite3")
    os.replace(path, kept)
    for leftover in ("ledger.sqlite3-wal", "ledger.sqlite3-shm"):
        (state_dir / leftover).unlink(missing_ok=True)
    return Ledger(state_dir), f"{path}: was damaged and is replaced by a new one; the old one is {kept.name}"


def _advice(error: OSError | sqlite3.Error) -> str:
    """Return what to do about a ledger; only a damaged one that no process uses may be deleted."""
    if type(error) is sqlite3.DatabaseError:  # its subclasses are about locks and full disks
        return "It is damaged, and may be deleted when no process uses it."
    if _is_busy(error):
        return "Another process is busy with it, or hangs: wait for that one, or end it."
    return "Check that state_dir is there, can be written and has free space."


def _is_busy(error: BaseException | None) -> bool:
    """Tell whether another process has locked the database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _columns(database: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return every table's columns by their names."""
    query = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    return set(database.execute(query))


def _text(path: Path | str) -> str:
    """Names need not be UTF-8; sqlite's text must."""
    return str(path).encode(errors="backslashreplace").decode()
