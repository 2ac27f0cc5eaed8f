from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import DiskError
from pipeline.ledger import Ledger

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
        "from pipeline.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.begin(sys.argv[2])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for attempt in (1, 2):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path), KEY], capture_output=True)
        assert done.returncode == -9, done.stderr.decode()
        with closing(Ledger(tmp_path)) as ledger:
            assert ledger.attempts(KEY) == attempt


def test_two_processes_may_share_a_ledger(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as one, closing(Ledger(tmp_path)) as two:
        for ledger in (one, two, one):
            ledger.begin(KEY)
        assert one.attempts(KEY) == two.attempts(KEY) == 3


def test_the_last_speed_of_an_encoder_is_kept(ledger: Ledger) -> None:
    assert ledger.speed("vgg19") is None
    ledger.note_speed("vgg19", "cpu", 4.5)
    ledger.note_speed("vgg19-slim", "cpu", 0.5)
    ledger.note_speed("vgg19", "cuda:0", 0.01)
    assert ledger.speed("vgg19") == ("cuda:0", 0.01)
    assert ledger.speed("vgg19-slim") == ("cpu", 0.5)


def test_a_deleted_ledger_begins_anew(tmp_path: Path) -> None:
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
