"""A world with an inbox and an outbox, of which a recorded run may be undone from any step on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import yaml
from fakes import QUICK, Clock, FakeExecutor, picture_bytes
from PIL import Image
from recorded import Crash, Model, Recording, RecordingDisk, RecordingLedger

from pipeline.cli.display import Display
from pipeline.errors import DeviceError
from pipeline.spec.config import read_config
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.watch.claims import Claims
from pipeline.watch.daemon import Daemon
from pipeline.watch.events import Waker
from pipeline.watch.heartbeat import Heartbeat
from pipeline.watch.quarantine import Quarantine
from pipeline.watch.service import ServiceManager
from pipeline.watch.setup import Context, WatchOptions

MODELS: tuple[Model, ...] = ("journal", "unordered")

LIMIT = 3

LedgerAfter = Literal["kept", "old", "gone"]


# What may be said of a picture that was quarantined here.
REASONS = ("told to fail", "ended the process 3 times", "ended the worker 3 times")


class PatientWaker(Waker):
    """Waits by putting the clock forward."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder, "off", clock)
        self.clock = clock

    def wait(self, timeout_s: float) -> bool:
        self.clock.now += max(timeout_s, 0.0)
        return False


@dataclass(frozen=True)
class Published:
    """A picture that left the stage: at which step of its run, for which drop and style, as what."""

    step: int
    drop: str
    style: str
    name: str
    sha256: str


@dataclass
class Ran:
    """A recorded run. `complete` if it came to its end with nothing left to do."""

    recording: Recording
    published: list[Published] = field(default_factory=list)
    taken: list[tuple[int, str, str]] = field(default_factory=list)
    complete: bool = False

    @property
    def length(self) -> int:
        return len(self.recording.operations)


class World:
    """An inbox, its outbox, what a user dropped, and what a consumer took away."""

    def __init__(self, originals: str = "archive", apart: tuple[str, ...] = (), styles: int = 1) -> None:
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)).resolve()
        self.root, self.store, self.state = (self.folder / name for name in ("disk", "store", "state"))
        self.inbox, self.outbox = self.root / "inbox", self.root / "outbox"
        self.apart, self.originals_are = apart, originals
        self.drops: list[tuple[str, bytes]] = []
        self.published: list[Published] = []
        self.taken: dict[str, str] = {}
        self.crashes, self.lost_power, self.drop_count = 0, False, 0
        for folder in (self.inbox / "styles", self.outbox, self.root / "archive", self.root / "quarantine"):
            folder.mkdir(parents=True)
        self.store.mkdir()
        for number in range(styles):
            (self.inbox / "styles" / f"s{number}.png").write_bytes(picture_bytes(f"style {number}"))
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump({
            "outbox": "disk/outbox", "state_dir": "state", "cache_dir": "cache", "recipe": QUICK,
            "max_attempts": LIMIT,
            "watch": {
                "inbox": "disk/inbox", "settle_s": 2, "notify": "off", "min_free_mb": 0,
                "originals": originals,
            },
        }))  # fmt: skip
        self.config = read_config(path)

    def close(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def claims(self) -> Claims:
        return self._claims(Disk())

    def _claims(self, disk: Disk) -> Claims:
        watch = self.config.watch
        return Claims(self.inbox, watch.archive_dir, disk)

    def quarantine(self, disk: Disk) -> Quarantine:
        return Quarantine(self.inbox, self.config.watch.quarantine_dir, disk)

    # What people do

    def drop(self, name: str, data: bytes) -> None:
        """Put a whole picture into the inbox, unless there is one of this name, or its like is claimed.

        A second one is told from a copy that was cut off by its ctime, which rebuilt files do not keep.
        """
        path = self.inbox / name
        claimed = self.claims.claimed_folder.glob(f"*/{name}")
        if path.exists() or any(one.read_bytes() == data for one in claimed):
            return
        path.parent.mkdir(exist_ok=True)
        outside = self.folder / "outside"
        outside.write_bytes(data)
        outside.rename(path)
        self.drops.append((name, data))

    def take(self) -> None:
        """A consumer fetches every picture."""
        for path in self.images():
            self.taken[self._name(path)] = sha256(path)
            path.unlink()

    def delete_ledger(self) -> None:
        for path in self.state.glob("ledger*"):
            path.unlink()

    # What the program does

    def run(self, faults: Mapping[str, Any] | None = None, eager: bool = False) -> Ran:
        """Run the daemon until nothing is left to do, and record it; an eager consumer takes all at once."""

        def work(disk: Disk, ledger: Ledger) -> bool:
            clock = Clock()
            display = Display()
            heartbeat = Heartbeat(ledger, self.config, display, ServiceManager({}), clock)
            waker = PatientWaker(self.inbox, clock)
            context = Context(
                WatchOptions(once=True),
                ledger,
                heartbeat,
                waker,
                lambda config, tick: FakeExecutor(faults=faults or {}),
                disk=disk,
                clock=clock,
            )
            try:
                return Daemon(self.config, context).run().left == 0
            except DeviceError:
                return False

        return self._record(work, eager)

    def retry(self) -> Ran:
        """Do what the command `retry --all-quarantined` does, and record it."""

        def work(disk: Disk, ledger: Ledger) -> bool:
            quarantine = self.quarantine(disk)
            for one in quarantine.files():
                if not (self.inbox / str(one.report["path"])).exists():
                    quarantine.retry(one)
                    for key in one.report["keys"]:
                        ledger.end(key)
            return False

        return self._record(work, eager=False)

    def _record(self, work: Callable[[Disk, Ledger], bool], eager: bool) -> Ran:
        recording = Recording(self.root, self.store, self.apart)
        ran = Ran(recording)

        def watch(operation: str, paths: tuple[Path, ...]) -> None:
            target = paths[-1]
            if operation in {"rename", "replace"} and self._is_visible_image(target):
                record = json.loads(paths[0].with_name("record.json").read_bytes())
                style, name, digest = record["style"]["name"], self._name(target), sha256(target)
                ran.published.append(Published(ran.length, record["drop"], style, name, digest))
                if eager:
                    target.unlink()
                    recording.note_others()
                    ran.taken.append((ran.length, name, digest))

        with (
            closing(recording),
            closing(RecordingLedger(self.state)) as ledger,
            mock.patch("pipeline.watch.originals.new_id", self._new_id),
        ):
            ledger.record_in(recording)
            ran.complete = work(RecordingDisk(recording, watch), ledger)
            recording.note_others()
        return ran

    def _new_id(self) -> str:
        self.drop_count += 1
        return f"drop{self.drop_count:04}"

    def keep(self, ran: Ran) -> None:
        """Let a recorded run have happened whole."""
        self._remember(ran, ran.length)

    def _remember(self, ran: Ran, length: int) -> None:
        self.published += [one for one in ran.published if one.step <= length]
        self.taken |= {name: digest for step, name, digest in ran.taken if step <= length}

    def crash(self, ran: Ran, crash: Crash, ledger: LedgerAfter = "kept", power: bool = True) -> None:
        """Put everything back to what a crash in a recorded run left."""
        self._remember(ran, crash.length)
        self.crashes += 1
        self.lost_power |= power
        ran.recording.rebuild(crash)
        lengths: dict[LedgerAfter, int | None] = {"kept": crash.length, "old": 0, "gone": None}
        ran.recording.rebuild_ledger(self.state, lengths[ledger])

    # What is there

    def originals(self) -> list[Path]:
        styles = self.inbox / "styles"
        own = {"lock", "holder.json", "error.json"}
        roots = (self.inbox, self.root / "archive", self.root / "quarantine")
        files = [path for root in roots if root.exists() for path in root.rglob("*") if path.is_file()]
        return [p for p in files if p.name not in own and p.name[0] != "." and styles not in p.parents]

    def images(self) -> list[Path]:
        return sorted(path for path in self.outbox.rglob("*.png") if self._is_visible_image(path))

    def _is_visible_image(self, path: Path) -> bool:
        inside = self.outbox in path.parents and path.suffix == ".png"
        return inside and not any(part[0] == "." for part in path.relative_to(self.outbox).parts)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.outbox / "inbox").as_posix()

    def records(self) -> list[dict[str, Any]]:
        """Every record that says done."""
        found = [json.loads(path.read_bytes()) for path in self.outbox.glob("*/logs/**/*.json")]
        return [record for record in found if record["status"] == "done"]

    def attempts(self) -> list[int]:
        if not (self.state / "ledger.sqlite3").exists():
            return []
        with closing(Ledger(self.state)) as ledger:
            return [row[0] for row in ledger._database.execute("SELECT count FROM attempts_of")]

    # The promises

    def check(self) -> None:
        """What must hold at every moment."""
        self._check_nothing_lost(cut_off=True)
        for path in self.images():
            Image.open(io.BytesIO(path.read_bytes())).load()
        for record in self.records():
            assert self._is_delivered(record), record
        assert all(count <= LIMIT for count in self.attempts())
        self._check_publications()

    def check_finished(self) -> None:
        """What must hold when a run came to its end."""
        self._check_nothing_lost(cut_off=False)
        self.check()
        assert [path for path in self.outbox.glob("*/.staged/**/*") if path.is_file()] == []
        quarantined = self._check_quarantined()
        self._check_inbox()
        # A drop that fails takes the record of an earlier one with its name and bytes.
        wanted = {drop for drop in self.drops if drop not in quarantined}
        styles = [path.stem for path in (self.inbox / "styles").iterdir()]
        records = Counter(map(_identity, self.records()))
        for name, data in wanted:
            for style in styles:
                assert records[str(self.inbox / name), digest_of(data), style] == 1, (name, style)
        assert all(count == 1 for count in records.values())
        named = Counter(record["image"] for record in self.records())
        assert all(named[self._name(path)] == 1 for path in self.images())

    def _check_nothing_lost(self, cut_off: bool) -> None:
        found = Counter(path.read_bytes() for path in self.originals())
        wanted = Counter(data for _, data in self.drops)
        where = [str(path.relative_to(self.root)) for path in self.originals()]
        if self.originals_are == "delete":
            done = {record["content"]["sha256"] for record in self.records()}
            assert all(digest_of(data) in done for data in wanted - found), where
        elif self.apart:  # of two alike drops of one name, a move between file systems leaves one
            assert set(found) == set(wanted), ("lost", where)
        else:
            assert not wanted - found, ("lost", where)
        if not (cut_off and self.apart):  # between file systems a copy exists before the original goes
            assert not found - wanted, ("doubled", where)
        assert set(found) <= set(wanted), where

    def _is_delivered(self, record: Mapping[str, Any]) -> bool:
        image = str(record["image"])
        return (self.outbox / "inbox" / image).exists() or image in self.taken

    def _check_publications(self) -> None:
        """Each drop's picture in one style was published once, or after a power loss the same again."""
        times = Counter((one.drop, one.style) for one in self.published)
        kinds = Counter({(one.drop, one.style, one.name, one.sha256) for one in self.published})
        different = Counter((drop, style) for drop, style, _, _ in kinds)
        assert all(count == 1 for count in different.values()), self.published
        if not self.lost_power:
            assert all(count == 1 for count in times.values()), self.published

    def _check_quarantined(self) -> Counter[tuple[str, bytes]]:
        quarantined = self.quarantine(Disk()).files()
        files = [path for path in self.originals() if self.root / "quarantine" in path.parents]
        assert len(quarantined) == len(files)
        for one in quarantined:
            error = one.report["error"]
            assert any(reason in error for reason in REASONS), error
            assert "told to fail" in error or self.crashes >= LIMIT
        return Counter((str(one.report["path"]), one.file.read_bytes()) for one in quarantined)

    def _check_inbox(self) -> None:
        styles, hidden = self.inbox / "styles", self.inbox / ".style-pipeline"
        files = [path for path in self.originals() if self.inbox in path.parents]
        for path in files:
            assert styles not in path.parents
            assert hidden not in path.parents
            assert self.originals_are == "leave", path
            assert self.claims.markers.is_done(path.relative_to(self.inbox)), path


def _identity(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return record["content"]["path"], record["content"]["sha256"], record["style"]["name"]


def sha256(path: Path) -> str:
    return digest_of(path.read_bytes())


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
