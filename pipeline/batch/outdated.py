"""Which results and failures in a batch's folder are of no job of the batch any more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

from ..errors import ImageError
from ..spec.jobs import Job
from ..storage.paths import BatchPaths, names_with_ids
from .records import Pair, key_of_unread, pair_of_job, pair_of_record


class Outdated:
    """Tells the results that newer ones of their pair replace from those of jobs that share a name.

    `jobs_sharing` returns the jobs of a name that occurs more than once, `key_of` the key of a job. Only keys
    say which job a result is of. While an input of one of them cannot be read, no result of the name is
    outdated.
    """

    def __init__(
        self, paths: BatchPaths, jobs_sharing: Callable[[str], Iterable[Job]], key_of: Callable[[Job], str]
    ) -> None:
        self.paths = paths
        self.jobs_sharing = jobs_sharing
        self.key_of = key_of
        self._keys: dict[str, set[str] | None] = {}
        self._beside: dict[str, dict[Pair | None, list[str]]] = {}

    def includes(self, record: Mapping[str, Any], job: Job) -> bool:
        """Tell whether a job replaces the recorded result, which has its name and another key."""
        return pair_of_record(record) == pair_of_job(job) and self._no_job_has(record, job.name)

    def beside(self, job: Job, key: str) -> list[str]:
        """Return the names with an id whose results or failures a job replaces as well.

        The job itself may have failed under one of them, beside the result that it replaces now.
        """
        if job.name not in self._with_ids:
            return []
        if job.name not in self._beside:
            self._beside[job.name] = self._read_beside(job.name)
        own = [name for name in names_with_ids(job.name, key) if name in self._with_ids[job.name]]
        return own + self._beside[job.name].get(pair_of_job(job), [])

    def _read_beside(self, name: str) -> dict[Pair | None, list[str]]:
        found: defaultdict[Pair | None, list[str]] = defaultdict(list)
        for each in sorted(self._with_ids[name]):
            record = self.paths.read_record(each)
            pair = pair_of_record(record)
            key = str(record.get("key") or (pair and key_of_unread(pair[0])))
            if each in names_with_ids(name, key) and self._no_job_has(record, name):
                found[pair].append(each)
        return found

    def _no_job_has(self, record: Mapping[str, Any], name: str) -> bool:
        name = name.casefold()
        if name not in self._keys:
            try:
                self._keys[name] = {self.key_of(job) for job in self.jobs_sharing(name)}
            except ImageError:
                self._keys[name] = None
        keys = self._keys[name]
        return keys is not None and record.get("key") not in keys

    @cached_property
    def _with_ids(self) -> dict[str, set[str]]:
        return self.paths.recorded_with_ids()
