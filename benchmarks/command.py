"""The command `style-pipeline run` on jobs made for a measurement; nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import Ran, run_module

# Exactly the loss of benchmarks/reference.py, one level, full width.
SAME_LOSS: Mapping[str, Any] = {
    "encoder": "vgg19",
    "content_layers": {"relu4_2": 1.0},
    "style_layers": {f"relu{block}_1": 1.0 for block in range(1, 6)},
    "style_loss": "gram",
    "loss": "mean",
    "padding": "zeros",
    "margin": 0,
    "content_weight": 1.0,
    "style_weight": 1e6,
    "tv_weight": 0.0,
    "canvas": "imagenet",
    "pyramid": 0,
}
Pairs = Sequence[tuple[Path, Path]]


class Workplace:
    """A folder with a network, and runs of the command in folders of their own below it."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device
        self.weights = folder / "network.safetensors"
        run_module("benchmarks.network", self.weights)

    def pictures(self, name: str, size: int, contents: int, styles: int, mixed: bool = False) -> Pairs:
        """Paint pictures; return as many pairs as contents, going round the styles."""
        folder, options = self.folder / name, ["--mixed"] if mixed else []
        counts = ["--contents", contents, "--styles", styles]
        run_module("benchmarks.pictures", folder, "--size", size, *counts, *options)
        return [
            (folder / f"content{number:02}.png", folder / f"style{number % styles:02}.png")
            for number in range(contents)
        ]

    def ours(self, name: str, pairs: Pairs, recipe: Mapping[str, Any]) -> Ran:
        """Run the command on a manifest of pairs, with nothing left over from runs before.

        Raises:
            SystemExit: it failed, or made fewer pictures than pairs.
        """
        place = self.folder / name
        place.mkdir()
        config = {
            "outbox": "outbox",
            "state_dir": "state",
            "cache_dir": "cache",
            "weights": str(self.weights),
            "device": self.device,
        }
        listed = [{"content": str(content), "style": str(style)} for content, style in pairs]
        manifest = {"batch": "batch", "recipe": dict(recipe), "pairs": listed}
        write_yaml(place / "config.yaml", config)
        write_yaml(place / "manifest.yaml", manifest)
        ran = run_module("pipeline", "run", place / "manifest.yaml", "--config", place / "config.yaml")
        made = len(list((place / "outbox" / "batch").glob("*.png")))
        if made != len(pairs):
            raise SystemExit(f"the command made {made} of {len(pairs)} pictures")
        return ran

    def reference(self, pair: tuple[Path, Path], size: int, steps: int, *options: str) -> Ran:
        """Run the reference's program on one pair."""
        content, style = pair
        return run_module(
            "benchmarks.reference", "--content", content, "--style", style, "--size", size, "--steps", steps,
            "--weights", self.weights, "--out", self.folder / "reference.png", "--device", self.device,
            *options,
        )  # fmt: skip


def write_yaml(path: Path, value: object) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
