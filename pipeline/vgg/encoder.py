"""VGG-19 features by layer name (Simonyan and Zisserman 2014, configuration E).

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..spec.layers import LAYERS

Pooling = Literal["max", "average"]
Padding = Literal["zeros", "reflect", "replicate"]

CONVOLUTIONS = tuple(layer for layer in LAYERS if layer.startswith("conv"))

# Where torchvision's `vgg19().features` keeps each convolution.
TORCHVISION_INDEX = dict(
    zip(CONVOLUTIONS, (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34), strict=True)
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def convolutions_up_to(layers: Iterable[str]) -> tuple[str, ...]:
    """Name the convolutions needed to compute `layers`, the first one first."""
    deepest = max(CONVOLUTIONS.index(convolution_of(layer)) for layer in layers)
    return CONVOLUTIONS[: deepest + 1]


def starts_block(convolution: str) -> bool:
    """Return whether a pooling comes before a convolution."""
    return convolution.endswith("_1") and convolution != "conv1_1"


def convolution_of(layer: str) -> str:
    """Name the convolution of a layer: `conv4_2` of `relu4_2`."""
    return "conv" + layer[4:]


def relu_of(convolution: str) -> str:
    """Name the ReLU after a convolution: `relu4_2` of `conv4_2`."""
    return "relu" + convolution.removeprefix("conv")


class Encoder(nn.Module):
    """A frozen VGG-19 up to its deepest requested layer; its input's normalisation is inside.

    In `layers`, `conv4_2` is taken before its ReLU, `relu4_2` after it.
    `weights` maps `conv1_1.weight`, `conv1_1.bias`, ... to tensors; their shapes decide the widths. It may
    hold the network's own normalisation, `mean` and `std`; else that is ImageNet's. Padding with zeros is
    padding with the mean. It may also hold `style_factor`: the style loss of a small network costs less of
    the content than that of a whole one; counted this many times, it costs as much.

    Calling it maps `image_BCHW` (sRGB in [0, 1]) to `{layer: features_BCHW}`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        layers: Sequence[str],
        pooling: Pooling = "max",
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.layers = frozenset(layers)
        self.pooling, self.padding = pooling, padding
        self.style_factor = float(weights.get("style_factor", 1.0))
        self.convolutions = nn.ModuleDict()
        for name in convolutions_up_to(layers):
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            convolution = nn.Conv2d(
                weight.shape[1], weight.shape[0], 3, padding=1, padding_mode=padding, device="meta"
            )
            convolution.load_state_dict({"weight": weight, "bias": bias}, assign=True)
            self.convolutions[name] = convolution
        for name, imagenet in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            value = weights.get(name, torch.tensor(imagenet))
            self.register_buffer(name, value[:, None, None], persistent=False)
        self.requires_grad_(False)
        # Convolutions are fastest with channels last, on CPUs and GPUs.
        self.to(memory_format=torch.channels_last)

    @property
    def channels(self) -> dict[str, int]:
        """The number of output channels of every convolution that is built."""
        return {name: len(conv.get_parameter("bias")) for name, conv in self.convolutions.items()}

    def forward(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the features of every layer."""
        return self.run(self.normalised(image_BCHW), tuple(self.convolutions))[0]

    def normalised(self, image_BCHW: Tensor) -> Tensor:
        """Return the input of the first convolution."""
        normalised: Tensor = (image_BCHW - self.mean) / self.std
        return normalised.contiguous(memory_format=torch.channels_last)

    def run(
        self, x: Tensor, convolutions: Sequence[str], following: str = ""
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Run some convolutions in a row on the input of the first of them.

        Return the features of their layers, and the input of the convolution after them, which is `following`
        if a pooling lies between.
        """
        features: dict[str, Tensor] = {}
        for name in convolutions:
            if starts_block(name) and name != convolutions[0]:
                x = self._pool(x)
            x = self.convolutions[name](x)
            if name in self.layers:
                features[name] = x
            # An in-place ReLU would overwrite a tapped convolution.
            x = F.relu(x, inplace=name not in self.layers)
            if (relu := relu_of(name)) in self.layers:
                features[relu] = x
        return features, self._pool(x) if following else x

    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2) if self.pooling == "max" else F.avg_pool2d(x, 2)
