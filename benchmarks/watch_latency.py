"""How soon after its last byte a dropped picture is begun, beyond the settle time.

Runs the command `watch` on an inbox of its own and drops small pictures one after another, each when the
one before is done. Prints one JSON object; times in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import yaml
from PIL import Image

QUICK = {"size": 64, "pyramid": 0, "steps": 2, "encoder": "vgg19-slim"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--settle-s", type=float, default=2.0)
    parser.add_argument("--notify", choices=["native", "polling", "off"], default="native")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        extra = measure(Path(folder), arguments.drops, arguments.settle_s, arguments.notify)
    result = {
        **vars(arguments),
        "beyond_settle_median_s": round(statistics.median(extra), 3),
        "beyond_settle_max_s": round(max(extra), 3),
    }
    print(json.dumps(result))


def measure(folder: Path, drops: int, settle_s: float, notify: str) -> list[float]:
    """Return for every drop the seconds from its last byte to its job's start, less `settle_s`."""
    inbox = prepare(folder, settle_s, notify)
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "watch",
        "--log-json",
        "--config",
        str(folder / "config.yaml"),
    ]
    extra = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        until(daemon.stderr, "device")  # warm
        for number in range(drops):
            path = inbox / f"drop{number}.png"
            Image.new("RGB", (96, 64), (number % 256, 80, 160)).save(path)
            written = time.time()
            started = until(daemon.stderr, "started")
            extra.append(datetime.fromisoformat(started["time"]).timestamp() - written - settle_s)
            until(daemon.stderr, "done")
        daemon.terminate()
    return extra


def prepare(folder: Path, settle_s: float, notify: str) -> Path:
    inbox = folder / "inbox"
    (inbox / "styles").mkdir(parents=True)
    Image.effect_noise((96, 96), 60).convert("RGB").save(inbox / "styles" / "noise.png")
    config = {
        "state_dir": "state",
        "cache_dir": "cache",
        "recipe": QUICK,
        "watch": {"settle_s": settle_s, "notify": notify, "min_free_mb": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return inbox


def until(lines: IO[str], kind: str) -> dict[str, Any]:
    """Return the next event of a kind."""
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind:
            return event
    raise SystemExit(f"the daemon ended before it said '{kind}'")


if __name__ == "__main__":
    main()
