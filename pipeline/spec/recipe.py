"""Recipe: how a picture should look. Presets live here, with what each source document states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..errors import UsageError
from .documents import Part, did_you_mean, explain, shown
from .removed import MIXED, RANGE_WEIGHTS, refuse_removed

ALIASES = MappingProxyType({"alpha": "content_weight", "beta": "style_weight"})

# Any other `init` is the path of a picture.
INIT_MODES = frozenset({"content", "noise", "blank", "style"})

LARGEST_SIZE = 16384
# Characters that a field of an output name may be filled up to.
MAX_WIDTH = 200

# Long edge of a level, in pixels, from which style_weight counts in full: larger ones only add detail.
FULL_STYLE_SIZE = 512

# How the files of each format are called.
SUFFIXES = MappingProxyType({"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"})

_DEPTHS = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4}
LAYERS = tuple(
    f"{kind}{block}_{index}"
    for block, depth in _DEPTHS.items()
    for index in range(1, depth + 1)
    for kind in ("conv", "relu")
)


def _weights_by_layer(value: Any) -> Any:
    """Accept a single name or a list of names where a weight per layer is meant: each weighs 1."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        if not all(isinstance(layer, str) for layer in value):
            raise ValueError("expected names of layers, or a mapping of names to weights")
        return dict.fromkeys(value, 1.0)
    if not isinstance(value, Mapping):
        raise ValueError(f"expected names of layers, or a mapping of names to weights, found {shown(value)}")
    return value


def _one_or_more(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, int | float):
        raise ValueError(f"expected a whole number, or a list of them, found {shown(value)}")
    return (value,)


def _check_layers(layers: dict[str, float]) -> dict[str, float]:
    for layer in layers:
        if layer not in LAYERS:
            hint = did_you_mean(layer, LAYERS) or "."
            raise ValueError(f"'{layer}' is not a layer{hint} Accepted: conv1_1, relu1_1, ... relu5_4")
    return layers


# Beyond these bounds float32, in which losses are added up, is no measure any more.
Weight = Annotated[float, Field(ge=0, le=1e12)]
LayerWeights = Annotated[
    dict[str, Annotated[float, Field(ge=0, le=1e6)]],
    BeforeValidator(_weights_by_layer, json_schema_input_type=str | list[str] | dict[str, float]),
    Field(min_length=1, json_schema_extra={"examples": [{"relu1_1": 1.0}, ["conv4_2"]]}),
]
Steps = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...],
    BeforeValidator(_one_or_more, json_schema_input_type=int | list[int]),
    Field(min_length=1),
]


def _add_aliases(schema: dict[str, Any]) -> None:
    """Let editors accept the aliases, too."""
    for alias, name in ALIASES.items():
        schema["properties"][alias] = {**schema["properties"][name], "title": alias}


class Recipe(Part):
    """Everything that decides how a picture looks; every field has a default.

    `Recipe(preset="draft", size=300)` is the preset `draft` with one field changed. `alpha` and `beta`
    are accepted for `content_weight` and `style_weight`.
    """

    model_config = ConfigDict(json_schema_extra=_add_aliases)

    preset: str = Field("default", description="where the fields not named here come from")

    encoder: Literal["auto", "vgg19", "vgg19-slim"] = Field(
        "auto", description="the network; auto is vgg19 where its weights can be had, else vgg19-slim"
    )
    content_layers: LayerWeights = Field(
        # Shallow layers hold the drawing; relu5_1 keeps the painting's faces out of empty skies.
        {"relu2_1": 1.0, "relu3_1": 1.0, "relu4_2": 1.0, "relu5_1": 1.0},
        description="layers that hold the content, each with a weight",
    )
    style_layers: LayerWeights = Field(
        # The first layers keep colour and fine texture true; equal weights leave coloured fringes.
        {"relu1_1": 4.0, "relu2_1": 0.8, "relu3_1": 0.2, "relu4_1": 0.15, "relu5_1": 0.2},
        description="layers that hold the style, each with a weight",
    )
    pooling: Literal["max", "average"] = Field("max", description="how the network halves its features")
    padding: Literal["zeros", "reflect", "replicate"] = Field(
        "reflect", description="what the convolutions see beyond the border"
    )

    margin: int = Field(
        16,
        ge=0,
        le=256,
        description="mirrored pixels around the canvas, which have no style and are cut off again: they keep "
        "faults away from the border",
    )

    loss: Literal["gatys", "mean", "normalized"] = Field(
        "normalized", description="how losses are scaled; a weight means nothing without it"
    )
    style_loss: Literal["gram", "bures"] = Field(
        "bures", description="bures hears weak directions too and is normalised whatever `loss` says"
    )
    content_weight: Weight = Field(1.0, description="how much the content counts")
    style_weight: Weight = Field(40.0, description="how much the style counts; more is more paint")
    style_growth: float = Field(
        1.0,
        ge=0,
        le=4,
        description="levels below 512 pixels have less style_weight: times (their pixels / those of a level "
        "of 512) to this power; 0: the same on every level",
    )
    tv_weight: Weight = Field(3.0, description="smoothness")
    tv_chroma: float = Field(
        5.0,
        ge=0,
        le=1e6,
        description="how much more a step in colour counts there than one in lightness; 1: alike",
    )

    optimizer: Literal["lbfgs", "adam"] = Field("lbfgs", description="what moves the pixels")
    learning_rate: float = Field(1.0, ge=1e-9, le=1e3, description="length of a step")
    history: int = Field(10, ge=1, le=200, description="pairs that L-BFGS remembers")
    steps: Steps = Field(
        (120, 80, 60, 60, 90), description="per pyramid level, coarsest first; the last repeats"
    )
    color: Literal["style", "content", "luminance", "match"] = Field(
        "style",
        description="whose colours: the style's; the content's, put back when all is done; luminance: the "
        "content's, and the transfer itself sees none; match: the content's palette, see match_by",
    )
    match_by: Literal["covariance", "histogram"] = Field(
        "covariance",
        description="what color: match makes equal: mean and covariance, or all of the histogram",
    )
    canvas: Literal["rgb", "imagenet"] = Field(
        "rgb", description="what is optimised: sRGB in [0, 1], or the encoder's normalised input"
    )
    init: str = Field(
        "content", min_length=1, description="content, noise, blank, style, or the path of a picture"
    )
    recolor: bool = Field(
        True,
        description="every level starts in the style's palette, the last one also on its way, and the "
        "result goes some of the way to it",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the noise where init: noise")
    precision: Literal["auto", "bfloat16", "float32", "reference"] = Field(
        "auto",
        description="what the network computes in; auto: bfloat16 where the device is quick with it, else "
        "float32; reference: float32 by automatic differentiation, slower and the measure of the others",
    )

    size: int = Field(512, ge=16, le=LARGEST_SIZE, description="long edge of the result in pixels")
    square: bool = Field(False, description="make everything size by size, whatever its shape")
    pyramid: int = Field(
        128, ge=0, le=16384, description="long edge of the coarsest level in pixels; 0: one level"
    )
    style_scale: float = Field(
        1.0, ge=0.1, le=10, description="size of the style image against the content's"
    )
    upscale_to_content: bool = Field(False, description="scale the result back to the content's own size")

    snapshot_every: int = Field(
        0, ge=0, le=1_000_000_000, description="write the canvas every so many steps; 0: never"
    )
    snapshot_view: Literal["result", "side_by_side"] = Field(
        "result", description="side_by_side shows input, style and result together"
    )
    format: Literal["png", "jpeg", "webp", "tiff"] = Field("png", description="of the file")
    bit_depth: Literal[8, 16] = Field(8, description="bits per channel; 16 for png and tiff")
    quality: int = Field(95, ge=1, le=100, description="of JPEG and WebP")
    transparency: Literal["keep", "white"] = Field(
        "keep", description="keep: the result is as transparent as the content, where its format can be"
    )
    exif: Literal["drop", "keep"] = Field(
        "drop", description="keep: the content's, but for orientation, thumbnail and makers' notes"
    )
    profile: Literal["srgb", "keep"] = Field(
        "srgb", description="colours of the file: sRGB, or brought back to the content's own RGB profile"
    )
    name: str = Field(
        "{content}--{style}{sweep}",
        min_length=1,
        description="output name: {content}, {style}, {sweep}, {step} and any field of the recipe",
    )

    if not TYPE_CHECKING:  # who checks types sees the fields

        def __init__(self, /, **fields: Any) -> None:
            """Make a recipe of its fields.

            Raises:
                UsageError: a field is unknown, or a value makes no sense.
            """
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise recipe_error(error) from error

        # pydantic is to validate parts of a document without it, and to gather what is wrong in all of them.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = canonical_keys(data)
        refuse_removed(data)
        preset = PRESETS.get(str(data.get("preset", "default")))
        return data if preset is None else {**preset.fields, **data}

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            hint = did_you_mean(name, PRESETS) or "."
            raise ValueError(f"'{name}' is not a preset{hint} Accepted: {', '.join(PRESETS)}")
        return name

    @field_validator("precision", mode="before")
    @classmethod
    def _no_longer_mixed(cls, value: Any) -> Any:
        if value == "mixed":
            raise ValueError(MIXED)
        return value

    @field_validator("content_layers", "style_layers")
    @classmethod
    def _known_layers(cls, layers: dict[str, float]) -> dict[str, float]:
        return _check_layers(layers)

    @field_validator("name")
    @classmethod
    def _known_names(cls, template: str) -> str:
        accepted = {"content", "style", "sweep", "step", *cls.model_fields}
        for _, field, spec, _ in Formatter().parse(template):
            if field is not None and field not in accepted:
                hint = did_you_mean(field, accepted) or "."
                raise ValueError(f"'{{{field}}}' is not known{hint} Accepted: {', '.join(sorted(accepted))}")
            numbers = re.findall("[0-9]+", spec or "")
            if "{" in (spec or "") or any(len(number) > 3 or int(number) > MAX_WIDTH for number in numbers):
                raise ValueError(
                    f"'{{{field}:{spec}}}' cannot be filled: at most {MAX_WIDTH} characters wide"
                )
        return template

    @model_validator(mode="after")
    def _something_counts(self) -> Recipe:
        content = self.content_weight and any(self.content_layers.values())
        style = self.style_weight and any(self.style_layers.values())
        if not (content or style or self.tv_weight):
            raise ValueError(
                "nothing is asked for: content_weight, style_weight and tv_weight, or the weights of their "
                "layers, are all 0"
            )
        return self

    @model_validator(mode="after")
    def _layers_exist(self) -> Recipe:
        if self.encoder == "vgg19-slim" and (beyond := self.beyond_slim()):
            raise ValueError(f"vgg19-slim ends at relu5_1; the layer {beyond[0]} needs encoder: vgg19")
        return self

    @model_validator(mode="after")
    def _format_can(self) -> Recipe:
        if self.bit_depth == 16 and self.format not in {"png", "tiff"}:
            raise ValueError(f"{self.format} has 8 bits per channel; bit_depth: 16 needs format: png or tiff")
        if self.format == "webp" and self.size > 16383:
            raise ValueError("webp holds at most 16383 pixels on a side; choose format: png, or lower size")
        return self

    @model_validator(mode="after")
    def _match_is_asked_for(self) -> Recipe:
        # Where `color` is given, another may be meant for now: by a sweep, or by a layer above.
        if self.match_by != "covariance" and self.color != "match" and "color" not in self.model_fields_set:
            raise ValueError(f"match_by: {self.match_by} does nothing without color: match")
        return self

    def batch_key(self) -> str:
        """Return what is equal for recipes whose pictures, at one size, can share a tensor."""
        apart = {"preset", "name", "init", "seed", "snapshot_view", "upscale_to_content"}
        of_the_file = {"format", "bit_depth", "quality", "transparency", "exif", "profile"}
        return self.model_dump_json(exclude=apart | of_the_file)

    def beyond_slim(self) -> list[str]:
        """Name the layers used here that the bundled encoder does not have."""
        layers = {**self.content_layers, **self.style_layers}
        return [layer for layer in layers if LAYERS.index(layer) > LAYERS.index("relu5_1")]

    def level_sizes(self) -> tuple[int, ...]:
        """Return the long edge of every pyramid level in pixels, coarsest first.

        Levels are √2 apart counted down from `size`, so each has half the pixels of the next.
        """
        sizes = [self.size]
        while self.pyramid and (smaller := round(self.size / 2 ** (len(sizes) / 2))) >= self.pyramid:
            if smaller == sizes[-1]:
                break
            sizes.append(smaller)
        return tuple(reversed(sizes))

    def at_level(self, long_edge: int) -> Recipe:
        """Return the recipe with the `style_weight` of a pyramid level of `long_edge` pixels.

        A strong style on coarse levels puts motifs of the painting where the content has none. It depends on
        the level alone, so a small picture is what a large one begins as.
        """
        share = min(1.0, long_edge / FULL_STYLE_SIZE) ** (2 * self.style_growth)
        return self if share == 1 else self.model_copy(update={"style_weight": self.style_weight * share})

    def steps_at(self, level: int) -> int:
        """Return the steps of a level, counted from the coarsest, 0."""
        return self.steps[min(level, len(self.steps) - 1)]

    @property
    def matches_style(self) -> bool:
        """Tell whether the style's picture gets something of the content's before it is looked at."""
        return self.color in {"luminance", "match"}

    @property
    def range_weight(self) -> float:
        """How much pixels outside black and white count."""
        return RANGE_WEIGHTS[self.canvas]

    @property
    def recolors(self) -> bool:
        """Tell whether pictures get their style's palette on the way; with `luminance` there is none."""
        return self.recolor and self.color != "luminance"

    @property
    def total_steps(self) -> int:
        return sum(self.steps_at(level) for level in range(len(self.level_sizes())))

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.format]


def canonical_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace aliases by the names of their fields.

    Raises:
        ValueError: a field is given under both names.
    """
    result: dict[str, Any] = {}
    for key, value in data.items():
        name = ALIASES.get(key, key)
        if name in result:
            raise ValueError(f"'{name}' is given twice, once under its alias")
        result[name] = value
    return result


def merged_recipe(*sources: Mapping[str, Any]) -> Recipe:
    """Merge the fields of several sources into one recipe. A later source wins; the preset comes first."""
    merged: dict[str, Any] = {}
    for fields in sources:
        merged.update(canonical_keys(fields))
    return Recipe.model_validate(merged)


def recipe_error(error: ValidationError) -> UsageError:
    """Return what is wrong with a recipe that was given in Python."""
    problems = [f"recipe: {problem}." for problem in explain(error, Recipe)]
    return UsageError.of_lines(problems, "See docs/recipes.md, or `style-pipeline presets default`.")


class Preset(BaseModel):
    """A named recipe: the fields that differ from `default`, and what it is for."""

    model_config = ConfigDict(frozen=True)

    summary: str
    fields: dict[str, Any]


_CONV_STYLE_LAYERS = {f"conv{block}_1": 1.0 for block in range(1, 6)}

# What the five source systems share: a plain Gatys loop in the paper's terms. They say nothing of total
# variation or of a pyramid, so there is none; torchvision's VGG-19 pads with
# zeros and pools by maximum. None names a device or a seed.
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
    # bfloat16 does not come as low in hundreds of steps on one level.
    "precision": "float32",
    "optimizer": "adam",
    # The sources normalise with ImageNet's mean and spread and update the normalised picture itself,
    # so Adam's step is in those units, and pixels have no range to keep.
    "canvas": "imagenet",
    "pyramid": 0,
    "steps": 500,
    "size": 512,
}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "default": Preset(summary="the best we know: coarse to fine, L-BFGS, Bures style loss", fields={}),
        "draft": Preset(
            summary="a quick look at half the size",
            fields={"size": 256, "steps": (60, 40, 30)},
        ),
        "print": Preset(
            # Up to 512 pixels it is `default`, so that is its preview; the levels above only add detail.
            summary="2048 pixels for paper",
            fields={"size": 2048, "steps": (120, 80, 60, 60, 90, 30, 25, 20, 15)},
        ),
        # `default` before version 6: content at one deep layer, and the whole style on every level.
        "bold": Preset(
            summary="a wild look: the painting's motifs before the content's shapes",
            fields={"content_layers": {"relu4_2": 1.0}, "style_weight": 20.0, "style_growth": 0.0},
        ),
        # Source 000 names no content layer; the paper's conv4_2 is not among the five layers it
        # extracts, so the nearest of those, conv4_1, is taken. It names neither weights, steps, size
        # nor learning rate: weights are the paper's ratio 1e-3, steps and size ours.
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
        # An "epoch" of source 001 is one call of L-BFGS; torch's would make up to 20 iterations in it.
        # Its 1000 epochs are taken as 1000 iterations, which is what its loss curves can mean.
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
        # Source 002 gives each style layer a weight but no numbers; these are the usual tutorial's,
        # which favour the fine layers. Its course names no steps or rates either.
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
        # Source 003 calls its content layer `conv_4` and its style layers "a mix of layers". Both
        # "a blank (or content) image" and "a copy of the content image" start it: content by default,
        # `init: blank` for the other.
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


def preset_recipe(name: str) -> Recipe:
    """Return a preset as a full recipe.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        hint = did_you_mean(name, PRESETS) or "."
        raise UsageError(f"There is no preset '{name}'{hint}", f"Presets: {', '.join(PRESETS)}.")
    return Recipe.model_validate({"preset": name})
