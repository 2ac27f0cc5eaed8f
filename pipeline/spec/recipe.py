"""Recipe: how a picture should look."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..errors import UsageError
from .layers import LayerWeights, beyond_slim
from .models import StrictModel
from .output_names import check_template
from .presets import PRESETS
from .problems import alternatives, explain, shown

ALIASES = MappingProxyType({"alpha": "content_weight", "beta": "style_weight"})

# Any other `init` is the path of a picture.
INIT_MODES = frozenset({"content", "noise", "blank", "style"})

# The longest side of a result; of some formats, or of their encoders, it is shorter. In pixels.
LARGEST_SIZE = 65536
LONGEST: Mapping[str, int] = MappingProxyType({"webp": 16_383, "jpeg": 65_500})

# The suffix of each file format.
SUFFIXES = MappingProxyType({"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"})

# The fields that people change first, in the order of the class.
FIRST_FIELDS = ("strength", "size", "style_scale", "color", "tv_weight", "steps")

# How much pixels outside black and white count. Only a canvas in RGB has a range to keep; the programs that
# the source presets reproduce optimise the network's input and do not limit it.
RANGE_WEIGHTS = MappingProxyType({"rgb": 10.0, "imagenet": 0.0})

# The context in which the fields of one source of several are validated.
_PARTIAL = "partial"

# Fields that decide how the file is written, but not its pixels.
_FILE_FIELDS = frozenset({"format", "bit_depth", "quality", "transparency", "exif", "profile"})


def _one_or_more(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, int | float):
        raise ValueError(f"expected a whole number, or a list of them, found {shown(value)}")
    return (value,)


# Beyond these bounds float32, in which losses are added up, cannot compare them.
Weight = Annotated[float, Field(ge=0, le=1e12)]
Steps = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...],
    BeforeValidator(_one_or_more, json_schema_input_type=int | list[int]),
    Field(min_length=1),
]


def _add_aliases(schema: dict[str, Any]) -> None:
    """Let editors accept the aliases, too."""
    for alias, name in ALIASES.items():
        schema["properties"][alias] = {**schema["properties"][name], "title": alias}


class Recipe(StrictModel):
    """Everything that decides how a picture looks; every field has a default.

    `Recipe(preset="draft", size=300)` is the preset `draft` with one field changed. `alpha` and `beta`
    are accepted for `content_weight` and `style_weight`.
    """

    model_config = ConfigDict(json_schema_extra=_add_aliases)

    preset: str = Field("default", description="preset that supplies every field not given here")

    # What people change first: FIRST_FIELDS.
    strength: float = Field(
        1.0, ge=0, le=4, description="how far the photograph becomes a painting; 0: not at all, 2: very far"
    )
    size: int = Field(512, ge=16, le=LARGEST_SIZE, description="longer side of the result in pixels")
    style_scale: float = Field(
        1.0, ge=0.1, le=10, description="size of the style relative to the content; more makes larger strokes"
    )
    color: Literal["style", "content", "luminance", "match"] = Field(
        "style",
        description="where colours come from; style: the style image; content: the content, whose colours "
        "return at the end; luminance: the content, and only its light and dark are painted; match: the "
        "style image, after it was given the palette of the content",
    )
    tv_weight: Weight = Field(6.0, description="smoothness; more removes specks and softens the picture")
    steps: Steps = Field(
        (120, 80, 60, 45),
        description="steps of the optimizer on each pyramid level, coarsest first; the last number repeats",
    )

    # What keeps the content, and what makes the style.
    content_weight: Weight = Field(1.0, description="strength of the content; usually left at 1")
    style_weight: Weight = Field(
        50.0, description="strength of the style against the content; `strength` multiplies it"
    )
    content_layers: LayerWeights = Field(
        # Shallow layers hold the drawing; relu5_1 keeps the painting's eyes and faces out of empty skies.
        {"relu2_1": 3.6, "relu3_1": 0.2, "relu4_2": 0.2, "relu5_1": 2.7},
        description="network layers that keep the content, each with a weight; shallow layers keep the "
        "drawing, deep ones only the subject",
    )
    style_layers: LayerWeights = Field(
        # The first layers keep colour and fine texture true; equal weights leave coloured fringes. More of
        # the last two brings the painting's eyes and faces into skies.
        {"relu1_1": 12.0, "relu2_1": 3.2, "relu3_1": 1.4, "relu4_1": 0.34, "relu5_1": 0.15},
        description="network layers that define the style, each with a weight; shallow layers hold colours "
        "and strokes, deep ones motifs",
    )
    style_growth: float = Field(
        1.3,
        ge=0,
        le=4,
        description="how much the style grows with the pyramid level: style_weight times (pixels of the "
        "level / pixels of a level of 512) to this power, beyond 512 to half of it; 0: the same everywhere",
    )
    tv_chroma: float = Field(
        5.0, ge=0, le=1e6, description="how much more tv_weight smooths colour than lightness; 1: both alike"
    )
    recolor: bool = Field(
        True,
        description="give the picture the palette of the style before every level, and in part at the end",
    )
    match_by: Literal["covariance", "histogram"] = Field(
        "covariance",
        description="what color: match makes equal; covariance: mean and spread of the colours, smoothly; "
        "histogram: the whole palette, with more contrast and more specks",
    )

    # Which loss is computed, by which network.
    loss: Literal["gatys", "mean", "normalized"] = Field(
        "normalized",
        description="how losses are scaled; normalized: weights mean the same for every network and size; "
        "gatys, mean: as in published programs, where weights have other magnitudes",
    )
    style_loss: Literal["gram", "bures"] = Field(
        "bures",
        description="how styles are compared; gram: Gram matrices, as in published programs; bures: mean and "
        "covariance of the features, which also reproduces faint patterns and is always normalized",
    )
    encoder: Literal["auto", "vgg19", "vgg19-slim"] = Field(
        "auto",
        description="network; auto: vgg19 on a GPU, vgg19-slim, which is faster, on a CPU",
    )
    pooling: Literal["max", "average"] = Field(
        "max", description="how the network halves its features; average makes rounder shapes"
    )
    padding: Literal["zeros", "reflect", "replicate"] = Field(
        "reflect", description="what the network sees beyond the border of the picture"
    )
    margin: int = Field(
        16,
        ge=0,
        le=256,
        description="mirrored border in pixels, cropped at the end; prevents faults at edges",
    )

    # How the optimizer gets there.
    init: str = Field(
        "content",
        min_length=1,
        description="what to start from: content, noise, blank, style, or the path of a picture",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="number that selects the noise of init: noise")
    pyramid: int = Field(
        128, ge=0, le=16384, description="longer side of the coarsest level in pixels; 0: a single level"
    )
    optimizer: Literal["lbfgs", "adam"] = Field("lbfgs", description="algorithm that changes the pixels")
    learning_rate: float = Field(
        1.0, ge=1e-9, le=1e3, description="length of a step; about 1 for lbfgs, 0.02 for adam"
    )
    history: int = Field(10, ge=1, le=200, description="steps that lbfgs remembers; more takes more memory")
    canvas: Literal["rgb", "imagenet"] = Field(
        "rgb",
        description="what is optimised; rgb: pixels, kept between black and white; imagenet: the network's "
        "input without limits, as in published programs",
    )
    precision: Literal["auto", "bfloat16", "float32", "reference"] = Field(
        "auto",
        description="numbers the network computes with; auto: bfloat16 on devices that are fast with it, "
        "else float32; reference: float32 by automatic differentiation, slow, to check the others",
    )

    # The shape of the result, snapshots and the file.
    square: bool = Field(False, description="stretch the result to a square of size by size pixels")
    upscale_to_content: bool = Field(False, description="scale the result to the content's own size")
    snapshot_every: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="steps between snapshots of the unfinished picture; 0: no snapshots",
    )
    snapshot_view: Literal["result", "side_by_side"] = Field(
        "result", description="what a snapshot shows; side_by_side: content, style and result"
    )
    format: Literal["png", "jpeg", "webp", "tiff"] = Field("png", description="file format of the result")
    bit_depth: Literal[8, 16] = Field(8, description="bits per channel; 16 only in png and tiff")
    quality: int = Field(95, ge=1, le=100, description="quality of jpeg and webp")
    transparency: Literal["keep", "white"] = Field(
        "keep",
        description="keep: transparent where the content is, if the format can; white: never transparent",
    )
    exif: Literal["drop", "keep"] = Field(
        "drop",
        description="keep: copy description, keywords, author, date, place, camera and resolution from the "
        "content's metadata",
    )
    profile: Literal["srgb", "keep"] = Field(
        "srgb", description="colour profile of the result; keep: the content's own, if it is RGB"
    )
    name: str = Field(
        "{content}--{style}{sweep}",
        min_length=1,
        description="output name; may use {content}, {style}, {sweep}, {step} and every field of the recipe",
    )

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, /, **fields: Any) -> None:
            """Make a recipe of its fields.

            Raises:
                UsageError: a field is unknown, or a value makes no sense.
            """
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise recipe_error(error) from error

        # Lets pydantic validate parts of a document without __init__, and gather the errors of all of them.
        __init__.__pydantic_base_init__ = True

    def __hash__(self) -> int:
        """Hash a few fields. The layers are dicts, which have no hash."""
        return hash((self.preset, self.size, self.style_weight, self.steps, self.seed))

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = canonical_keys(data)
        preset = PRESETS.get(str(data.get("preset", "default")))
        return data if preset is None else {**preset.fields, **data}

    @field_validator("preset")
    @classmethod
    def _check_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"'{name}' is not a preset{alternatives(name, PRESETS)}")
        return name

    @field_validator("name")
    @classmethod
    def _check_name(cls, template: str) -> str:
        check_template(template, sorted({"content", "style", "sweep", "step", *cls.model_fields}))
        return template

    @model_validator(mode="after")
    def _check_together(self, info: ValidationInfo) -> Recipe:
        """Refuse fields that contradict each other, unless another source may still replace one of them."""
        if info.context == _PARTIAL:
            return self
        content = self.content_weight and any(self.content_layers.values())
        style = self.style_weight and any(self.style_layers.values())
        if not (content or style or self.tv_weight):
            raise ValueError(
                "nothing is asked for: content_weight, style_weight and tv_weight, or the weights of their "
                "layers, are all 0"
            )
        if self.encoder == "vgg19-slim" and (beyond := self.beyond_slim()):
            raise ValueError(f"vgg19-slim ends at relu5_1; the layer {beyond[0]} needs encoder: vgg19")
        if self.bit_depth == 16 and self.format not in {"png", "tiff"}:
            raise ValueError(f"{self.format} has 8 bits per channel; bit_depth: 16 needs format: png or tiff")
        if self.size > (longest := LONGEST.get(self.format, LARGEST_SIZE)):
            raise ValueError(
                f"{self.format} holds at most {longest} pixels on a side; choose format: png, or lower size"
            )
        # A given `color` may have replaced `match`, which another source gave with this `match_by`.
        if self.match_by != "covariance" and self.color != "match" and "color" not in self.model_fields_set:
            raise ValueError(f"match_by: {self.match_by} has no effect without color: match")
        return self

    def batch_key(self) -> str:
        """Return what is equal for recipes whose pictures, at one size, can share a tensor."""
        apart = {"preset", "name", "init", "seed", "snapshot_view", "upscale_to_content", *_FILE_FIELDS}
        return self.model_dump_json(exclude=apart)

    def beyond_slim(self) -> list[str]:
        """Return the layers of this recipe that vgg19-slim does not have."""
        return beyond_slim({**self.content_layers, **self.style_layers})

    @property
    def matches_style(self) -> bool:
        """Whether the style image gets something of the content before the run: its palette or its light."""
        return self.color in {"luminance", "match"}

    @property
    def recolors(self) -> bool:
        """Whether pictures get the palette of their style on the way; `luminance` has no palette."""
        return self.recolor and self.color != "luminance"

    @property
    def range_weight(self) -> float:
        """How much pixels beyond black and white count."""
        return RANGE_WEIGHTS[self.canvas]

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


def given_fields(value: Any) -> dict[str, Any]:
    """Check the fields of one source, and return only those given, to be merged with other sources.

    Raises:
        ValidationError: a field is unknown, or a value makes no sense in any recipe.
    """
    Recipe.model_validate(value, context=_PARTIAL)
    return canonical_keys(value)


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
