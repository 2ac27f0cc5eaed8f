"""One summary of a batch that shards make: from what each has written at its end, and from records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..spec.batches import Batch
from ..storage.outbox import BatchFolder
from ..storage.paths import BatchPaths, is_done
from .summary import COUNTS

# Why a run ended, the most important reason first.
_REASONS = ("fault", "stopped", "deadline", "max_failures", "finished")
# Fields of a summary that are numbers, and those that are lists.
_NUMBERS = ("jobs", *COUNTS.values(), "restored", "missing", "not_begun", "cache_hits", "cache_misses")
_LISTS = ("failures", "pictures")

Plain = dict[str, Any]


@dataclass(frozen=True)
class Merge:
    """Merges the summary of a shard's run with those of the other shards, and keeps it for them."""

    folder: BatchFolder
    batch: Batch

    def __call__(self, own: Plain) -> Plain:
        """Return the summary of the whole batch; called while `folder.shards.merging()` holds."""
        assert self.batch.shard is not None
        self.folder.shards.write_part(own)
        parts = self.folder.shards.read_parts()
        outcomes = _read_outcomes(self.folder.paths, self._names_of_others(parts))
        return merge_parts(parts, self.batch.shard.count, outcomes)

    def _names_of_others(self, parts: Mapping[int, Plain]) -> Iterator[str]:
        """Yield the names of the jobs of shards that have not ended."""
        shard = self.batch.shard
        assert shard is not None
        if len(parts) < shard.count:
            jobs = replace(self.batch, shard=None).jobs()
            yield from (job.name for job in jobs if shard.number_of(job.name) not in parts)


def merge_parts(parts: Mapping[int, Plain], count: int, others: Plain) -> Plain:
    """Return one summary of those of some shards, of `count`, and of the jobs of the others.

    `shards` tells how many there are, and which have not ended.
    """
    summaries = [parts[number] for number in sorted(parts)]
    whole: Plain = {**summaries[0]}
    for name in _NUMBERS:
        whole[name] = sum(part.get(name, 0) for part in (*summaries, others))
    for name in _LISTS:
        whole[name] = [one for part in (*summaries, others) for one in part.get(name, ())]
    started, finished = min(_texts(summaries, "started")), max(_texts(summaries, "finished"))
    reasons = _texts(summaries, "reason")
    return {
        **whole,
        "stopped": any(part.get("stopped") for part in summaries),
        "reason": min(reasons, key=lambda each: _REASONS.index(each) if each in _REASONS else 0),
        "fault": next(filter(None, _texts(summaries, "fault")), ""),
        "seconds": _seconds_between(started, finished) or max(part.get("seconds", 0) for part in summaries),
        "started": started,
        "finished": finished,
        "encoders": {name: digest for part in summaries for name, digest in part.get("encoders", {}).items()},
        "shards": {"count": count, "not_ended": [n for n in range(1, count + 1) if n not in parts]},
    }


def _texts(summaries: Iterable[Plain], name: str) -> list[str]:
    return [str(part.get(name, "")) for part in summaries]


def _seconds_between(started: str, finished: str) -> float:
    try:
        return (datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def _read_outcomes(paths: BatchPaths, names: Iterable[str]) -> Plain:
    """Return what records say about jobs, as a summary counts them; without a record they were not begun."""
    found: Plain = dict.fromkeys(_NUMBERS, 0) | {name: [] for name in _LISTS}
    # One listing, as most of many records are not there while the other shards work.
    recorded: set[str] | None = None
    for name in names:
        if recorded is None:
            recorded = set(paths.recorded_names())
        record = paths.read_record(name) if name in recorded else {}
        picture = {"name": name, "status": _status(paths, record)}
        if key := record.get("key"):
            picture["key"] = str(key)
        if picture["status"] == "done":
            picture["path"] = str(record["image"])
        if picture["status"] == "failed":
            texts = {each: str(record.get(each, "")) for each in ("key", "error", "next_step")}
            found["failures"].append({"name": name, **texts})
        found["pictures"].append(picture)
        found[picture["status"]] += 1
        found["jobs"] += 1
    return found


def _status(paths: BatchPaths, record: Mapping[str, Any]) -> str:
    if is_done(record):
        return "done" if paths.has_image(record) else "missing"
    return "failed" if record.get("status") == "failed" else "not_begun"
