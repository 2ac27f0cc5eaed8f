"""Pruning a VGG-19: which channels of each layer stay, and what is rebuilt from them.

In every layer the channels stay from which all of the layer's outputs are best rebuilt, and the rebuilding is
folded into the weights of the layer above. Whole channels stay, so the ReLU is where it was.

Shapes in names: B pictures, C channels, K of them kept, H rows, W columns, M positions of all pictures.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.vgg.encoder import IMAGENET_MEAN, IMAGENET_STD, convolutions_up_to

# The layers of `default`, before the ReLU.
TAPS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv4_2", "conv5_1")
NETWORK = convolutions_up_to(TAPS)

# By name: a network's `conv1_1.weight`, `conv1_1.bias`, ...; or the output of each layer.
Tensors = dict[str, Tensor]


def convolve(weights: Tensors, name: str, x: Tensor) -> Tensor:
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def run_network(weights: Tensors, image_BCHW: Tensor) -> Tensors:
    """Return the output of every convolution that `weights` has, in order, before its ReLU."""
    mean, std = (torch.tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    x = ((image_BCHW - mean) / std).contiguous(memory_format=torch.channels_last)
    outputs = {}
    for name in NETWORK:
        if f"{name}.weight" not in weights:
            break
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2)
        outputs[name] = convolve(weights, name, x)
        x = F.relu(outputs[name])
    return outputs


@torch.no_grad()
def prune(
    teacher: Tensors,
    image_BCHW: Tensor,
    widths: Mapping[str, int],
    given: Mapping[str, list[int]] | None = None,
) -> tuple[Tensors, dict[str, list[int]]]:
    """Return the student, and which of the teacher's channels each of its layers has.

    `widths` are at most the teacher's. `given` names the channels of some layers; the others are chosen.
    """
    student, kept = {}, {}
    rebuild, offset = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    statistics = channel_statistics(teacher, image_BCHW)
    for name, above in zip(NETWORK, [*NETWORK[1:], None], strict=True):
        weight, bias = (teacher[f"{name}.{part}"].double() for part in ("weight", "bias"))
        mean, covariance = statistics[name]
        received = torch.eye(len(mean), dtype=torch.float64)
        if name not in TAPS and above is not None:
            received = torch.einsum("oihw,ojhw->ij", *[teacher[f"{above}.weight"].double()] * 2)
        chosen = (given or {}).get(name) or choose_channels(covariance, widths[name], received)
        student[f"{name}.weight"] = torch.einsum("oihw,ik->okhw", weight[chosen], rebuild).float()
        student[f"{name}.bias"] = (bias[chosen] + weight[chosen].sum((2, 3)) @ offset).float()
        rebuild = rebuilding(covariance, chosen)
        offset = mean - rebuild @ mean[chosen]
        kept[name] = chosen
    return student, kept


def channel_statistics(weights: Tensors, image_BCHW: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean (C) and covariance (CC) of every layer after its ReLU, in float64."""
    parts: dict[str, list[Tensor]] = {}
    for batch in image_BCHW.split(8):
        for name, x in run_network(weights, batch).items():
            rows = F.relu(x).transpose(0, 1).flatten(1)
            rows = torch.cat([rows, torch.ones_like(rows[:1])])
            parts.setdefault(name, []).append((rows @ rows.T).double() / rows.shape[1])
    statistics = {}
    for name, seconds in parts.items():
        second = torch.stack(seconds).mean(0)
        mean = second[:-1, -1]
        statistics[name] = (mean, second[:-1, :-1] - torch.outer(mean, mean))
    return statistics


@torch.no_grad()
def matching_channels(student: Tensors, teacher: Tensors, image_BCHW: Tensor) -> dict[str, list[int]]:
    """Return, for every layer of `student`, the teacher's channels that its own are nearest to."""
    distances: dict[str, Tensor] = {}
    for batch in image_BCHW.split(8):
        theirs = run_network(teacher, batch)
        for name, ours in run_network(student, batch).items():
            ours_CM, theirs_CM = (x.transpose(0, 1).flatten(1) for x in (ours, theirs[name]))
            squared = theirs_CM.square().sum(1) - 2 * ours_CM @ theirs_CM.T
            distances[name] = distances.get(name, torch.zeros(())) + squared
    return {name: distance.argmin(1).tolist() for name, distance in distances.items()}


def choose_channels(covariance_CC: Tensor, count: int, received_CC: Tensor) -> list[int]:
    """Choose `count` channels one by one: each the one that explains most of what is not explained yet.

    `received_CC` says how much of every direction reaches the next layer.
    """
    rest = covariance_CC.clone()
    chosen: list[int] = []
    floor = 1e-9 * covariance_CC.diagonal().mean() + 1e-30
    for _ in range(count):
        gains = ((rest @ received_CC) * rest).sum(1) / rest.diagonal().clamp_min(floor)
        gains[chosen] = -1
        best = int(gains.argmax())
        chosen.append(best)
        if rest[best, best] > floor:
            rest = rest - torch.outer(rest[best], rest[best]) / rest[best, best]
    return sorted(chosen)


def rebuilding(covariance_CC: Tensor, chosen: list[int]) -> Tensor:
    """Return the matrix (CK) that rebuilds all channels from the chosen ones by least squares."""
    among = covariance_CC[chosen][:, chosen]
    matrix = covariance_CC[:, chosen] @ torch.linalg.pinv(among, rtol=1e-7, hermitian=True)
    matrix[chosen] = torch.eye(len(chosen), dtype=matrix.dtype)
    return matrix
