"""Two well-known programs' defaults, reproduced with this package's encoder, to set ours beside.

    python -m benchmarks.anchors crowsonkb CONTENT STYLE OUT.png --weights vgg19.pth --size 512
    python -m benchmarks.anchors neural-style-pt CONTENT STYLE OUT.png --weights vgg19.pth --size 512

Written from what those programs do, not from their code; what differs is said where it does. Both compute in
float32 by autograd as they do there; `--bfloat16` runs the convolutions in bfloat16, to save hours.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from pipeline.neural.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION_INDEX,
    Encoder,
    convolutions_up_to,
)
from pipeline.neural.images import fit_size, to_image, to_tensor
from pipeline.neural.losses import moments
from pipeline.neural.reading import decode_image

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"

Features = Callable[[Tensor], Mapping[str, Tensor]]
# Gives content and style (BCHW, sRGB in [0, 1]) for a long edge in pixels.
Pictures = Callable[[int], tuple[Tensor, Tensor]]


def features_of(weights: Mapping[str, Tensor], bfloat16: bool = False, replicate: bool = False) -> Features:
    """Return VGG-19's features as both programs see them: padded with zeros, pooled by maximum.

    `replicate` repeats the border at the first convolution alone, as crowsonkb's does.
    """
    encoder = Encoder(weights, [*STYLE_LAYERS, CONTENT_LAYER], "max", "zeros")
    if replicate:
        encoder.convolutions["conv1_1"].padding_mode = "replicate"

    def features(image_BCHW: Tensor) -> Mapping[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = encoder(image_BCHW)
        return {layer: each.float() for layer, each in found.items()}

    return features


def crowsonkb(features: Features, pictures: Pictures, size: int, repeats: int = 1) -> Tensor:
    """Return what crowsonkb/style-transfer-pytorch makes with its defaults (BCHW).

    Where that program iterates twelve times for a matrix root, its trace is exact here. `repeats`: the
    features stand for so many copies of each, which is how a widened network is computed at its old width.
    """
    sizes = [size]
    while (smaller := round(size / 2 ** (len(sizes) / 2))) >= 128:
        sizes.append(smaller)
    image, optimizer = pictures(sizes[-1])[0], None
    for steps, level in zip([1000] + [500] * (len(sizes) - 1), reversed(sizes), strict=True):
        content, style = pictures(level)
        canvas = _bicubic(image, content).clamp(0, 1).requires_grad_()
        loss = _wasserstein_objective(features, content, style, repeats)
        optimizer = _adam_like(optimizer, canvas)
        average, share = torch.zeros_like(canvas, requires_grad=False), 0.0
        for step in range(steps + 1):
            if step:
                _move(optimizer, canvas, loss)
            average.lerp_(canvas.detach(), 0.01)
            share += 0.01 * (1 - share)
        image = average / share
    return image.clamp(0, 1)


def _bicubic(image_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    return F.interpolate(image_BCHW.detach(), like_BCHW.shape[2:], mode="bicubic", align_corners=False)


def _move(optimizer: torch.optim.Adam, canvas: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    optimizer.zero_grad()
    loss(canvas).backward()
    optimizer.step()
    canvas.data.clamp_(0, 1)


def _adam_like(before: torch.optim.Adam | None, canvas: Tensor) -> torch.optim.Adam:
    """Return Adam for a canvas, with the state of the coarser level's carried up."""
    adam = torch.optim.Adam([canvas], lr=0.02, betas=(0.9, 0.99))
    if before is not None:
        state = before.state_dict()
        moving = dict(state["state"][0])
        moving["exp_avg"] = _bicubic(moving["exp_avg"], canvas)
        square = F.interpolate(moving["exp_avg_sq"], canvas.shape[2:], mode="bilinear", align_corners=False)
        moving["exp_avg_sq"] = square.relu()
        adam.load_state_dict({**state, "state": {0: moving}})
    return adam


def _wasserstein_objective(
    features: Features, content_BCHW: Tensor, style_BCHW: Tensor, repeats: int
) -> Callable[[Tensor], Tensor]:
    with torch.no_grad():
        content = features(content_BCHW)[CONTENT_LAYER]
        found = features(style_BCHW)
    styles = {layer: _mean_and_covariance(found[layer], repeats) for layer in STYLE_LAYERS}
    roots = {layer: _root(covariance) for layer, (_, covariance) in styles.items()}
    weights = dict(zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True))

    def loss(image_BCHW: Tensor) -> Tensor:
        found = features(image_BCHW)
        total = 0.015 * F.mse_loss(found[CONTENT_LAYER], content)
        for layer, weight in weights.items():
            (mean, covariance), (m, c) = _mean_and_covariance(found[layer], repeats), styles[layer]
            cross = torch.linalg.eigvalsh(roots[layer] @ covariance @ roots[layer])
            spread = covariance.trace() + c.trace() - 2 * cross.clamp_min(1e-12).sqrt().sum()
            distance = (mean - m).square().mean() + spread / len(mean)
            total = total + weight / sum(weights.values()) * distance
        padded = F.pad(image_BCHW, (0, 1, 0, 1), mode="replicate")
        across = padded[..., :-1, 1:] - padded[..., :-1, :-1]
        down = padded[..., 1:, :-1] - padded[..., :-1, :-1]
        return total + 2.0 * (across.square() + down.square()).mean()

    return loss


def _mean_and_covariance(features_1CHW: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
    current = moments(features_1CHW)
    return current.mean[0], current.covariance[0] + torch.eye(current.mean.shape[1]) * (1e-4 / repeats)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance.double())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.T).float()


def neural_style_pt(
    features: Features, pictures: Pictures, size: int, repeats: int = 1, init: str = "random"
) -> Tensor:
    """Return what neural-style-pt makes with its defaults but for 512 pixels of `size` (BCHW).

    That program sees pixels in [0, 255] without division by ImageNet's spread, so its features are as much
    larger as its input is; here they are multiplied by that. `repeats` as in `crowsonkb`.
    """
    torch.manual_seed(0)
    scale = 255 * sum(IMAGENET_STD) / 3
    content_BCHW, style_BCHW = pictures(size)
    with torch.no_grad():
        content = features(content_BCHW)[CONTENT_LAYER] * scale
        found = features(style_BCHW)
    grams = {layer: _mean_gram(found[layer] * scale) for layer in STYLE_LAYERS}
    # The canvas is in [0, 255], as there: L-BFGS's first step depends on it.
    grey = 255 * torch.tensor(IMAGENET_MEAN)[:, None, None]
    noise = 0.001 * torch.randn_like(content_BCHW) + grey
    canvas = (noise if init == "random" else 255 * content_BCHW).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [canvas], max_iter=1000, max_eval=1250, tolerance_change=-1, tolerance_grad=-1, history_size=100
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = features(canvas / 255)
        total = 5 * F.mse_loss(found[CONTENT_LAYER] * scale, content)
        for layer in STYLE_LAYERS:
            total = total + 100 / repeats**2 * F.mse_loss(_mean_gram(found[layer] * scale), grams[layer])
        total = total + 1e-3 * (canvas.diff(dim=2).abs().sum() + canvas.diff(dim=3).abs().sum())
        total.backward()
        return total

    optimizer.step(closure)
    return (canvas.detach() / 255).clamp(0, 1)


def _mean_gram(features_1CHW: Tensor) -> Tensor:
    flat = features_1CHW[0].flatten(1)
    return flat @ flat.T / flat.numel()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint in torchvision's format, or safetensors with `conv1_1.weight`, ..."""
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {
        f"{name}.{part}": state[f"features.{index}.{part}"]
        for name, index in TORCHVISION_INDEX.items()
        if name in convolutions_up_to(STYLE_LAYERS)
        for part in ("weight", "bias")
    }


def read_pictures(content: Path, style: Path) -> Pictures:
    images = [decode_image(path.read_bytes(), str(path)) for path in (content, style)]

    def pictures(size: int) -> tuple[Tensor, Tensor]:
        a, b = (to_tensor(image, fit_size(image.size, size, False)) for image in images)
        return a, b

    return pictures


PROGRAMS = {"crowsonkb": crowsonkb, "neural-style-pt": neural_style_pt}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", choices=PROGRAMS)
    for name in ("content", "style", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="VGG-19's, .pth or .safetensors")
    parser.add_argument("--size", type=int, default=512, help="long edge in pixels")
    parser.add_argument("--bfloat16", action="store_true")
    arguments = parser.parse_args()
    features = features_of(
        read_weights(arguments.weights), arguments.bfloat16, replicate=arguments.program == "crowsonkb"
    )
    started = time.perf_counter()
    pictures = read_pictures(arguments.content, arguments.style)
    to_image(PROGRAMS[arguments.program](features, pictures, arguments.size)).save(arguments.out)
    sys.stdout.write(f"{arguments.out}: {time.perf_counter() - started:.0f} s\n")


if __name__ == "__main__":
    main()
