"""Runs shards of a batch as processes of their own, with a quick engine. Started by `test_shards_faults`.

A line of JSON on stdin lists the runs to start at once: [shard, number of the disk's point at which SIGKILL
strikes, or null]; "" is the whole batch. The answer is a line with an exit code and the number of points for
each.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from disks import HookedDisk, Points
from fakes import QUICK, FakeExecutor, Recorder

from pipeline.batch.merge import Merge
from pipeline.batch.runner import Runner
from pipeline.spec.manifest import read_manifest
from pipeline.spec.shards import read_shard
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder


def run(folder: Path, shard: str, kill_at: int | None) -> int:
    """Run a shard to its end, and return the number of points that it passed."""
    batch = read_manifest(folder / "night.yaml", QUICK, {})
    if shard:
        batch = replace(batch, shard=read_shard(shard, {}))
    points = Points(kill_at)
    label = batch.shard.label if batch.shard else ""
    batch_folder = BatchFolder(folder / "outbox", batch.name, HookedDisk(points), label)
    more = {"merge": Merge(batch_folder, batch)} if batch.shard else {}
    # Each on a machine of its own, with its own state.
    with closing(Ledger(folder / "state" / (label or "whole"))) as ledger, batch_folder.locked():
        Runner(batch_folder, ledger, FakeExecutor(), Recorder(), **more).run(batch.jobs, len(batch))
    return len(points.passed)


def fork(folder: Path, shard: str, kill_at: int | None) -> tuple[int, int]:
    """Start a run; return its process, and the end of a pipe from which its number of points can be read."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    code = 1
    try:
        os.write(write, str(run(folder, shard, kill_at)).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def outcome(child: int, read: int) -> tuple[int, int]:
    _, status = os.waitpid(child, 0)
    points = os.read(read, 32)
    os.close(read)
    return os.waitstatus_to_exitcode(status), int(points or 0)


def serve() -> None:
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    for line in sys.stdin:
        request = json.loads(line)
        started = [fork(Path(request["folder"]), shard, kill_at) for shard, kill_at in request["runs"]]
        sys.stdout.write(json.dumps([outcome(*each) for each in started]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
