"""What a manifest may say: its keys, the types of their values, and which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .config import RecipeFields, Share
from .models import StrictModel, listed
from .problems import quotes_hint, shown
from .recipe import Recipe
from .regions import Color, check_regions, region_color


def _style_mapping(value: Any) -> Any:
    if isinstance(value, str):
        return {"image": value}
    if not isinstance(value, Mapping | StyleEntry):
        example = "{image: a.jpg, name: night}"
        problem = f"expected a path, or keys and values such as {example}, found {shown(value)}"
        raise ValueError(problem + quotes_hint(value))
    return value


class StyleEntry(StrictModel):
    """A style: a path or glob, or a blend of several with their shares; `name` is used in outputs."""

    image: str | None = Field(None, min_length=1, description="path or glob")
    blend: dict[str, Share] | None = Field(None, min_length=1, description="paths with their shares")
    name: str | None = Field(
        None, min_length=1, description="name in outputs; the name of the file if left out"
    )

    @model_validator(mode="after")
    def _check_kind(self) -> StyleEntry:
        if (self.image is None) == (self.blend is None):
            raise ValueError("a style needs either image or blend, such as {blend: {a.jpg: 0.7, b.jpg: 0.3}}")
        return self


StyleField = Annotated[
    StyleEntry,
    BeforeValidator(_style_mapping, json_schema_input_type=str | StyleEntry),
]
RegionColor = Annotated[Color, BeforeValidator(region_color, json_schema_input_type=float | str)]


class MasksEntry(StrictModel):
    """Which style goes where in a content: a picture whose colours mark the regions."""

    content: str = Field(min_length=1, description="a grey or coloured picture of the content's shape")
    styles: dict[str, RegionColor] = Field(
        description="paths, each with the colour of its region: a grey level from 0 to 1, or '#rrggbb'"
    )
    name: str | None = Field(
        None, min_length=1, description="name in outputs; the names of the files, joined by +, if left out"
    )

    @field_validator("styles")
    @classmethod
    def _check_regions(cls, styles: dict[str, Color]) -> dict[str, Color]:
        check_regions(styles)
        return styles


class Pair(StrictModel):
    """One content and one style, or several styles with masks, and recipe fields of their own."""

    content: str = Field(min_length=1, description="path or glob")
    masks: MasksEntry | None = Field(None, description="several styles, each in its own part of the content")
    style: StyleField | None = Field(
        None, validate_default=True, description="path or glob, or a blend; left out if there are masks"
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields for this pair; never swept")

    @field_validator("style")
    @classmethod
    def _check_masks(cls, style: StyleEntry | None, info: ValidationInfo) -> StyleEntry | None:
        # `masks` is missing here if it was invalid; that error is reported already.
        if "masks" in info.data and (style is None) == (info.data["masks"] is None):
            raise ValueError(
                "a pair needs a style, or masks"
                if style is None
                else "cannot be given beside masks, which name the styles"
            )
        return style


PathText = Annotated[str, Field(min_length=1)]
Contents = Annotated[
    list[PathText], BeforeValidator(listed, json_schema_input_type=PathText | list[PathText])
]
Styles = Annotated[
    list[StyleField], BeforeValidator(listed, json_schema_input_type=StyleField | list[StyleField])
]
Pairs = Annotated[list[Pair], BeforeValidator(listed, json_schema_input_type=Pair | list[Pair])]
SweptValues = Annotated[list[Any], BeforeValidator(listed), Field(min_length=1)]


def _describe_sweep(schema: dict[str, Any]) -> None:
    """Tell editors which fields can be swept, and which values they accept."""
    fields = Recipe.model_json_schema()["properties"]
    schema["properties"]["sweep"] |= {
        "additionalProperties": False,
        "properties": {
            name: {
                "description": field["description"],
                "anyOf": [{"type": "array", "items": field, "minItems": 1}, field],
            }
            for name, field in fields.items()
        },
    }


class Manifest(StrictModel):
    """A batch: every content with every style, then the pairs; each once per value of the sweep."""

    model_config = ConfigDict(json_schema_extra=_describe_sweep)

    batch: str | None = Field(
        None, min_length=1, description="folder in the outbox; the name of this file if left out"
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields for every job of this batch")
    contents: Contents = Field([], description="paths or globs")
    styles: Styles = Field([], description="paths or globs, or blends; every content gets each of them")
    pair: Literal["product", "zip"] = Field(
        "product",
        description="how contents and styles are combined; product: every content with every style; zip: the "
        "first with the first, the second with the second, and so on",
    )
    pairs: Pairs = Field([], description="single contents, each with a style or masks of its own")
    sweep: dict[str, SweptValues] = Field(
        {},
        description="recipe fields, each with the values to try; a pair that sets the field keeps its own",
    )

    @field_validator("pair", mode="before")
    @classmethod
    def _check_is_no_list(cls, value: Any) -> Any:
        if isinstance(value, list | Mapping):
            raise ValueError("expected product or zip; single pairs are listed under 'pairs'")
        return value

    @model_validator(mode="after")
    def _check_something_to_do(self) -> Manifest:
        if bool(self.contents) != bool(self.styles):
            missing = "styles" if self.contents else "contents"
            raise ValueError(f"there are no {missing}: contents and styles go together")
        if not self.contents and not self.pairs:
            raise ValueError("nothing to do: give contents and styles, or pairs")
        return self
