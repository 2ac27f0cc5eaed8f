from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DiskError
from pipeline.storage.ledger import DropRow, Ledger, LedgerCopy, open_ledger

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state")) as opened:
        yield opened


def test_attempts_are_counted_by_key_and_forgotten_at_the_end(ledger: Ledger) -> None:
    assert ledger.attempts(KEY) == 0
    ledger.begin(KEY)
    ledger.begin(KEY)
    ledger.begin(OTHER)
    assert (ledger.attempts(KEY), ledger.attempts(OTHER)) == (2, 1)
    ledger.end(KEY)
    assert (ledger.attempts(KEY), ledger.attempts(OTHER)) == (0, 1)


def test_an_end_without_a_begin_is_nothing(ledger: Ledger) -> None:
    ledger.end(KEY)
    assert ledger.attempts(KEY) == 0


def test_attempts_outlive_the_ledger(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as first:
        first.begin(KEY)
    with closing(Ledger(tmp_path)) as second:
        assert second.attempts(KEY) == 1


def test_attempts_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    """What `begin` returned from is there, though the process never closed anything."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline.storage.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.begin(sys.argv[2])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for attempt in (1, 2):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path), KEY], capture_output=True)
        assert done.returncode == -9, done.stderr.decode()
        with closing(Ledger(tmp_path)) as ledger:
            assert ledger.attempts(KEY) == attempt


def test_what_another_process_has_begun_counts_when_it_is_dead(tmp_path: Path) -> None:
    """Three healthy runs of one job are no three attempts."""
    with closing(Ledger(tmp_path)) as one, closing(Ledger(tmp_path)) as two:
        for ledger in (one, two, one):
            ledger.begin(KEY)
        assert (one.attempts(KEY), two.attempts(KEY)) == (2, 1)
        one.close()
        assert two.attempts(KEY) == 3
        two.take_back(KEY)
        assert two.attempts(KEY) == 2
        two.end(KEY)
        assert two.attempts(KEY) == 0


def test_the_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as living:
        living.begin(KEY)
        (tmp_path / "owners" / "0123456789abcdef").touch()
        with closing(Ledger(tmp_path)) as other:
            other.begin(KEY)
            assert len(list((tmp_path / "owners").iterdir())) == 2
    assert not list((tmp_path / "owners").iterdir())


def test_the_last_speed_of_an_encoder_is_kept(ledger: Ledger) -> None:
    assert ledger.speed("vgg19") is None
    ledger.note_speed("vgg19", "cpu", 4.5)
    ledger.note_speed("vgg19-slim", "cpu", 0.5)
    ledger.note_speed("vgg19", "cuda:0", 0.01)
    assert ledger.speed("vgg19") == ("cuda:0", 0.01)
    assert ledger.speed("vgg19-slim") == ("cpu", 0.5)


def test_a_deleted_ledger_is_replaced_by_a_new_one(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.begin(KEY)
    for path in tmp_path.glob("ledger*"):
        path.unlink()
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.attempts(KEY) == 0


def ledger_path(state: Path) -> Path:
    (path,) = state.glob("ledger*")
    return path


@pytest.mark.parametrize(
    "content", [b"not a database, long enough to be looked at" * 40, b"SQLite format 3\0junk"]
)
def test_a_damaged_ledger_is_named(content: bytes, tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    path = ledger_path(tmp_path)
    path.write_bytes(content)
    with pytest.raises(DiskError, match="ledger") as caught:
        Ledger(tmp_path).close()
    assert str(path) in caught.value.message
    assert "deleted" in caught.value.next_step
    assert caught.value.exit_code == 3


def test_a_ledger_damaged_behind_its_first_page_is_named_when_it_shows(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        for number in range(30):
            ledger.begin(f"{number:0900d}")
    path = ledger_path(tmp_path)
    content = path.read_bytes()
    assert len(content) > 3 * 4096
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))

    def use() -> None:
        with closing(Ledger(tmp_path)) as ledger:
            ledger.attempts(KEY)
            ledger.begin(KEY)

    with pytest.raises(DiskError) as caught:
        use()
    assert str(path) in caught.value.message


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_state_dir_that_cannot_be_used_is_named(what: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    if what == "file":
        state.write_bytes(b"")
    else:
        Ledger(state).close()
        path = ledger_path(state)
        path.unlink()
        path.mkdir()
    with pytest.raises(DiskError) as caught:
        Ledger(state).close()
    assert str(state) in caught.value.message


# Drops

INBOX, ELSEWHERE = Path("/in/box"), Path("/else/where")


def test_a_drop_is_claimed_then_finished(ledger: Ledger) -> None:
    ledger.claim("1", INBOX, Path("a.png"), 10.0)
    ledger.claim("2", INBOX, Path("sub/b.png"), 11.0)
    ledger.claim("3", ELSEWHERE, Path("c.png"), 12.0)
    assert ledger.claimed(INBOX) == [
        DropRow("1", Path("a.png"), "claimed", None),
        DropRow("2", Path("sub/b.png"), "claimed", None),
    ]
    ledger.finish("1", "done", 20.0)
    ledger.finish("2", "quarantined", 21.0)
    assert ledger.claimed(INBOX) == []
    assert [row.id for row in ledger.claimed(ELSEWHERE)] == ["3"]
    assert ledger.finished_since(INBOX, 0) == [
        DropRow("1", Path("a.png"), "done", 20.0),
        DropRow("2", Path("sub/b.png"), "quarantined", 21.0),
    ]


def test_claimed_drops_come_in_the_order_in_which_they_were_taken(ledger: Ledger) -> None:
    for id, noticed in (("c", 2.0), ("b", 2.0), ("a", 3.0), ("d", 1.0)):
        ledger.claim(id, INBOX, Path(f"{id}.png"), noticed)
    assert [row.id for row in ledger.claimed(INBOX)] == ["d", "b", "c", "a"]


def test_a_claim_that_is_repeated_changes_nothing(ledger: Ledger) -> None:
    """Recovery repeats it for every file in the claimed folder, whether the ledger knows it or not."""
    ledger.claim("1", INBOX, Path("a.png"), 10.0)
    ledger.claim("1", INBOX, Path("other.png"), 99.0)
    assert ledger.claimed(INBOX) == [DropRow("1", Path("a.png"), "claimed", None)]
    ledger.finish("1", "done", 20.0)
    ledger.claim("1", INBOX, Path("a.png"), 30.0)
    assert ledger.claimed(INBOX) == []


def test_a_file_that_was_not_taken_after_all_is_forgotten(ledger: Ledger) -> None:
    ledger.claim("1", INBOX, Path("a.png"), 10.0)
    ledger.claim("2", INBOX, Path("b.png"), 10.0)
    ledger.unclaim("1")
    ledger.unclaim("unknown")
    assert [row.id for row in ledger.claimed(INBOX)] == ["2"]


def test_finished_drops_are_found_by_inbox_and_time(ledger: Ledger) -> None:
    for number in range(5):
        ledger.claim(str(number), INBOX if number < 4 else ELSEWHERE, Path("a.png"), number)
    for number in (0, 1, 4):
        ledger.finish(str(number), "done", 100.0 + number)
    ledger.finish("2", "quarantined", 110.0)
    assert [row.state for row in ledger.finished_since(INBOX, 0.0)] == ["done", "done", "quarantined"]
    assert [row.id for row in ledger.finished_since(ELSEWHERE, 0.0)] == ["4"]
    assert [row.id for row in ledger.finished_since(INBOX, 101.0)] == ["1", "2"]
    assert ledger.finished_since(INBOX, 111.0) == []


def test_old_drops_are_forgotten_and_claimed_ones_never(ledger: Ledger) -> None:
    for id in "123":
        ledger.claim(id, INBOX, Path("a.png"), 1.0)
    ledger.finish("1", "done", 10.0)
    ledger.finish("2", "done", 20.0)
    ledger.forget_finished(20.0)
    assert [row.id for row in ledger.finished_since(INBOX, 0)] == ["2"]
    assert [row.id for row in ledger.claimed(INBOX)] == ["3"]


def test_what_is_staged_is_known_until_the_drop_is_finished(ledger: Ledger) -> None:
    ledger.claim("1", INBOX, Path("a.png"), 1.0)
    ledger.note_staged("1", KEY)
    ledger.note_staged("1", KEY)
    ledger.note_staged("2", KEY)
    assert ledger.was_staged("1", KEY)
    assert not ledger.was_staged("1", OTHER)
    ledger.finish("1", "done", 2.0)
    assert not ledger.was_staged("1", KEY)
    assert ledger.was_staged("2", KEY)


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "a\nb", "'; DROP TABLE drops; --", "x" * 255])
def test_names_of_any_kind_can_be_kept(name: str, ledger: Ledger) -> None:
    inbox = Path("/in", name)
    ledger.claim("1", inbox, Path(name), 1.0)
    ledger.write_daemon(inbox, {"running": {"name": name}})
    (row,) = ledger.claimed(inbox)
    assert row.path == Path(name)
    assert ledger.read_daemon(inbox) == {"running": {"name": name}}
    ledger.finish("1", "done", 2.0)
    assert [row.path for row in ledger.finished_since(inbox, 0.0)] == [Path(name)]


# The state of a daemon


def test_the_last_word_of_each_inboxs_daemon_is_kept(ledger: Ledger) -> None:
    assert ledger.read_daemon(INBOX) == {}
    ledger.write_daemon(INBOX, {"pid": 1, "running": None})
    ledger.write_daemon(ELSEWHERE, {"pid": 2})
    ledger.write_daemon(INBOX, {"pid": 3, "beat": 1.5})
    assert ledger.read_daemon(INBOX) == {"pid": 3, "beat": 1.5}
    assert ledger.read_daemon(ELSEWHERE) == {"pid": 2}


def test_only_the_daemons_word_does_not_wait_for_the_disk(ledger: Ledger) -> None:
    full = 2
    ledger.write_daemon(INBOX, {})
    assert ledger._execute("PRAGMA synchronous") == (full,)
    assert ledger._execute("PRAGMA journal_mode") == ("wal",)


def test_another_process_may_read_while_one_writes(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as daemon, closing(Ledger(tmp_path)) as status:
        for number in range(3):
            daemon.write_daemon(INBOX, {"beat": number})
            daemon.claim(str(number), INBOX, "a.png", number)
            assert status.read_daemon(INBOX) == {"beat": number}
            assert len(status.claimed(INBOX)) == number + 1


# A torn ledger


def filled(state: Path) -> Path:
    with closing(Ledger(state)) as ledger:
        for number in range(200):
            ledger.claim(f"{number:0200d}", INBOX, Path("a.png"), number)
    return ledger_path(state)


def test_a_good_ledger_is_opened_as_it_is(tmp_path: Path) -> None:
    filled(tmp_path)
    ledger, note = open_ledger(tmp_path)
    with closing(ledger):
        assert note == ""
        assert len(ledger.claimed(INBOX)) == 200


def test_a_ledger_that_is_not_there_is_made_without_a_word(tmp_path: Path) -> None:
    ledger, note = open_ledger(tmp_path / "a/state")
    with closing(ledger):
        assert note == ""
        ledger.begin(KEY)


DAMAGE = {
    "garbage": lambda data: b"not a database, long enough to be looked at" * 400,
    "truncated": lambda data: data[: len(data) // 2],
    "torn": lambda data: data[:4096] + b"\xff" * 4096 + data[8192:],
    "a header alone": lambda data: data[:100],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_ledger_is_kept_and_replaced_by_a_new_one(damage: str, tmp_path: Path) -> None:
    path = filled(tmp_path)
    damaged = DAMAGE[damage](path.read_bytes())
    path.write_bytes(damaged)
    (tmp_path / "ledger.sqlite3-wal").write_bytes(b"of the old one")
    ledger, note = open_ledger(tmp_path)
    with closing(ledger):
        assert ledger.claimed(INBOX) == []
        ledger.claim("1", INBOX, Path("a.png"), 1.0)
        (kept,) = tmp_path.glob("ledger-damaged-*")
        assert kept.read_bytes() == damaged
        assert str(path) in note
        assert kept.name in note
        assert "\n" not in note
    ledger, note = open_ledger(tmp_path)
    with closing(ledger):
        assert note == ""
        assert [row.id for row in ledger.claimed(INBOX)] == ["1"]


def test_an_empty_file_is_a_new_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").touch()
    ledger, note = open_ledger(tmp_path)
    with closing(ledger):
        assert note == ""
        ledger.begin(KEY)
        assert ledger.attempts(KEY) == 1
    assert list(tmp_path.glob("ledger-damaged-*")) == []


def test_a_ledger_that_is_locked_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path)
    monkeypatch.setattr("pipeline.storage.ledger.TIMEOUT_S", 0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DiskError, match="locked"):
            open_ledger(tmp_path)
    assert list(tmp_path.glob("ledger-damaged-*")) == []
    ledger, _ = open_ledger(tmp_path)
    with closing(ledger):
        assert len(ledger.claimed(INBOX)) == 200


def test_a_ledger_that_cannot_be_opened_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").mkdir()
    with pytest.raises(DiskError):
        open_ledger(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite3"]


def test_a_ledger_that_cannot_be_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, connect = tmp_path / "ledger.sqlite3", sqlite3.connect
    with closing(connect(path)) as database:
        database.execute("CREATE TABLE of_another_version (id TEXT)")

    def read_only(path: Path, **options: object) -> sqlite3.Connection:
        return connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)

    before = path.read_bytes()
    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(DiskError, match="readonly"):
        open_ledger(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("ledger-damaged-*")) == []


def test_an_attempt_that_is_taken_back_leaves_those_before_it(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.begin(KEY)
    ledger.take_back(KEY)
    assert ledger.attempts(KEY) == 1
    ledger.take_back(KEY)
    ledger.take_back(KEY)
    assert ledger.attempts(KEY) == 0
    ledger.begin(KEY)
    assert ledger.attempts(KEY) == 1


def test_a_daemon_goes_on_in_a_new_ledger_when_its_own_was_deleted(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        for path in tmp_path.iterdir():
            path.unlink()
        ledger.write_daemon(INBOX, {"pid": 1})
        with closing(Ledger(tmp_path)) as reader:
            assert reader.read_daemon(INBOX) == {"pid": 1}


def test_its_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with closing(Ledger(tmp_path / "state")):
        assert (tmp_path / "state").stat().st_mode & 0o077 == 0


# A copy


def test_a_copy_holds_what_the_ledger_holds_and_changes_nothing(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.begin("a")
        ledger.note_speed("vgg19", "cpu", 0.5)
        with closing(LedgerCopy(tmp_path)) as beside:  # what is not yet in the file itself as well
            assert beside.any_attempts(1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())}
    with closing(LedgerCopy(tmp_path)) as copy:
        assert copy.attempts("a") == 1
        assert copy.speed("vgg19") == ("cpu", 0.5)
        copy.begin("a")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.iterdir())} == before
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.attempts("a") == 1


def test_a_copy_of_no_ledger_is_empty_and_makes_none(tmp_path: Path) -> None:
    with closing(LedgerCopy(tmp_path / "state")) as copy:
        assert copy.attempts("a") == 0
    assert not (tmp_path / "state").exists()


def test_a_copy_of_a_damaged_ledger_names_it(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database, but long enough to look like one" * 100)
    with pytest.raises(DiskError, match=r"ledger\.sqlite3"):
        LedgerCopy(tmp_path)


def test_a_copy_that_cannot_be_made_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database, but long enough to look like one" * 100)
    connect, made = sqlite3.connect, []

    def noted(*arguments: object, **options: Any) -> sqlite3.Connection:
        made.append(connect(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    with pytest.raises(DiskError):
        LedgerCopy(tmp_path)
    assert made
    for database in made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            database.execute("SELECT 1")


def test_a_job_that_ended_leaves_no_row(ledger: Ledger) -> None:
    ledger.begin(KEY, 40.25)
    assert ledger.progress(KEY) == 40.25
    ledger.end(KEY)
    assert (ledger.attempts(KEY), ledger.progress(KEY)) == (0, 0)


class Broken:
    """A ledger whose writes fail so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        real = Ledger._execute

        def execute(ledger: Ledger, query: str, values: tuple[object, ...] = ()) -> Any:
            if self.left and query.startswith(("INSERT", "UPDATE", "DELETE")):
                self.left -= 1
                raise DiskError("The ledger: no space left.")
            return real(ledger, query, values)

        monkeypatch.setattr(Ledger, "_execute", execute)


def test_what_ended_counts_as_ended_though_it_cannot_be_written_yet(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(monkeypatch)
    for key in (KEY, OTHER):
        ledger.begin(key)
        ledger.begin(key)
    broken.left = 2
    with pytest.raises(DiskError):
        ledger.end(KEY)
    with pytest.raises(DiskError):
        ledger.take_back(OTHER)
    # The next that asks has the right number, and another attempt is the first.
    assert (ledger.attempts(KEY), ledger.attempts(OTHER)) == (0, 1)
    ledger.begin(KEY)
    assert ledger.attempts(KEY) == 1


def test_an_attempt_that_cannot_be_written_is_none(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken(monkeypatch)
    broken.left = 1
    with pytest.raises(DiskError):
        ledger.begin(KEY)
    assert ledger.attempts(KEY) == 0


def test_several_attempts_are_taken_back_at_once(ledger: Ledger) -> None:
    for key in (KEY, OTHER, OTHER):
        ledger.begin(key)
    ledger.take_back(KEY, OTHER)
    ledger.take_back()
    assert (ledger.attempts(KEY), ledger.attempts(OTHER)) == (0, 1)


def test_what_to_do_about_a_ledger_in_use_and_one_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout, **rest: real(path, timeout=0, **rest))
    with closing(Ledger(tmp_path)) as ledger, closing(real(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DiskError, match="locked") as caught:
            ledger.begin(KEY)
        assert "Another process" in caught.value.next_step
        assert "delete" not in str(caught.value)
        other.execute("ROLLBACK")
        ledger._execute("PRAGMA query_only=ON")
        with pytest.raises(DiskError, match="readonly") as caught:
            ledger.begin(KEY)
        assert "has free space" in caught.value.next_step
        assert "delete" not in str(caught.value)


def test_a_new_ledger_waits_for_a_process_that_opens_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite reports this lock at once, whatever its timeout."""
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE begun (name TEXT)")
        waits: list[float] = []

        def commit(seconds: float) -> None:
            waits.append(seconds)
            other.execute("COMMIT")

        monkeypatch.setattr("pipeline.storage.ledger.time.sleep", commit)
        with closing(Ledger(tmp_path)) as ledger:
            ledger.check()
        assert len(waits) == 1
