"""The tutorial's loop and program: what ours is measured against.

Autograd in float32, pictures as NCHW, torch's L-BFGS with its history of 100 and one evaluation a step, one
picture at a time. As a program it does what such a command line does: for each picture it loads the
network, computes the targets, takes its steps and writes the result:

    python -m benchmarks.reference --content A --style B --size 512 --steps 500 --weights W --out O

It prints one JSON object: seconds of the loop, the loss before every step and after the last, the seconds
after every step (targets included, loading not), and the peak resident memory in bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.vgg.encoder import CONVOLUTIONS, IMAGENET_MEAN, IMAGENET_STD

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"


class Network(nn.Module):
    """VGG-19 up to relu5_1."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        for name in CONVOLUTIONS[: CONVOLUTIONS.index("conv5_1") + 1]:
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions[name] = convolution
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        x, features = (image - mean) / std, {}
        for name, convolution in self.convolutions.items():
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu(convolution(x))
            features["relu" + name[4:]] = x
        return features


def gram(features: Tensor) -> Tensor:
    channels = features.shape[1]
    flat = features.view(channels, -1)
    return flat @ flat.T / flat.numel()


class Loop:
    """One picture: `step()` is one step of L-BFGS, and `evaluate()` only its loss and gradient."""

    def __init__(self, network: Network, content: Tensor, style: Tensor, style_weight: float = 1e6) -> None:
        self.network = network
        self.style_weight = style_weight
        with torch.no_grad():
            self.content = network(content)[CONTENT_LAYER]
            styles = network(style)
            self.grams = {layer: gram(styles[layer]) for layer in STYLE_LAYERS}
        self.canvas = content.clone().requires_grad_()
        self.optimizer = torch.optim.LBFGS([self.canvas], max_iter=1)
        self.losses: list[float] = []

    def loss(self, image: Tensor) -> Tensor:
        features = self.network(image)
        loss = F.mse_loss(features[CONTENT_LAYER], self.content)
        for layer, target in self.grams.items():
            loss = loss + self.style_weight * F.mse_loss(gram(features[layer]), target)
        return loss

    def evaluate(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(self.canvas)
        loss.backward()
        self.losses.append(loss.item())
        return loss

    def step(self) -> None:
        self.optimizer.step(self.evaluate)


def load(path: Path, size: int) -> Tensor:
    """Read a picture as `image_BCHW` with a long edge of `size` pixels."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)[None].contiguous()


def save(image: Tensor, path: Path) -> None:
    pixels = (image.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(path)


def fill_history(loop: Loop) -> None:
    """Take 101 steps of L-BFGS on the pixels alone: its memory then is what it is late in a run."""
    weights = torch.logspace(-3, 3, loop.canvas.numel(), device=loop.canvas.device).view_as(loop.canvas)

    def evaluate() -> Tensor:
        loop.optimizer.zero_grad()
        loss = (weights * loop.canvas.square()).sum()
        loss.backward()
        return loss

    for _ in range(101):
        loop.optimizer.step(evaluate)


def peak_bytes() -> int:
    """The peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--content", type=Path, required=True)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--size", type=int, default=512, help="long edge in pixels")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--style-weight", type=float, default=1e6)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors, conv1_1.weight and so on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full-history", action="store_true", help="for its memory: fill it before step 1")
    arguments = parser.parse_args()
    print(json.dumps(run(arguments)))


def run(arguments: argparse.Namespace) -> dict[str, object]:
    device = torch.device(arguments.device)
    network = Network(load_file(arguments.weights)).to(device)
    content, style = (load(path, arguments.size).to(device) for path in (arguments.content, arguments.style))
    started, times = time.perf_counter(), []
    loop = Loop(network, content, style, arguments.style_weight)
    if arguments.full_history:
        fill_history(loop)
    for _ in range(arguments.steps):
        loop.step()  # ends with a number read from the device, so nothing is left to wait for
        times.append(time.perf_counter() - started)
    save(loop.canvas, arguments.out)
    with torch.no_grad():
        losses = [*loop.losses, loop.loss(loop.canvas).item()]
    return {"seconds": times[-1], "losses": losses, "times": times, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    main()
