"""The sha256 of input files, and when they were last modified."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import DiskError, ImageError
from ..storage.files import sha256_of


class ReadingStopped(Exception):
    """The program was asked to stop while it read inputs."""


class Digests(dict[Path, str]):
    """The sha256 of files by path. Each is read when it is first asked for.

    `modified_ns` has when each was last modified, in nanoseconds since 1970.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        super().__init__()
        self.modified_ns: dict[Path, int] = {}
        self._should_stop = should_stop

    def __missing__(self, path: Path) -> str:
        """Read a file.

        Raises:
            ReadingStopped: asked to stop before it was read.
            ImageError: it cannot be read.
            DiskError: its folder is gone.
        """
        try:
            modified_ns = path.stat().st_mtime_ns
            self[path] = sha256_of(path, self._tick)
            self.modified_ns[path] = modified_ns
        except ValueError as error:  # a NUL
            raise ImageError(f"{path}: cannot be read ({error}).", "Check the path.") from error
        except OSError as error:
            reason = error.strerror or str(error)
            # `Path.is_dir` raises where a folder above may not be read, or its share is stale.
            if not isinstance(error, PermissionError) and not os.path.isdir(path.parent):
                # Not a bad picture, but a folder that went away.
                raise DiskError(
                    f"{path.parent}: the folder is gone ({reason}).",
                    "Check the path, or mount it, and run again.",
                ) from error
            raise ImageError(
                f"{path}: cannot be read ({reason}).", "Check the path and its permissions."
            ) from error
        return self[path]

    def _tick(self) -> None:
        if self._should_stop():
            raise ReadingStopped
