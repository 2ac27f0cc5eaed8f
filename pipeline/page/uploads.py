"""Pictures that are sent to the page: it writes them into the inbox, as anyone else who drops a file there.

A picture arrives under a hidden name, which the inbox ignores, and gets its own name by a rename once all of
it is on the disk. Nothing is decoded here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from ..errors import DiskError
from ..spec.names import composed, is_picture, reason_beside_a_picture, reason_to_ignore
from ..spec.output_names import safe_name
from ..storage.files import TEMPORARY_PREFIX, Disk, disk_errors
from ..storage.temporary import CAN_RENAME_OPEN_FILES, remove_unlocked, unfinished_file
from .answers import Refusal
from .watched import LIBRARY, StyleFile, Watched, file_id

# The largest picture that is taken, and how many arrive at once.
MOST_BYTES, MOST_AT_ONCE = 256 << 20, 4
# An upload of which nothing arrives for this many seconds is given up.
SILENT_S = 30.0
# How much is written to the disk at a time.
BLOCK_BYTES = 1 << 20
# Unfinished uploads have names of their own: the daemon's unfinished files are not ours to remove.
PREFIX = f"{TEMPORARY_PREFIX}upload-"


@dataclass(frozen=True)
class Uploaded:
    """A file that was put into the inbox; `relative` is its path there."""

    relative: Path

    @property
    def id(self) -> str:
        return file_id(self.relative)


@dataclass
class Uploads:
    """Writes uploads into an inbox. Used by one event loop."""

    watched: Watched
    disk: Disk = field(default_factory=Disk)
    most_bytes: int = MOST_BYTES
    silent_s: float = SILENT_S
    _arriving: list[int] = field(default_factory=list)  # sizes

    @property
    def arriving(self) -> int:
        """How many uploads arrive now."""
        return len(self._arriving)

    def sweep(self) -> None:
        """Remove what a process that was killed left unfinished."""
        for path in self.watched.inbox.glob(f"{PREFIX}*"):
            remove_unlocked(path)

    def photo_place(self, name: str, style: StyleFile | None) -> Path:
        """Return where in the inbox a photo goes: to a style, or to all of them.

        Raises:
            Refusal: its name cannot be used, or nothing can be dropped on the style.
        """
        if style is None:
            return Path(self._file_name(name))
        if style.reason:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY, f"Nothing can be dropped on this style: {style.reason}."
            )
        return Path(style.name, self._file_name(name))

    def style_place(self, name: str) -> Path:
        """Return where in the inbox a new style goes. Errors as for `photo_place`."""
        return Path(LIBRARY, self._file_name(name))

    def _file_name(self, name: str) -> str:
        """Return a name for a file of the inbox, as close as possible to that of someone's own file."""
        if not name or "/" in name or "\\" in name or "\0" in name:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"'{name}' is not the name of a file.")
        stem, suffix = os.path.splitext(name)
        if reason := reason_beside_a_picture(name):
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{name}: is {reason}.")
        if not is_picture(name):
            raise Refusal(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"{name}: is not named as a picture.",
                "Drop a picture, such as a JPEG, PNG, WebP or TIFF file.",
            )
        safe = safe_name(stem) + suffix
        if reason := reason_to_ignore(safe, self.watched.ignore):
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"{name}: the inbox leaves a file of this name alone ({reason}).",
                "Rename it, then drop it again.",
            )
        return safe

    async def receive(self, place: Path, length: int | None, chunks: AsyncIterator[bytes]) -> Uploaded:
        """Write an upload of a length into the inbox. If anything is wrong, nothing of it stays there.

        Raises:
            UsageError: no daemon has watched the inbox.
            Refusal: it is too large or too slow, or there is no space for it.
            ClientDisconnect: its sender went away before its end.
            DiskError: it cannot be written.
        """
        inbox = self.watched.inbox
        self.watched.control.check_watched()
        with self._reserved(length), disk_errors(inbox), unfinished_file(inbox, PREFIX) as (path, file):
            received = await self._write(file, chunks)
            if received != length:
                raise Refusal(HTTPStatus.BAD_REQUEST, f"{received} of {length} bytes came.", "Send it again.")
            if not CAN_RENAME_OPEN_FILES:
                file.close()
            return await asyncio.to_thread(self._publish, path, place)

    @contextmanager
    def _reserved(self, length: int | None) -> Iterator[None]:
        """Reserve the space for an upload before its first byte is read.

        Raises:
            Refusal: there is none, or it may not have so much.
        """
        if length is None:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "An upload must say how long it is.")
        if length > self.most_bytes:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The file has {length >> 20} MB; at most {self.most_bytes >> 20} MB are taken.",
                "Copy it into the inbox yourself.",
            )
        if length == 0:
            raise Refusal(HTTPStatus.BAD_REQUEST, "The file is empty.")
        if len(self._arriving) >= MOST_AT_ONCE:
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS, "Too many files are sent at once.", "Send this one again."
            )
        try:
            self.disk.require_free(self.watched.inbox, self.watched.min_free + length + sum(self._arriving))
        except DiskError as error:
            raise Refusal(HTTPStatus.INSUFFICIENT_STORAGE, error.message, error.next_step) from error
        self._arriving.append(length)
        try:
            yield
        finally:
            self._arriving.remove(length)

    async def _write(self, file: BinaryIO, chunks: AsyncIterator[bytes]) -> int:
        """Write what arrives; return how much it was."""
        block, received = bytearray(), 0
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks, None), self.silent_s)
            except TimeoutError as error:
                raise Refusal(
                    HTTPStatus.REQUEST_TIMEOUT, "The file stopped arriving.", "Send it again."
                ) from error
            received += len(chunk or b"")
            if received > self.most_bytes:
                raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "More came than was announced.")
            block += chunk or b""
            if len(block) >= BLOCK_BYTES or chunk is None:
                await asyncio.to_thread(file.write, bytes(block))
                block.clear()
            if chunk is None:
                await asyncio.to_thread(_flush, file)
                return received

    def _publish(self, path: Path, place: Path) -> Uploaded:
        """Give an upload its name in the inbox, or the first one with a number that is free."""
        stem, suffix = place.stem, place.suffix
        for number in chain([""], (f"-{n}" for n in count(2))):
            target = place.with_name(f"{stem}{number}{suffix}")
            if place.parent == Path(LIBRARY) and self._is_style(target.stem):
                continue  # with another suffix, but styles are known by their stems
            try:
                self.disk.move(path, self.watched.inbox / target)
            except FileExistsError:
                continue
            return Uploaded(target)
        raise AssertionError("there is always a number that is free")

    def _is_style(self, name: str) -> bool:
        folder = self.watched.library
        return folder.is_dir() and any(composed(path.stem) == composed(name) for path in folder.iterdir())


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
