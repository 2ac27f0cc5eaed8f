"""Which name a job's files have in the outbox."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .paths import OLDER, BatchPaths, is_done, names_with_ids, older_names

# Returns whether a job's result replaces the one that a record describes.
Replaces = Callable[[Mapping[str, Any]], bool]


def replaces_nothing(record: Mapping[str, Any]) -> bool:
    return False


@dataclass(frozen=True)
class Place:
    """Where a job's files go. `done`: they are there, with a record that names its key.

    If the job is not done, its image may be `missing` although the record is there, or its result may be kept
    under the name `older`. When the job's result is published, results of the names `outdated` move to
    `older/`, and failures of these names are forgotten.
    """

    name: str
    done: bool
    missing: bool = False
    older: str = ""
    outdated: tuple[str, ...] = ()


class Places:
    """Chooses names for results, so that none replaces another's or a file of the user's."""

    def __init__(self, paths: BatchPaths) -> None:
        self.paths = paths
        # Keys by the names given to them.
        self._given: dict[str, str] = {}

    def choose(
        self,
        name: str,
        suffix: str,
        key: str,
        drop: str = "",
        replaces: Replaces = replaces_nothing,
    ) -> Place:
        """Choose a job's name: `name`, or with a short id if another job has that.

        The answer depends on the records in the folder and the names given by this process, never on the
        order of a manifest. A job is done if its record and its image are there; one that the record ascribes
        to this same `drop` is done even if someone has fetched the image. A result that the job `replaces`
        does not stand in its way.
        """
        for candidate in (name, *names_with_ids(name, key)):
            record = self.paths.read_record(candidate)
            if record.get("key") == key and is_done(record):
                self._given[_folded(candidate)] = key
                done = self.paths.has_image(record) or (bool(drop) and record.get("drop") == drop)
                named = os.path.splitext(str(record.get("image") or ""))[0] == candidate
                return Place(candidate, done, missing=not done and not drop and named)
        free = self.give_free(name, suffix, key, replaces)
        return Place(free, done=False, older=self._find_older(name, key))

    def choose_beside(self, place: Place, suffix: str, key: str) -> Place:
        """Choose a name for a job that failed, beside the result that it would have replaced."""
        return Place(self.give_free(place.name, suffix, key), done=False)

    def give_free(self, name: str, suffix: str, key: str, replaces: Replaces = replaces_nothing) -> str:
        """Give a job `name`, or the first name with an id that is free."""
        candidates = (name, *names_with_ids(name, key))
        chosen = next((c for c in candidates if self._is_free(c, suffix, key, replaces)), candidates[-1])
        self._given[_folded(chosen)] = key
        return chosen

    def _is_free(self, name: str, suffix: str, key: str, replaces: Replaces) -> bool:
        if self._given.get(_folded(name), key) != key:
            return False
        record = self.paths.read_record(name)
        # A failed job published nothing, so its name may be used again.
        if is_done(record):
            return bool(record.get("key") == key) or replaces(record)
        if os.path.isdir(self.paths.record(name)) or os.path.isdir(self.paths.log(name)):
            return False
        return not os.path.lexists(self.paths.image(name, suffix))  # else someone put it there

    def _find_older(self, name: str, key: str) -> str:
        """Return the name under `older/` that holds a job's whole result, or ""."""
        if not self.has_older():
            return ""
        kept = ((each, self.paths.read_record(each)) for each in older_names(name, key))
        return next((each for each, r in kept if r.get("key") == key and self.paths.has_image(r)), "")

    def has_older(self) -> bool:
        """Return whether there are older results; only keys say which jobs they belong to."""
        return os.path.isdir(self.paths.logs / OLDER)

    def is_untaken(self, name: str) -> bool:
        """Return whether no job has this name, so that a snapshot may have it."""
        return _folded(name) not in self._given and not os.path.exists(self.paths.record(name))

    def has_record(self, name: str, suffix: str) -> bool:
        """Return whether a name is in use; if not, its job has to run, whatever its key is."""
        # Text, not Path: this is all that is done for most jobs of a plan, and each Path interns its parts.
        folder = self.paths.folder
        return (
            _folded(name) in self._given
            or os.path.exists(f"{folder}/logs/{name}.json")
            or os.path.exists(f"{folder}/{name}{suffix}")
        )

    def has_done(self, name: str, key: str) -> bool:
        """Return whether a job's record says that its picture was made, even if it is gone now."""
        record = self.paths.read_record(name)
        return is_done(record) and record.get("key") == key

    def has_result(self, name: str, key: str) -> bool:
        """Return whether a result of another job has this name."""
        record = self.paths.read_record(name)
        return is_done(record) and record.get("key") != key

    def check(self, name: str, suffix: str) -> None:
        """Check that a name can be used before anything is computed for it.

        Raises:
            PathError: the name is too long, or a file is where a folder should be.
            DiskError: the folder cannot be read.
        """
        for path in (self.paths.image(name, suffix), self.paths.log(name), self.paths.record(name)):
            with self.paths.errors(path), suppress(FileNotFoundError):
                path.lstat()


def _folded(name: str) -> str:
    """Names that differ in case only are one name on many disks."""
    return name.casefold()
