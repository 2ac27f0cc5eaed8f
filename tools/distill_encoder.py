#!/usr/bin/env python3
"""Distil `vgg19-slim`, the small encoder that ships with the package, from a VGG-19.

    python tools/distill_encoder.py --teacher vgg19.pth --images photos/ --out vgg19-slim.safetensors

The student has VGG-19's layout and layer names at about a quarter of its width and starts from random
weights. It learns in two phases:

1. block by block: each block between two tapped layers learns from the teacher's own features at its
   input, all blocks in one step, so no block waits for the ones below it;
2. end to end: the student sees only the picture, as it will in use.

The teacher is a checkpoint in torchvision's format (`features.0.weight`, ...) or a safetensors file
with `conv1_1.weight`, ...; where it is wider than the student at a tap, a 1x1 projection that keeps
the most of its features is fitted first. Held-out pictures give the error per layer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from pipeline.files import write_atomically
from pipeline.neural.encoder import (
    CONVOLUTIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION_INDEX,
    convolutions_up_to,
)
from pipeline.neural.reading import decode_image

TAPS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv4_2", "conv5_1")
# Tapped layers carry the features; the layers between them are half as wide again, which is where
# the student does its work.
WIDTHS = {
    "conv1_1": 16, "conv1_2": 24,
    "conv2_1": 32, "conv2_2": 48,
    "conv3_1": 64, "conv3_2": 96, "conv3_3": 96, "conv3_4": 96,
    "conv4_1": 128, "conv4_2": 128, "conv4_3": 192, "conv4_4": 192,
    "conv5_1": 128,
}  # fmt: skip
NETWORK = convolutions_up_to(TAPS)
# Slope for negative values when comparing: the layers before the ReLU are tapped too, but what
# passes the ReLU matters most.
LEAK = 0.1

Weights = dict[str, Tensor]


def read_pictures(folder: Path) -> list[Tensor]:
    """Read every picture below `folder` as uint8 CHW, at most 640 pixels long."""
    pictures = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}:
            image = decode_image(path.read_bytes(), str(path))
            image.thumbnail((640, 640), Image.Resampling.LANCZOS)
            pictures.append(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1))
    if len(pictures) < 2:
        raise SystemExit(f"{folder}: needs two pictures or more (.jpg, .png, .webp), found {len(pictures)}")
    return pictures


def read_teacher(path: Path) -> Weights:
    """Read a VGG-19 checkpoint as `conv1_1.weight`, ... in float32."""
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    if "features.0.weight" in state:
        state = {
            f"{name}.{part}": state[f"features.{TORCHVISION_INDEX[name]}.{part}"]
            for name in CONVOLUTIONS
            for part in ("weight", "bias")
        }
    return {
        f"{name}.{part}": state[f"{name}.{part}"].float() for name in NETWORK for part in ("weight", "bias")
    }


def convolve(weights: Weights, name: str, x: Tensor) -> Tensor:
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def pool(name: str, x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2) if name.endswith("_1") and name != "conv1_1" else x


def normalise(image: Tensor) -> Tensor:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    normalised = (image - mean[:, None, None]) / std[:, None, None]
    return normalised.contiguous(memory_format=torch.channels_last)


def run_network(weights: Weights, image: Tensor) -> Weights:
    """Return the output of every convolution, before its ReLU."""
    outputs, x = {}, normalise(image)
    for name in NETWORK:
        outputs[name] = convolve(weights, name, pool(name, x))
        x = F.relu(outputs[name])
    return outputs


class Teacher:
    """Teacher features at the student's widths: `targets(image) -> {tap: before the ReLU, BCHW}`."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.projections: Weights = {}

    @torch.no_grad()
    def targets(self, image: Tensor) -> Weights:
        outputs = run_network(self.weights, image)
        return {tap: self._project(tap, outputs[tap]) for tap in TAPS}

    @torch.no_grad()
    def statistics(self, image: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and spread of every convolution: per channel at a tap, one number in between."""
        statistics = {}
        for name, x in run_network(self.weights, image).items():
            if name in TAPS:
                x = self._project(name, x)
                statistics[name] = (x.mean((0, 2, 3)), x.std((0, 2, 3)))
            else:
                statistics[name] = (x.mean(), x.std((0, 2, 3)).mean())
        return statistics

    def _project(self, tap: str, x: Tensor) -> Tensor:
        projection = self.projections.get(tap)
        return x if projection is None else torch.einsum("ij,bjhw->bihw", projection, x)

    def fit_projections(self, image: Tensor) -> None:
        """Where the teacher is wider, keep the channels that best rebuild all of them (greedy).

        Whole channels, not mixtures, so that a ReLU after the projection is a ReLU before it.
        """
        for tap, x in run_network(self.weights, image).items():
            if tap in TAPS and x.shape[1] < WIDTHS[tap]:
                raise SystemExit(f"The teacher's {tap} is narrower ({x.shape[1]}) than the student's.")
            if tap not in TAPS or x.shape[1] == WIDTHS[tap]:
                continue
            kept = _pivots(F.relu(x).transpose(0, 1).flatten(1), WIDTHS[tap])
            self.projections[tap] = torch.eye(x.shape[1])[kept]


def _pivots(rows: Tensor, count: int) -> list[int]:
    """Choose `count` rows by pivoted Gram-Schmidt: each the one worst explained by those before."""
    residual, chosen = (rows - rows.mean(1, keepdim=True)).double(), []
    for _ in range(count):
        best = int(residual.square().sum(1).argmax())
        chosen.append(best)
        direction = residual[best] / residual[best].norm().clamp_min(1e-12)
        residual = residual - torch.outer(residual @ direction, direction)
    return sorted(chosen)


class Crops:
    """Random crops with augmentation: scale, flip, colour, noise, blends; never the same twice."""

    def __init__(self, pictures: list[Tensor], side: int, seed: int) -> None:
        self.pictures, self.side = pictures, side
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, count: int, augment: bool = True) -> Tensor:
        crops = torch.cat([self._crop() for _ in range(count)])
        return self._augment(crops) if augment else crops

    def _crop(self) -> Tensor:
        picture = self.random.choice(self.pictures)
        shortest = min(picture.shape[1:])
        window = min(shortest, int(self.side * self.random.choice((0.75, 1, 1, 1.5, 2, 3))))
        top = self.random.randint(0, picture.shape[1] - window)
        left = self.random.randint(0, picture.shape[2] - window)
        crop = picture[None, :, top : top + window, left : left + window].float() / 255
        size = (self.side, self.side)
        crop = F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False)
        return crop.flip(3) if self.random.random() < 0.5 else crop

    def _augment(self, crops: Tensor) -> Tensor:
        """The optimiser walks far from photographs: noise, strange colours and double exposures."""
        count = len(crops)
        gain = 1 + 0.25 * torch.randn(count, 3, 1, 1, generator=self.generator)
        shift = 0.12 * torch.randn(count, 3, 1, 1, generator=self.generator)
        strange = torch.rand(count, 1, 1, 1, generator=self.generator) < 0.4
        crops = torch.where(strange, (crops - 0.5) * gain + 0.5 + shift, crops)

        share = 0.6 * torch.rand(count, 1, 1, 1, generator=self.generator)
        doubled = torch.rand(count, 1, 1, 1, generator=self.generator) < 0.2
        crops = torch.where(doubled, torch.lerp(crops, crops.roll(1, 0), share), crops)

        level = 0.15 * torch.rand(count, 1, 1, 1, generator=self.generator)
        noisy = torch.rand(count, 1, 1, 1, generator=self.generator) < 0.3
        noise = torch.randn(crops.shape, generator=self.generator)
        return torch.where(noisy, crops + level * noise, crops).clamp(-0.1, 1.1)


@torch.no_grad()
def start_weights(teacher: Teacher, image: Tensor, seed: int) -> Weights:
    """Random weights, scaled so that every layer's output has the teacher's mean and spread."""
    generator = torch.Generator().manual_seed(seed)
    statistics, weights = teacher.statistics(image), {}
    x, channels = normalise(image), 3
    for name in NETWORK:
        weight = torch.randn(WIDTHS[name], channels, 3, 3, generator=generator)
        weights[f"{name}.weight"] = weight / math.sqrt(9 * channels)
        weights[f"{name}.bias"] = torch.zeros(WIDTHS[name])
        output = convolve(weights, name, pool(name, x))
        mean, std = statistics[name]
        scale = std / output.std((0, 2, 3)).clamp_min(1e-6)
        weights[f"{name}.weight"] *= scale[:, None, None, None]
        weights[f"{name}.bias"] += mean - output.mean((0, 2, 3)) * scale
        x, channels = F.relu(convolve(weights, name, pool(name, x))), WIDTHS[name]
    return weights


def layer_errors(student: Weights, target: Weights, leak: float = LEAK) -> Weights:
    """Squared error per tap over the teacher's variance (0 is perfect, 1 is its mean)."""
    errors = {}
    for tap in TAPS:
        s, t = F.leaky_relu(student[tap].float(), leak), F.leaky_relu(target[tap], leak)
        variance = (t - t.mean((0, 2, 3), keepdim=True)).square().mean()
        errors[tap] = (s - t).square().mean() / variance
    return errors


def run_blocks(weights: Weights, image: Tensor, target: Weights) -> Weights:
    """Run every block from the teacher's features at its input."""
    outputs, x = {}, normalise(image)
    for name in NETWORK:
        x = convolve(weights, name, pool(name, x))
        if name in TAPS:
            outputs[name] = x
            x = target[name]
        x = F.relu(x)
    return outputs


@torch.no_grad()
def validate(weights: Weights, teacher: Teacher, held_out: Tensor) -> dict[str, float]:
    """Error per tap after the ReLU, end to end, on held-out crops."""
    errors = layer_errors(run_network(weights, held_out), teacher.targets(held_out), leak=0.0)
    return {"relu" + tap[4:]: float(error) for tap, error in errors.items()}


def train(args: argparse.Namespace) -> list[dict[str, object]]:
    """Run both phases; the student is written at every report. Return the reports."""
    pictures = read_pictures(args.images)
    held_out = Crops(pictures[:: args.hold_out], args.side, seed=1).batch(24, augment=False)
    kept = [picture for index, picture in enumerate(pictures) if index % args.hold_out]
    crops = Crops(kept, args.side, args.seed)
    teacher = Teacher(read_teacher(args.teacher))
    start = crops.batch(16)
    teacher.fit_projections(start)
    weights = load_file(args.resume) if args.resume else start_weights(teacher, start, args.seed)
    student = {key: value.float().requires_grad_() for key, value in weights.items()}

    reports = []
    for phase, steps, rate in (
        ("blocks", args.block_steps, args.learning_rate),
        ("end to end", args.steps, args.learning_rate / 2),
    ):
        started = time.monotonic()
        for step, loss in run_phase(phase, steps, rate, student, teacher, crops, args):
            held = {layer: round(error, 4) for layer, error in validate(student, teacher, held_out).items()}
            mean = round(sum(held.values()) / len(held), 4)
            seconds = round(time.monotonic() - started)
            report = {"phase": phase, "step": step, "loss": round(loss, 4), "held_out": mean, **held}
            reports.append({**report, "seconds": seconds})
            print(json.dumps(reports[-1]), flush=True)
            save(student, args.out)
    return reports


def run_phase(
    phase: str,
    steps: int,
    rate: float,
    student: Weights,
    teacher: Teacher,
    crops: Crops,
    args: argparse.Namespace,
) -> Iterator[tuple[int, float]]:
    """Train for `steps`; yield the step and its loss whenever a report is due."""
    optimizer = torch.optim.Adam(student.values(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, max(steps, 1), pct_start=0.05)
    for step in range(1, steps + 1):
        image = crops.batch(args.batch)
        target = teacher.targets(image)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            blocks = phase == "blocks"
            outputs = run_blocks(student, image, target) if blocks else run_network(student, image)
        loss = torch.stack(list(layer_errors(outputs, target).values())).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % args.report_every == 0 or step == steps:
            yield step, float(loss.detach())


def save(weights: Weights, path: Path) -> None:
    half = {key: value.detach().half().contiguous() for key, value in weights.items()}
    write_atomically(path, to_bytes(half, metadata={"format": "vgg19-slim", "version": "1"}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="VGG-19 checkpoint, .pth or .safetensors")
    add("--images", type=Path, required=True, help="folder of pictures, searched with its subfolders")
    add("--out", type=Path, required=True, help="where to write the student (float16 safetensors)")
    add("--resume", type=Path, help="start from these student weights")
    add("--block-steps", type=int, default=3500)
    add("--steps", type=int, default=9000)
    add("--batch", type=int, default=12)
    add("--side", type=int, default=128, help="crop side in pixels")
    add("--learning-rate", type=float, default=3e-3)
    add("--hold-out", type=int, default=10, metavar="N", help="keep every Nth picture for validation")
    add("--report-every", type=int, default=250)
    add("--bfloat16", action="store_true", help="convolve in bfloat16, quicker where the CPU has it")
    add("--seed", type=int, default=0)
    args = parser.parse_args()

    reports = train(args)
    args.out.with_suffix(".training.json").write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
