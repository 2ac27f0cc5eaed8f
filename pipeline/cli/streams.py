"""Standard output and error that never raise: they drop what cannot be written, and keep the error."""

from __future__ import annotations

import errno
import io
import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The reader is gone on purpose: `| head`, or a closed terminal.
GONE = frozenset({errno.EPIPE, errno.EIO, errno.ENXIO})


class LossyWriter(io.RawIOBase):
    """Writes to a stream without a buffer, and never raises. A line that was cut off ends before the next."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._cut = False
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: ReadableBuffer, /) -> int:
        whole = bytes(data)
        left = memoryview(b"\n" + whole if self._cut else whole)
        try:
            while left:
                left = left[self._write_some(left) :]
            self._stream.flush()
            self._cut = False
        except OSError as error:
            self.error = error
            self._cut = self._cut or 0 < len(left) < len(whole)
        return len(whole)

    def _write_some(self, data: memoryview) -> int:
        written: int | None = self._stream.write(data)
        if written is None:  # another program made the stream non-blocking
            select.select([], [self._stream], [])
        return written or 0


def write_error(stream: TextIO) -> OSError | None:
    """Return the last error of a guarded stream, or None if there was none or its reader is gone."""
    error = getattr(getattr(stream, "buffer", None), "error", None)
    return error if isinstance(error, OSError) and error.errno not in GONE else None


def encoded(text: str, stream: TextIO | None) -> bytes:
    """Return text in a stream's encoding, with escapes for characters that it lacks."""
    return text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace")


def guarded(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a replacement for a standard stream whose writes never raise.

    Characters that its encoding lacks are written as escapes.
    """
    if stream is None:  # it was closed before this program began
        raw = cast(BinaryIO, io.FileIO(descriptor, "w", closefd=False))
    elif hasattr(stream, "buffer"):
        with suppress(OSError):
            stream.flush()
        raw = getattr(stream.buffer, "raw", stream.buffer)
    else:  # a StringIO of the caller
        return stream
    encoding = stream.encoding if stream else "utf-8"
    outlet = cast(BinaryIO, LossyWriter(raw))
    return io.TextIOWrapper(outlet, encoding, "backslashreplace", line_buffering=True, write_through=True)


def open_closed_streams() -> None:
    """Open the null device in place of closed standard streams: no other file gets their descriptors."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
