"""The layers of VGG-19 as a recipe names them, from conv1_1 and relu1_1 to relu5_4, each with a weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from .problems import alternatives, shown

_CONVOLUTIONS_PER_BLOCK = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4}
LAYERS = tuple(
    f"{kind}{block}_{index}"
    for block, count in _CONVOLUTIONS_PER_BLOCK.items()
    for index in range(1, count + 1)
    for kind in ("conv", "relu")
)
# The deepest layer of the bundled network, vgg19-slim.
LAST_OF_SLIM = "relu5_1"


def beyond_slim(layers: Iterable[str]) -> list[str]:
    """Return the layers that vgg19-slim does not have."""
    return [layer for layer in layers if LAYERS.index(layer) > LAYERS.index(LAST_OF_SLIM)]


def poolings_before(layer: str) -> int:
    """Return how many poolings come before a layer: 3 for `relu4_2`."""
    return int(layer[4]) - 1


def smallest_side(layers: Iterable[str], padding: str) -> int:
    """Return the shortest side of a picture, in pixels, for which all of `layers` exist."""
    halvings = max(map(poolings_before, layers))
    # Reflection by one pixel needs a second pixel to reflect.
    return (1 << halvings) * (2 if padding == "reflect" else 1)


def _weights_by_layer(value: Any) -> Any:
    """Accept a name or a list of names for a mapping; each layer then has the weight 1."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        if not all(isinstance(layer, str) for layer in value):
            raise ValueError("expected names of layers, or a mapping of names to weights")
        return dict.fromkeys(value, 1.0)
    if not isinstance(value, Mapping):
        raise ValueError(f"expected names of layers, or a mapping of names to weights, found {shown(value)}")
    return value


def _known(layers: dict[str, float]) -> dict[str, float]:
    for layer in layers:
        if layer not in LAYERS:
            hint = alternatives(layer, LAYERS, "conv1_1, relu1_1, ... relu5_4")
            raise ValueError(f"'{layer}' is not a layer{hint}")
    return layers


LayerWeights = Annotated[
    dict[str, Annotated[float, Field(ge=0, le=1e6)]],
    BeforeValidator(_weights_by_layer, json_schema_input_type=str | list[str] | dict[str, float]),
    Field(min_length=1, json_schema_extra={"examples": [{"relu1_1": 1.0}, ["conv4_2"]]}),
    AfterValidator(_known),
]
