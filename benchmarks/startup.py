"""Seconds from the command to the first job's start and first step, and the memory held by then.

    python -m benchmarks.startup --jobs 100000 --todo 100 --json

Runs the command `run` on a manifest of one job, then on one of many that are all done but a few. What is done
are copies of the one job's result, published by the program's own functions. `spread`: the jobs to do lie
evenly among the others; `end`: after all of them. Memory is what the system calls resident, in MB: files that
are mapped, such as torch's libraries, count as far as they were read. It is for Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pipeline.spec.jobs import EncoderInfo, Job, job_key
from pipeline.spec.manifest import read_manifest
from pipeline.storage.files import Disk
from pipeline.storage.outbox import BatchFolder

# A snapshot makes the step visible in the log.
QUICK = {"size": 32, "pyramid": 0, "steps": 1, "encoder": "vgg19-slim", "snapshot_every": 1}
STYLES = 100
ONE, MANY = "one", "many"


@dataclass(frozen=True)
class Ran:
    """Seconds since the command, None where the log did not say; memory in MB."""

    started_s: float | None
    step_s: float | None
    ended_s: float
    memory_at_start_mb: float | None
    memory_peak_mb: float


class HastyDisk(Disk):
    """What is made here need not survive a power cut."""

    def sync(self, path: Path) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000, help=f"rounded down to a multiple of {STYLES}")
    parser.add_argument("--todo", type=int, default=100)
    parser.add_argument("--where", choices=["spread", "end"], nargs="+", default=["spread", "end"])
    parser.add_argument("--repeats", type=int, default=5, help="runs of the one job; their median counts")
    parser.add_argument("--folder", type=Path, help="work here, keep it, and use what an earlier run left")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        prepare(folder, max(1, arguments.jobs // STYLES))
        result = measure(folder, arguments.todo, arguments.where, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<32} {value}")


def measure(folder: Path, todo: int, places: Sequence[str], repeats: int) -> dict[str, object]:
    run(folder, ONE)  # also to warm up
    ones = []
    for _ in range(repeats):
        [job] = batch_jobs(folder, ONE)
        unpublish(BatchFolder(folder / "outbox", ONE), job)
        ones.append(run(folder, ONE))
    result = summary(ONE, ones)
    jobs = batch_jobs(folder, MANY)
    began = time.perf_counter()
    publish_copies(folder, jobs)
    result |= {"jobs": len(jobs), "todo": todo, "fabricated_s": round(time.perf_counter() - began, 1)}
    for place in places:
        first = {"spread": len(jobs) // todo // 2, "end": len(jobs) - todo}[place]
        apart = {"spread": len(jobs) // todo, "end": 1}[place]
        for job in jobs[first::apart]:
            unpublish(BatchFolder(folder / "outbox", MANY), job)
        result |= summary(place, [run(folder, MANY)])
    return result


def summary(name: str, runs: Sequence[Ran]) -> dict[str, object]:
    """Return the median of every measure."""
    columns = {field: [getattr(ran, field) for ran in runs] for field in vars(runs[0])}
    return {
        f"{name}_{field}": None if None in values else round(statistics.median(values), 2)
        for field, values in columns.items()
    }


def prepare(folder: Path, contents: int) -> None:
    """Write distinct pictures, the manifests and the configuration."""
    for kind, count in (("contents", contents), ("styles", STYLES)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            colour = (number % 256, number // 256, 80 if kind == "styles" else 160)
            Image.new("RGB", (32, 32), colour).save(folder / kind / f"{number:05d}.png")
    first = [{"content": "contents/00000.png", "style": "styles/00000.png"}]
    every = {"contents": ["contents/*.png"], "styles": ["styles/*.png"]}
    config = {"state_dir": "state", "cache_dir": "cache", "outbox": "outbox"}
    documents: dict[str, Mapping[str, Any]] = {
        "config": config,
        ONE: {"recipe": QUICK, "pairs": first},
        MANY: {"recipe": QUICK, **every},
    }
    for name, document in documents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def batch_jobs(folder: Path, batch: str) -> list[Job]:
    return list(read_manifest(folder / f"{batch}.yaml", {}, {}).jobs())


def publish_copies(folder: Path, jobs: Sequence[Job]) -> None:
    """Make every job done that is not, with the one job's picture, log and record under its own key."""
    one, many = (BatchFolder(folder / "outbox", batch, HastyDisk()) for batch in (ONE, MANY))
    [done] = batch_jobs(folder, ONE)
    record = one.paths.read_record(done.name)
    encoder = EncoderInfo(record["encoder"]["name"], record["encoder"]["digest"])
    image, log = one.paths.image(done.name, done.recipe.suffix), one.paths.log(done.name)
    image_bytes, log_bytes = image.read_bytes(), log.read_bytes()
    digests = {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in {*_inputs(jobs), *done.input_paths}
    }
    if job_key(done, digests, encoder) != record["key"]:
        raise SystemExit("the program names another key than this benchmark")
    for job in jobs:
        if not many.paths.record(job.name).exists():
            own = _record(record, job, digests) | {"key": job_key(job, digests, encoder)}
            many.publish_staged(many.stage_result(job.name, job.recipe.suffix, image_bytes, log_bytes, own))


def _inputs(jobs: Sequence[Job]) -> set[Path]:
    return {path for job in jobs for path in job.input_paths}


def _record(record: Mapping[str, Any], job: Job, digests: Mapping[Path, str]) -> dict[str, Any]:
    images = [
        {"path": str(path), "sha256": digests[path], "share": share} for path, share in job.style.images
    ]
    return {
        **record,
        "content": {"path": str(job.content), "sha256": digests[job.content]},
        "style": {"name": job.style.name, "images": images},
    }


def unpublish(folder: BatchFolder, job: Job) -> None:
    for path in (
        folder.paths.record(job.name),
        folder.paths.log(job.name),
        folder.paths.image(job.name, job.recipe.suffix),
    ):
        path.unlink(missing_ok=True)


def run(folder: Path, batch: str) -> Ran:
    """Run the command to its end and follow its log."""
    command = [sys.executable, "-m", "pipeline", "run", str(folder / f"{batch}.yaml")]
    command += ["--config", str(folder / "config.yaml"), "--device", "cpu"]
    started = step = memory = None
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if started is None and b" started " in line:
            started, memory = time.perf_counter() - began, resident_mb(process.pid)
        if step is None and re.search(rb"\bstep \d+/", line):
            step = time.perf_counter() - began
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(b"".join(lines[-20:]).decode(errors="replace"))
    return Ran(started, step, time.perf_counter() - began, memory, usage.ru_maxrss / 1024)


def resident_mb(pid: int) -> float | None:
    """Return what a process has resident now, where the system tells (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    return int(found[1]) / 1024 if found else None


if __name__ == "__main__":
    main()
