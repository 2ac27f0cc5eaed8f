"""What tests of the commands share: small pictures, their results, and a studio with an inbox."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import fakes
import yaml
from fakes import FakeExecutor, picture_bytes
from PIL import Image

from pipeline.storage.ledger import Ledger

# To give a picture its palette, and the deeper layers, take longer than these steps.
LAYERS = {"style_layers": ["relu1_1", "relu2_1"], "content_layers": ["relu2_1"]}
QUICK = {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 2, "recolor": False, **LAYERS}
# For pictures that are compared.
COMPARED = ("--set", "recolor=true")


def opened(path: str | Path) -> Image.Image:
    """Read a picture and close its file."""
    with Image.open(path) as image:
        image.load()
        return image


def log_rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(f"outbox/night/logs/{name}.csv").read_text().splitlines()))


class Studio:
    """An inbox with one style in the current folder, and the command line."""

    def __init__(self, folder: Path, cli) -> None:
        self.cli = cli
        self.inbox = folder / "inbox"
        self.executor = FakeExecutor()
        (self.inbox / "styles").mkdir(parents=True)
        (self.inbox / "styles/s.png").write_bytes(picture_bytes("style"))
        self.configure()

    def configure(self, settle_max_s: float = 0.1, **keys) -> None:
        times = {"settle_s": 0.03, "settle_max_s": settle_max_s, "rescan_s": 0.03}
        watch = {**times, "notify": "off", "min_free_mb": 0}
        config = {"state_dir": "state", "cache_dir": "cache", "recipe": fakes.QUICK, "watch": watch, **keys}
        Path("config.yaml").write_text(yaml.safe_dump(config))

    def drop(self, name: str, data: bytes | None = None) -> None:
        path = self.inbox / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture_bytes(ascii(name)) if data is None else data)
        os.utime(path, (1, 1))

    def once(self, *flags) -> tuple[int, str]:
        """Run `watch --once`; return its exit code and what it logged."""
        code, out, err = self.cli("watch", "--once", *flags)
        assert out == ""
        return code, err

    def ledger(self) -> Ledger:
        return Ledger(Path("state"))

    def quarantined(self, *names: str) -> list[str]:
        """Let pictures be quarantined; return their ids."""
        for name in names:
            self.drop(name)
            self.executor.faults = {**self.executor.faults, Path(name).stem: "fail"}
        assert self.once()[0] == 1
        self.executor.faults = {}
        return [one["id"] for one in json.loads(self.cli("status", "--json")[1])["quarantined"]]
