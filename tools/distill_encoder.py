#!/usr/bin/env python3
"""Make `vgg19-slim`, the small encoder that ships with the package, from a VGG-19.

    python tools/distill_encoder.py --teacher vgg19.pth --images photos/ --out vgg19-slim.safetensors

The student is the teacher with fewer channels. First it is pruned: in every layer the channels stay from
which all of the layer's outputs are best rebuilt, and the rebuilding is folded into the weights of the layer
above. Then it is fine-tuned, end to end, to see what the teacher sees in the channels that stayed, on what
style transfer looks at: crops of photographs and paintings, those with noise and strange colours, and
canvases half way through a stylisation with the student itself. Two things count: the features, of every
layer, and the style loss between the statistics of student and teacher at the style layers.

--start takes the layers below --train-from from a student made before and trains only those from there on: a
cheap way to improve the deep layers of a good student.

The teacher is a checkpoint in torchvision's format (`features.0.weight`, ...) or a safetensors file with
`conv1_1.weight`, .... Every Nth picture is kept for validation. Everything random follows from --seed and
the step, so that --resume continues a stopped run as if it had not been stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pruning import NETWORK, TAPS, Tensors, matching_channels, prune, run_network
from safetensors.torch import save as to_bytes
from torch import Tensor

from pipeline.errors import DiskError, PipelineError
from pipeline.images.reading import decode_picture
from pipeline.spec.layers import smallest_side
from pipeline.spec.recipe import Recipe
from pipeline.storage.temporary import write_file
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.lbfgs import LBFGS
from pipeline.transfer.losses import bures_style_loss, bures_target, moments
from pipeline.transfer.targets import gram_targets
from pipeline.vgg.conversion import read_convolutions
from pipeline.vgg.encoder import Encoder
from pipeline.vgg.weightfile import weights_digest

# What the pictures are for: the layers and losses of `default`.
RECIPE = Recipe(margin=0)
STYLE_TAPS = tuple("conv" + layer[4:] for layer in RECIPE.style_layers)
# Those of the bundled network: a narrow first block, which costs most, and wide layers that a style is taken
# from. Multiples of 8, as matrix units take them.
WIDTHS = (16, 24, 48, 64, 128, 96, 96, 128, 256, 256, 256, 256, 256)

# Slope for negative values when comparing: some recipes tap before the ReLU, but what passes it matters most.
LEAK = 0.1
# The weight of the layers in between, so that they can be used too.
WEIGHT_IN_BETWEEN = 0.1
# Error, over the variance, below which a pruned network is its teacher but for rounding. Adam would walk on
# such gradients as on any others.
EXACT = 1e-6
# Options that may be others when a run is resumed; pictures and teacher are compared themselves.
ANEW = ("images", "teacher", "out", "resume", "report_every")
# Steps after which a stylisation gives a canvas to learn from.
LOOKS = (4, 12, 30)
# Crops to validate on, and how many of them are stylised for it as well.
VALIDATION, VALIDATION_CANVASES = 24, 8
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

# By what is measured on which pictures, then by layer.
Errors = dict[str, dict[str, float]]


def read_pictures(folder: Path) -> dict[str, Tensor]:
    """Read every picture below `folder`, by name, as uint8 CHW, at most 640 pixels long."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not a folder. Name one with pictures.")
    pictures = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        try:
            image = decode_picture(path.read_bytes(), str(path)).image
        except (PipelineError, OSError) as error:
            print(f"Left out: {error}", flush=True)
            continue
        image.thumbnail((640, 640), Image.Resampling.LANCZOS)
        pictures[str(path.relative_to(folder))] = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    return pictures


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    return weights_digest({name: tensor.numpy() for name, tensor in tensors.items()})


class Crops:
    """Random crops; the same for the same seed."""

    def __init__(self, pictures: list[Tensor], side: int) -> None:
        self.pictures, self.side = pictures, side

    def batch(self, count: int, seed: int, augment: bool = True) -> Tensor:
        """Return `count` crops (BCHW), with noise, strange colours and double exposures if wanted."""
        choice = random.Random(seed)
        crops = torch.cat([self._crop(choice) for _ in range(count)])
        return augmented(crops, torch.Generator().manual_seed(seed)) if augment else crops

    def _crop(self, choice: random.Random) -> Tensor:
        picture = choice.choice(self.pictures)
        window = min(*picture.shape[1:], int(self.side * choice.choice((0.75, 1, 1, 1.5, 2, 3))))
        top = choice.randint(0, picture.shape[1] - window)
        left = choice.randint(0, picture.shape[2] - window)
        crop = picture[None, :, top : top + window, left : left + window].float() / 255
        size = (self.side, self.side)
        crop = F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False)
        return crop.flip(3) if choice.random() < 0.5 else crop


def augmented(crops_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    def number(kind: Any = torch.rand, channels: int = 1) -> Tensor:
        drawn: Tensor = kind(len(crops_BCHW), channels, 1, 1, generator=generator)
        return drawn

    gain, shift = 1 + 0.25 * number(torch.randn, 3), 0.12 * number(torch.randn, 3)
    strange = (crops_BCHW - 0.5) * gain + 0.5 + shift
    crops = torch.where(number() < 0.4, strange, crops_BCHW)
    doubled = torch.lerp(crops, crops.roll(1, 0), 0.6 * number())
    crops = torch.where(number() < 0.2, doubled, crops)
    noisy = crops + 0.15 * number() * torch.randn(crops.shape, generator=generator)
    return torch.where(number() < 0.3, noisy, crops).clamp(-0.1, 1.1)


def split_pictures(pictures: Mapping[str, Tensor], args: argparse.Namespace) -> tuple[Crops, Crops]:
    """Return crops to learn from and crops to validate by, of different pictures."""
    held_out = list(pictures)[:: args.hold_out]
    if len(held_out) == len(pictures):
        raise SystemExit(
            f"{args.images}: {len(pictures)} pictures, none is left to learn from. "
            f"Add some ({', '.join(sorted(SUFFIXES))}), or raise --hold-out."
        )
    learnt = [picture for name, picture in pictures.items() if name not in held_out]
    print(f"{len(learnt)} pictures to learn from; for validation: {', '.join(held_out)}", flush=True)
    return Crops(learnt, args.side), Crops([pictures[name] for name in held_out], args.side)


def stylised(
    weights: Tensors, image_BCHW: Tensor, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Stylise every crop with the next one by the losses of `default`, half of them from noise.

    Return the canvases after each of `LOOKS` steps. As the network is `weights`, the canvases go where its
    own errors lead the optimiser.
    """
    layers = sorted({*RECIPE.content_layers, *RECIPE.style_layers})
    detached = {key: value.detach() for key, value in weights.items()}
    encoder = Encoder(detached, layers, RECIPE.pooling, RECIPE.padding)
    targets = gram_targets(encoder, image_BCHW.roll(1, 0), layers)
    objective = ExplicitObjective(encoder, RECIPE, image_BCHW, targets, dtype)
    noise = torch.rand(image_BCHW.shape, generator=torch.Generator().manual_seed(seed))
    canvas = torch.where(torch.arange(len(noise))[:, None, None, None] % 2 == 1, noise, image_BCHW)
    flat = canvas.view(len(canvas), -1)
    optimizer = LBFGS(flat, RECIPE.learning_rate, RECIPE.history)
    canvases = []
    for step in range(1, LOOKS[-1] + 1):
        losses, gradient = objective.evaluate(canvas)
        optimizer.step(flat, losses.total, gradient.reshape(flat.shape))
        if step in LOOKS:
            canvases.append(canvas.clamp(-0.5, 1.5))
    return torch.cat(canvases)


@dataclass
class Teacher:
    """The teacher's outputs, in the channels that the student has."""

    weights: Tensors
    kept: Mapping[str, list[int]]

    @torch.no_grad()
    def outputs(self, image_BCHW: Tensor, bfloat16: bool = False) -> Tensors:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = run_network(self.weights, image_BCHW)
        return {name: outputs[name][:, kept].float().contiguous() for name, kept in self.kept.items()}


def feature_errors(student: Tensors, teacher: Tensors, leak: float = LEAK) -> Tensors:
    """Squared error per layer over the teacher's variance (0 is perfect, 1 is its mean)."""
    errors = {}
    for name in NETWORK:
        s, t = F.leaky_relu(student[name].float(), leak), F.leaky_relu(teacher[name], leak)
        variance = (t - t.mean((0, 2, 3), keepdim=True)).square().mean()
        errors[name] = (s - t).square().mean() / variance.clamp_min(1e-12)
    return errors


def style_distances(student: Tensors, teacher: Tensors) -> Tensors:
    """The pipeline's own style loss between student and teacher per style layer, mean over pictures."""
    distances = {}
    for name in STYLE_TAPS:
        target = bures_target(moments(F.relu(teacher[name])))
        distances[name] = bures_style_loss(moments(F.relu(student[name].float())), target).mean()
    return distances


def training_loss(student: Tensors, teacher: Tensors, style_share: float) -> Tensor:
    errors = feature_errors(student, teacher)
    weights = {name: 1.0 if name in TAPS else WEIGHT_IN_BETWEEN for name in NETWORK}
    features = torch.stack([weights[name] * error for name, error in errors.items()]).sum()
    style = torch.stack(list(style_distances(student, teacher).values())).sum()
    return features / sum(weights.values()) + style_share * style / len(STYLE_TAPS)


@torch.no_grad()
def validate(student: Tensors, teacher: Teacher, pictures: Mapping[str, Tensor]) -> Errors:
    """Return errors of features and style on every kind of pictures, by layer."""
    found: Errors = {}
    for kind, image in pictures.items():
        ours, theirs = run_network(student, image), teacher.outputs(image)
        features, style = feature_errors(ours, theirs, leak=0.0), style_distances(ours, theirs)
        for what, errors in (("features", features), ("style", style)):
            found[f"{what}, {kind}"] = {name: float(error) for name, error in errors.items()}
    return found


@dataclass
class Run:
    """A training run: everything that changes from step to step, which is all that a checkpoint needs."""

    student: Tensors
    kept: dict[str, list[int]]
    canvases: Tensor
    step: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)
    optimizer: dict[str, Any] | None = None

    def save(self, path: Path, settings: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save({"settings": dict(settings), **vars(self)}, buffer)
        write_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, settings: Mapping[str, Any]) -> Run:
        try:
            state = torch.load(path, weights_only=True)
            before = dict(state.pop("settings"))
            run = cls(**state)
        except OSError as error:
            raise SystemExit(
                f"{path} cannot be resumed: {error.strerror}. Start again without --resume."
            ) from error
        except Exception as error:
            # torch's own text advises to switch weights_only off, so it is not passed on.
            raise SystemExit(
                f"{path} cannot be resumed: it is damaged, or no checkpoint of this script. "
                "Start again without --resume."
            ) from error
        if other := [key for key, value in settings.items() if before.get(key) != value]:
            raise SystemExit(f"{path} has another {', '.join(other)}: give the same, or no --resume.")
        return run


def train(args: argparse.Namespace) -> Run:
    """Prune and fine-tune; student and checkpoint are written at every report."""
    pictures = read_pictures(args.images)
    crops, held_out = split_pictures(pictures, args)
    weights = read_convolutions(args.teacher, TAPS)
    settings = {key: str(value) for key, value in vars(args).items() if key not in ANEW}
    settings |= {"teacher": digest_of(weights), "pictures": digest_of(pictures)}
    checkpoint = args.out.with_suffix(".checkpoint")
    run = Run.load(checkpoint, settings) if args.resume else begin(weights, crops, args)
    teacher = Teacher(weights, run.kept)
    clean = held_out.batch(VALIDATION, 1, augment=False)
    # Canvases on the teacher's way, so that they are the same for every student.
    validation = {"photographs": clean, "canvases": stylised(weights, clean[:VALIDATION_CANVASES])}

    started = time.monotonic()
    for loss in steps(run, teacher, crops, args):
        errors = validate(run.student, teacher, validation)
        report(run, loss, errors, time.monotonic() - started)
        write_file(args.out, encoder_bytes(run.student, args.style_factor))
        run.save(checkpoint, settings)
        if max(max(part.values()) for part in errors.values()) < EXACT:
            print("The pruned network is its teacher but for rounding: nothing to learn.")
            break
    print(table(run, args.out))
    write_file(args.out.with_suffix(".training.json"), json.dumps(run.reports, indent=1).encode())
    checkpoint.unlink()
    return run


def begin(weights: Tensors, crops: Crops, args: argparse.Namespace) -> Run:
    """Prune the teacher by its features on crops and on canvases."""
    for name, width in args.widths.items():
        if (widest := len(weights[f"{name}.bias"])) < width:
            raise SystemExit(f"The teacher's {name} is narrower ({widest}) than {width}: lower --widths.")
    calibration = crops.batch(args.calibration, args.seed)
    # A channel that is zero on photographs may be active on a canvas.
    calibration = torch.cat([calibration, stylised(weights, calibration[: args.batch], args.seed)])
    if not args.start:
        return Run(*prune(weights, calibration, args.widths), canvases=calibration[:0])
    earlier = layers_below(args.train_from, args.start, args.widths)
    stand_for = matching_channels(earlier, weights, calibration[: -args.batch])
    student, kept = prune(weights, calibration, args.widths, stand_for)
    return Run(student | earlier, kept, canvases=calibration[:0])


def layers_below(layer: str, path: Path, widths: Mapping[str, int]) -> Tensors:
    """Return the weights of the layers below `layer` of the student in `path`."""
    earlier = read_convolutions(path, TAPS)
    names = NETWORK[: NETWORK.index(layer)]
    for name in names:
        if (width := len(earlier[f"{name}.bias"])) != widths[name]:
            raise SystemExit(f"{path} has {width} channels in {name}, --widths says {widths[name]}.")
    return {f"{name}.{part}": earlier[f"{name}.{part}"] for name in names for part in ("weight", "bias")}


def report(run: Run, loss: float | None, errors: Errors, seconds: float) -> None:
    """Print a line and keep it, with the errors of every layer."""
    means = {kind: round(sum(part.values()) / len(part), 5) for kind, part in errors.items()}
    line = {"step": run.step, "loss": loss, **means, "seconds": round(seconds)}
    print(json.dumps(line), flush=True)
    run.reports.append({**line, "layers": errors})


def steps(run: Run, teacher: Teacher, crops: Crops, args: argparse.Namespace) -> Iterator[float | None]:
    """Train to the last step; stop for a report, with the loss, at the start and when one is due."""
    fixed = NETWORK[: NETWORK.index(args.train_from)]
    run.student = {
        key: value.detach().requires_grad_(key.split(".")[0] not in fixed)
        for key, value in run.student.items()
    }
    trained = [value for value in run.student.values() if value.requires_grad]
    # Rates relative to each tensor's size: the pruned weights are nearly right, and some layers' are small.
    groups = [{"params": [v], "size": float(v.detach().square().mean().sqrt())} for v in trained]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    if run.optimizer is None:
        yield None
    else:
        optimizer.load_state_dict(run.optimizer)
    dtype = torch.bfloat16 if args.bfloat16 else torch.float32
    while run.step < args.steps:
        image = next_batch(run, crops, args, dtype)
        target = teacher.outputs(image, args.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            outputs = run_network(run.student, image)
        loss = training_loss(outputs, target, args.style_share)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * schedule((run.step + 1) / args.steps) * group["size"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        run.step += 1
        if run.step % args.report_every == 0 or run.step == args.steps:
            run.optimizer = optimizer.state_dict()
            yield float(loss.detach())


def next_batch(run: Run, crops: Crops, args: argparse.Namespace, dtype: torch.dtype) -> Tensor:
    """Return crops, a third of them replaced by canvases, which are renewed now and then."""
    seed = args.seed + 1_000_003 * (run.step + 1)
    if run.step % args.refresh_every == 0:
        # Other crops than this step's.
        pictures = crops.batch(args.batch, seed + 1, augment=False)
        run.canvases = stylised(run.student, pictures, seed, dtype)
    image = crops.batch(args.batch, seed)
    some = random.Random(seed).sample(range(len(run.canvases)), args.batch // 3)
    image[: len(some)] = run.canvases[some]
    return image


def schedule(done: float) -> float:
    """Return the rate over its highest: up for a twentieth of the run, then down along a cosine."""
    return min(done / 0.05, 0.5 + 0.5 * math.cos(math.pi * (done - 0.05) / 0.95))


def encoder_bytes(weights: Tensors, style_factor: float) -> bytes:
    tensors = {key: value.detach().half().contiguous() for key, value in weights.items()}
    tensors["style_factor"] = torch.tensor(style_factor)
    return to_bytes(tensors, metadata={"format": "vgg19-slim", "version": "1"})


def table(run: Run, path: Path) -> str:
    """Return the last report as a markdown table with a row per layer."""
    errors = run.reports[-1]["layers"]
    lines = [" | ".join(["layer", "channels", *errors]), " | ".join(["---"] * (2 + len(errors)))]
    for name in NETWORK:
        cells = [f"{part[name]:.4f}" if name in part else "" for part in errors.values()]
        lines.append(" | ".join(["relu" + name[4:], str(len(run.kept[name])), *cells]))
    parameters = sum(value.numel() for value in run.student.values())
    head = f"{parameters:,} parameters, {path.stat().st_size:,} bytes, {run.step} steps\n\n"
    return head + "\n".join(f"| {line} |" for line in lines)


def layer_widths(text: str) -> dict[str, int]:
    parts = text.split(",")
    if len(parts) != len(NETWORK):
        raise argparse.ArgumentTypeError(f"expected {len(NETWORK)} widths, got {len(parts)}")
    return dict(zip(NETWORK, map(positive, parts), strict=True))


def positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def crop_side(text: str) -> int:
    smallest = smallest_side(TAPS, "reflect")
    if (side := positive(text)) < smallest:
        raise argparse.ArgumentTypeError(f"expected {smallest} pixels or more, got {side}")
    return side


def student_file(text: str) -> Path:
    # The checkpoint and the report lie beside it, under the same name.
    if Path(text).suffix != ".safetensors":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .safetensors, got '{text}'")
    return Path(text)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="VGG-19 checkpoint, .pth or .safetensors")
    add("--images", type=Path, required=True, help="folder of pictures, searched with its subfolders")
    add("--out", type=student_file, required=True, help="where to write the student (float16 safetensors)")
    default = ",".join(map(str, WIDTHS))
    add("--widths", type=layer_widths, default=default, help="channels, conv1_1 to conv5_1 (%(default)s)")
    add(
        "--start",
        type=Path,
        metavar="STUDENT",
        help="student that keeps its layers below --train-from",
    )
    add("--train-from", choices=NETWORK, default=NETWORK[0], help="first layer to train (%(default)s)")
    add("--resume", action="store_true", help="continue a stopped run of the same settings")
    add("--steps", type=positive, default=4000)
    add("--batch", type=positive, default=8)
    add("--side", type=crop_side, default=128, help="crop side in pixels")
    add("--learning-rate", type=float, default=6e-3, help="over the weights' own size")
    add("--style-share", type=float, default=1.0, help="weight of the style loss against the features'")
    add(
        "--style-factor",
        type=float,
        default=1.0,
        help="how much more its style loss counts (docs/encoder.md)",
    )
    add("--calibration", type=positive, default=96, help="crops to prune by")
    add("--refresh-every", type=positive, default=60, help="steps until new canvases are stylised")
    add("--hold-out", type=positive, default=10, metavar="N", help="keep every Nth picture for validation")
    add("--report-every", type=positive, default=250)
    add("--bfloat16", action="store_true", help="convolve in bfloat16, quicker where the CPU has it")
    add("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = read_options()
    if bool(args.start) != (args.train_from != NETWORK[0]):
        raise SystemExit("--start and --train-from go together: give both, or neither.")
    try:
        train(args)
    except DiskError as error:
        raise SystemExit(f"{error} The last report's student and checkpoint are as they were.") from error
    except PipelineError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
