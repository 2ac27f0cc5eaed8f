"""The strips of docs/recipes.md: each is shown there, and its recipes are valid."""

from __future__ import annotations

import re
from pathlib import Path

import strips
from PIL import Image

from pipeline.spec.recipe import Recipe

ROOT = Path(__file__).parents[1]


def test_the_document_shows_every_strip_and_no_other() -> None:
    shown = re.findall(r"\(images/recipes/(\w+)\.jpg\)", (ROOT / "docs" / "recipes.md").read_text("utf-8"))
    assert sorted(shown) == sorted(strips.STRIPS)
    for name in shown:
        assert (ROOT / "docs" / "images" / "recipes" / f"{name}.jpg").stat().st_size < 60_000


def test_every_panel_is_a_picture_or_a_recipe(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(strips, "stylize", lambda content, style, recipe, mask: asked.append((style, recipe)))
    for strip in strips.STRIPS.values():
        for panel in strip.panels:
            strips.render(strip, panel, 192)
    assert {recipe.encoder for _, recipe in asked} == {"vgg19-slim"}
    assert {recipe.size for _, recipe in asked} == {96, 192}
    paths = [Path(path) for style, _ in asked for path in (style if isinstance(style, dict) else [style])]
    assert all(path.is_file() for path in paths)


def test_strips_are_about_fields_of_the_recipe() -> None:
    assert set(strips.STRIPS) - {"inputs", "blend", "little", "masks"} <= set(Recipe.model_fields)


def test_pictures_stand_in_a_row_at_one_height() -> None:
    pictures = [Image.new("RGB", size) for size in ((64, 48), (32, 32), (120, 60))]
    sheet = strips.arrange(pictures, ["a", "b", "c"], 60)
    assert sheet.size == (40 + 30 + 60 + 2 * strips.GAP, 30 + strips.CAPTION)
