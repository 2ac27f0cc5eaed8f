"""Inputs that are sent to the nodes by value, each once for many jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...spec.jobs import Task
from .inputs import digest_of, paths_of

# What is kept in Ray's store for later jobs, at most: styles above all.
KEPT_BYTES = 256 << 20


class Shipping:
    """Puts files into Ray's store, from which each node fetches them when it needs them."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()  # by digest; the latest used last

    def send(self, tasks: Sequence[Task]) -> dict[Path, Any]:
        """Return a reference to each input of tasks.

        The file may have changed since the tasks were made, or be gone: then it is not what its digest says,
        which the other side notices.
        """
        digests = {path: digest for task in tasks for path, digest in task.digests.items()}
        return {path: self._reference(path, digests[path]) for path in paths_of(tasks)}

    def _reference(self, path: Path, digest: str) -> Any:
        import ray

        if digest in self._kept:
            self._kept.move_to_end(digest)
            return self._kept[digest][0]
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        reference = ray.put(data)
        if digest_of(data) == digest:
            self._kept[digest] = reference, len(data)
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)
        return reference
