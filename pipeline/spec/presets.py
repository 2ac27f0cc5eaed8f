"""The named recipes, and what each source document states about the system that a preset reproduces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named recipe: the fields that differ from `default`, and what it is for."""

    summary: str
    fields: Mapping[str, Any]


_CONV_STYLE_LAYERS = {f"conv{block}_1": 1.0 for block in range(1, 6)}

# What the five published systems share: a plain Gatys loop in the paper's terms. None of them mentions total
# variation or a pyramid, so there is neither. torchvision's VGG-19 pads with zeros and uses max pooling.
# None of them names a device or a seed.
_SOURCE: dict[str, Any] = {
    "encoder": "vgg19",
    "content_layers": {"conv4_2": 1.0},
    "style_layers": _CONV_STYLE_LAYERS,
    "padding": "zeros",
    "margin": 0,
    "loss": "mean",
    "style_loss": "gram",
    "style_growth": 0.0,
    "tv_weight": 0.0,
    "recolor": False,
    # bfloat16 does not reach as low a loss in hundreds of steps on one level.
    "precision": "float32",
    "optimizer": "adam",
    # The sources normalise with ImageNet's mean and deviation and update the normalised picture itself,
    # so Adam's step is in those units and nothing limits the pixels.
    "canvas": "imagenet",
    "pyramid": 0,
    "steps": 500,
    "size": 512,
}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "default": Preset(summary="the best we know: coarse to fine, L-BFGS, Bures style loss", fields={}),
        "draft": Preset(
            summary="a quick preview at half the size",
            fields={"size": 256, "steps": (60, 40, 30)},
        ),
        "print": Preset(
            # Up to 512 pixels it is `default`, which is therefore its preview; larger levels only add detail.
            summary="2048 pixels, for printing",
            fields={"size": 2048, "steps": (120, 80, 60, 45, 45, 30, 25, 20, 15)},
        ),
        # As `default` was before version 6, but for the style layers: content at one deep layer, more style
        # at deep layers, and the whole style on every level.
        "bold": Preset(
            summary="a wilder look: motifs of the painting win over the shapes of the photograph",
            fields={
                "content_layers": {"relu4_2": 1.0},
                "style_layers": {
                    "relu1_1": 12.0,
                    "relu2_1": 2.4,
                    "relu3_1": 0.9,
                    "relu4_1": 0.6,
                    "relu5_1": 0.6,
                },
                "style_weight": 15.0,
                "style_growth": 0.0,
            },
        ),
        # Source 000 names no content layer. The paper's conv4_2 is not among the five layers that it
        # extracts, so we take the nearest of those, conv4_1. It states no weights, steps, size or
        # learning rate either: the weights have the paper's ratio of 1e-3, steps and size are ours.
        "gatys-adam": Preset(
            summary="published system 000: the paper's formulas, Adam",
            fields={
                **_SOURCE,
                "content_layers": {"conv4_1": 1.0},
                "loss": "gatys",
                "content_weight": 1.0,
                "style_weight": 1e3,
                "learning_rate": 0.02,
            },
        ),
        # An "epoch" of source 001 is one call of L-BFGS, in which torch would make up to 20 iterations.
        # We take its 1000 epochs as 1000 iterations, which fits its loss curves.
        "gatys-lbfgs": Preset(
            summary="published system 001: L-BFGS, 1 : 1e6, 512 x 512, a snapshot every 100 steps",
            fields={
                **_SOURCE,
                "optimizer": "lbfgs",
                "learning_rate": 1.0,
                "history": 100,
                "content_weight": 1.0,
                "style_weight": 1e6,
                "size": 512,
                "square": True,
                "steps": 1000,
                "snapshot_every": 100,
                "format": "jpeg",
                "name": "{content_weight:g}_{style_weight:g}_{learning_rate:g}/generated_{step}",
            },
        ),
        # Source 002 gives each style layer a weight but states no numbers. These are the usual tutorial's,
        # which favour the fine layers. It states no steps or learning rate either.
        "layer-weights": Preset(
            summary="published system 002: Adam, a weight for every style layer",
            fields={
                **_SOURCE,
                "style_layers": {
                    "conv1_1": 1.0,
                    "conv2_1": 0.8,
                    "conv3_1": 0.4,
                    "conv4_1": 0.2,
                    "conv5_1": 0.1,
                },
                "content_weight": 1.0,
                "style_weight": 1e6,
                "learning_rate": 0.02,
            },
        ),
        # Source 003 calls its content layer `conv_4` and its style layers "a mix of layers". It starts
        # from "a blank (or content) image" or "a copy of the content image": content is the default
        # here, `init: blank` the other.
        "content-start": Preset(
            summary="published system 003: Adam from a copy of the content (or init: blank)",
            fields={
                **_SOURCE,
                "init": "content",
                "content_weight": 1.0,
                "style_weight": 1e6,
                "learning_rate": 0.02,
            },
        ),
        "thumbnail": Preset(
            summary="published system 004: Adam 0.1 at 128 x 128, scaled back to the content's own size",
            fields={
                **_SOURCE,
                "learning_rate": 0.1,
                "content_weight": 10.0,
                "style_weight": 1e4,
                "size": 128,
                "square": True,
                "steps": 1000,
                "upscale_to_content": True,
                "snapshot_every": 100,
                "snapshot_view": "side_by_side",
            },
        ),
    }
)
