"""Records what is done to a tree of folders, and rebuilds what a crash after any of it would leave.

A node is a file or a folder, by its inode; an entry is a name in a folder. Every file ever seen keeps a
hard link in a store outside of the tree, so that a rebuilt tree has the files themselves, not copies.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger

Entry = tuple[int, str]
Tree = dict[Entry, int]
Model = Literal["journal", "unordered"]

WRITES = ("INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Operation:
    """One step. `changes` are the entries that came, went (None) or changed, all at once.

    `synced` is the file or folder whose bytes or entries became durable; `query` is a change of the ledger.
    `volume` names the file system.
    """

    what: str
    volume: str = ""
    changes: tuple[tuple[Entry, int | None], ...] = ()
    synced: int | None = None
    query: tuple[str, tuple[object, ...]] | None = None


@dataclass(frozen=True)
class Crash:
    """The first `length` operations happened; those in `dropped` did not last. Files in `cut` kept a part."""

    length: int
    dropped: frozenset[int] = frozenset()
    cut: Mapping[int, float] | None = None


class RecordingDisk(Disk):
    """A real disk that notes every change in a recording. Top folders in `apart` are other file systems.

    Nothing is really synced: what lasts is for the models to say.
    """

    def __init__(self, recording: Recording, after: Callable[[str, tuple[Path, ...]], None]) -> None:
        self.recording = recording
        self.after = after

    def mkdir(self, path: Path) -> None:
        self._do("mkdir", path)

    def write(self, path: Path, data: bytes) -> None:
        self._do("write", path, data)

    def copy(self, source: Path, target: Path) -> None:
        self._do("copy", source, target)

    def rename(self, source: Path, target: Path) -> None:
        if self.recording.volume(source) != self.recording.volume(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        self._do("rename", source, target)

    def replace(self, source: Path, target: Path) -> None:
        self._do("replace", source, target)

    def unlink(self, path: Path) -> None:
        self._do("unlink", path)

    def rmdir(self, path: Path) -> None:
        self._do("rmdir", path)

    def sync(self, path: Path) -> None:
        self.recording.note_sync(path)

    def sync_folder(self, path: Path) -> None:
        self.recording.note_sync(path)

    def _do(self, operation: str, *arguments: Any) -> None:
        paths = tuple(argument for argument in arguments if isinstance(argument, Path))
        self.recording.note_others()
        getattr(Disk, operation)(self, *arguments)
        self.recording.note_change(operation, paths)
        self.after(operation, paths)


class RecordingLedger(Ledger):
    """A ledger whose changes are part of a recording, from the moment that it is open."""

    recording: Recording | None = None

    def record_in(self, recording: Recording) -> None:
        self.recording = recording
        recording.ledger_base = self._database.serialize()

    def _execute(self, query: str, values: tuple[object, ...] = ()) -> Any:
        result = super()._execute(query, values)
        if self.recording is not None and query.startswith(WRITES):
            self.recording.note_query(query, values)
        return result


class Recording:
    """What was done below `root` since this was made, and what a crash would leave of it."""

    def __init__(self, root: Path, store: Path, apart: Iterable[str] = ()) -> None:
        self.root = root
        self.store = store
        self.apart = frozenset(apart)
        self.ledger_base = b""
        self.operations: list[Operation] = []
        self.root_node = root.stat().st_ino
        self.folders = {self.root_node}
        self._volumes: dict[int, str] = {}
        self._held: list[int] = []  # open folders: the number of one that was removed is not given again
        self._kept = {int(name) for name in os.listdir(store)}
        self.base = self._read_tree()
        self.durable_files = set(self.base.values())
        self._now = dict(self.base)
        self._needs: list[set[int]] = []
        self._touched: dict[Entry, int] = {}
        self._touched_in: dict[int, set[int]] = defaultdict(set)
        self._made: dict[int, int] = {}

    # Recording

    def close(self) -> None:
        """End the recording; what was recorded stays."""
        while self._held:
            os.close(self._held.pop())

    def volume(self, path: Path) -> str:
        top = path.relative_to(self.root).parts[:1]
        return top[0] if top and top[0] in self.apart else ""

    def note_change(self, what: str, paths: tuple[Path, ...]) -> None:
        """Note what an operation changed, as one step."""
        changes = list(self._changes())
        names = " ".join(path.relative_to(self.root).as_posix() for path in paths)
        self._note(Operation(f"{what} {names}", self.volume(paths[-1]), tuple(changes)))

    def note_others(self) -> None:
        """Note what was changed otherwise (locks, consumers, trees removed), entry by entry."""
        for change in self._changes():
            self._note(Operation(f"other {change[0][1]}", self._volumes.get(change[0][0], ""), (change,)))

    def note_sync(self, path: Path) -> None:
        self.note_others()
        node = path.stat().st_ino
        name = path.relative_to(self.root).as_posix()
        self._note(Operation(f"sync {name}", self.volume(path), synced=node))

    def note_query(self, query: str, values: tuple[object, ...]) -> None:
        self.note_others()
        self._note(Operation(f"ledger {query[:40]}", query=(query, values)))

    def _changes(self) -> Iterator[tuple[Entry, int | None]]:
        """Yield what changed since the tree was last read: what went, deepest first, then what came."""
        before, self._now = self._now, self._read_tree()
        yield from ((entry, None) for entry in reversed(before) if entry not in self._now)
        yield from ((entry, node) for entry, node in self._now.items() if before.get(entry) != node)

    def _read_tree(self) -> Tree:
        """Return every entry, those of a folder before those in it."""
        tree: Tree = {}
        todo = [(str(self.root), self.root_node, "")]
        while todo:
            path, folder, volume = todo.pop()
            with os.scandir(path) as found:
                for one in found:
                    node = one.inode()
                    tree[folder, one.name] = node
                    if one.is_dir(follow_symlinks=False):
                        inside = volume or (one.name if one.name in self.apart else "")
                        self._volumes[node] = inside
                        if node not in self.folders:
                            self.folders.add(node)
                            self._held.append(os.open(one.path, os.O_RDONLY))
                        todo.append((one.path, node, inside))
                    elif node not in self._kept:
                        self._kept.add(node)
                        os.link(one.path, self.store / str(node))
        return tree

    def _note(self, operation: Operation) -> None:
        """Add a step, with the earlier ones that it cannot do without on any disk.

        An entry's changes last in their order, a folder exists before what is in it, and is removed after.
        """
        number, needs = len(self.operations), set()
        for entry, node in operation.changes:
            needs |= {n for n in (self._touched.get(entry), self._made.get(entry[0])) if n is not None}
            gone = self._node_before(entry)
            if node is None and gone in self.folders and gone not in dict(operation.changes).values():
                needs |= self._touched_in[gone]
        for entry, node in operation.changes:
            self._touched[entry] = number
            self._touched_in[entry[0]].add(number)
            if node in self.folders and node not in self._made and node not in self.base.values():
                self._made[node] = number
        self.operations.append(operation)
        self._needs.append(needs)

    def _node_before(self, entry: Entry) -> int | None:
        last = self._touched.get(entry)
        return self.base.get(entry) if last is None else dict(self.operations[last].changes)[entry]

    # Crashing

    def at_risk(self, length: int, model: Model) -> list[list[int]]:
        """Return the changes of entries, by file system, that a power loss after `length` steps may undo."""
        steps = range(length)
        changes = [n for n in steps if self.operations[n].changes]
        durable = self._durable_in_journal(length) if model == "journal" else self._durable_unordered(length)
        by_volume: dict[str, list[int]] = defaultdict(list)
        for n in changes:
            if n not in durable:
                by_volume[self.operations[n].volume].append(n)
        return list(by_volume.values())

    def _durable_in_journal(self, length: int) -> set[int]:
        """A sync of anything makes all earlier changes of its file system durable."""
        durable, waiting = set(), defaultdict(list)
        for n, operation in enumerate(self.operations[:length]):
            if operation.changes:
                waiting[operation.volume].append(n)
            elif operation.synced is not None:
                durable |= set(waiting.pop(operation.volume, []))
        return durable

    def _durable_unordered(self, length: int) -> set[int]:
        """A sync of a folder makes durable what was changed in it, and what that needs; no more."""
        durable: set[int] = set()
        for n, operation in enumerate(self.operations[:length]):
            if operation.synced in self.folders:
                durable |= self._with_needs(m for m in self._touched_in[operation.synced] if m < n)
        return durable

    def _with_needs(self, numbers: Iterable[int]) -> set[int]:
        todo, found = list(numbers), set()
        while todo:
            if (n := todo.pop()) not in found:
                found.add(n)
                todo += self._needs[n]
        return found

    def unsynced_files(self, length: int) -> list[int]:
        """Return the files whose bytes a power loss may cut short."""
        made = [node for o in self.operations[:length] for _, node in o.changes if node is not None]
        synced = {o.synced for o in self.operations[:length]} | self.durable_files | self.folders
        return sorted(set(made) - synced)

    def last_written(self, length: int) -> int | None:
        """Return the file that the last step wrote, and that a kill may leave half written."""
        last = self.operations[length - 1] if length else Operation("")
        return last.changes[0][1] if last.what.startswith(("write", "copy")) else None

    def with_dependents(self, dropped: Iterable[int], length: int) -> frozenset[int]:
        """Return the steps dropped, with all that cannot have lasted without them."""
        gone = set(dropped)
        for n in range(length):
            if self._needs[n] & gone:
                gone.add(n)
        return frozenset(gone)

    def tree(self, crash: Crash) -> Tree:
        tree = dict(self.base)
        for n, operation in enumerate(self.operations[: crash.length]):
            for entry, node in operation.changes if n not in crash.dropped else ():
                if node is None:
                    tree.pop(entry, None)
                else:
                    tree[entry] = node
        return tree

    def queries(self, length: int) -> list[tuple[str, tuple[object, ...]]]:
        return [o.query for o in self.operations[:length] if o.query is not None]

    def signature(self, crash: Crash) -> object:
        """Crashes with equal signatures leave the same disk and ledger."""
        tree, cut = self.tree(crash), crash.cut or {}
        return (
            frozenset(tree.items()),
            frozenset((node, part) for node, part in cut.items() if node in tree.values()),
            len([q for q, _ in self.queries(crash.length) if "daemons" not in q]),
        )

    def rebuild(self, crash: Crash) -> None:
        """Make the tree what the crash left."""
        for entry in list(self.root.iterdir()):
            shutil.rmtree(entry)
        inside: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for (folder, name), node in self.tree(crash).items():
            inside[folder].append((name, node))
        self._fill(self.root, self.root_node, inside, crash.cut or {})

    def _fill(
        self, path: Path, folder: int, inside: dict[int, list[tuple[str, int]]], cut: Mapping[int, float]
    ) -> None:
        for name, node in inside[folder]:
            place, kept = path / name, self.store / str(node)
            if node in self.folders:
                place.mkdir()
                self._fill(place, node, inside, cut)
            elif node in cut:
                data = kept.read_bytes()
                place.write_bytes(data[: int(len(data) * cut[node])])
            else:
                os.link(kept, place)

    def rebuild_ledger(self, state: Path, length: int | None) -> None:
        """Make the ledger what it was after `length` steps; None deletes it."""
        for path in state.glob("ledger*"):
            path.unlink()
        if length is None:
            return
        path = state / "ledger.sqlite3"
        path.write_bytes(self.ledger_base)
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            for query, values in self.queries(length):
                database.execute(query, values)
