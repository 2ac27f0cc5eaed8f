"""The optimisation loop as a careful tutorial writes it: what ours is measured against.

Autograd in float32, pictures as NCHW, torch's L-BFGS with its history of 100 and one evaluation a step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.neural.encoder import CONVOLUTIONS, IMAGENET_MEAN, IMAGENET_STD

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

    def evaluate(self) -> Tensor:
        self.optimizer.zero_grad()
        features = self.network(self.canvas)
        loss = F.mse_loss(features[CONTENT_LAYER], self.content)
        for layer, target in self.grams.items():
            loss = loss + self.style_weight * F.mse_loss(gram(features[layer]), target)
        loss.backward()
        self.losses.append(loss.item())
        return loss

    def step(self) -> None:
        self.optimizer.step(self.evaluate)
