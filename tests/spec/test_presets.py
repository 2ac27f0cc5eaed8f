"""Every number that a source document states, held by its preset."""

from __future__ import annotations

import pytest

from pipeline.batch.estimate import megapixel_steps
from pipeline.spec.presets import PRESETS
from pipeline.spec.recipe import Recipe
from pipeline.spec.schedule import at_level, level_sizes, total_steps

SOURCE_STYLE_LAYERS = ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"]
SOURCES = ["gatys-adam", "gatys-lbfgs", "layer-weights", "content-start", "thumbnail"]


def test_the_presets_are_these():
    assert list(PRESETS) == ["default", "draft", "print", "bold", *SOURCES]


@pytest.mark.parametrize("name", SOURCES)
def test_what_all_five_sources_share(name):
    recipe = Recipe(preset=name)
    assert recipe.encoder == "vgg19"
    assert recipe.style_loss == "gram"
    assert recipe.canvas == "imagenet"
    assert recipe.pooling == "max"
    assert recipe.padding == "zeros"
    assert recipe.init == "content"
    assert recipe.pyramid == 0
    assert recipe.tv_weight == recipe.range_weight == recipe.style_growth == 0


def test_gatys_adam_is_source_000():
    recipe = Recipe(preset="gatys-adam")
    assert recipe.optimizer == "adam"
    assert recipe.loss == "gatys"
    assert list(recipe.style_layers) == SOURCE_STYLE_LAYERS
    assert set(recipe.style_layers.values()) == {1.0}
    assert recipe.content_layers == {"conv4_1": 1.0}
    assert level_sizes(recipe) == (512,)
    assert total_steps(recipe) == 500


def test_gatys_lbfgs_is_source_001():
    recipe = Recipe(preset="gatys-lbfgs")
    assert recipe.optimizer == "lbfgs"
    assert recipe.learning_rate == 1.0
    assert recipe.content_layers == {"conv4_2": 1.0}
    assert list(recipe.style_layers) == SOURCE_STYLE_LAYERS
    assert (recipe.content_weight, recipe.style_weight) == (1, 1e6)
    assert recipe.loss == "mean"
    assert (recipe.size, recipe.square) == (512, True)
    assert total_steps(recipe) == 1000
    assert recipe.snapshot_every == 100
    assert recipe.format == "jpeg"
    names = [recipe.name.format(step=step, **recipe.model_dump(exclude={"name"})) for step in (100, 1000)]
    assert names == ["1_1e+06_1/generated_100", "1_1e+06_1/generated_1000"]


def test_layer_weights_is_source_002():
    recipe = Recipe(preset="layer-weights")
    assert recipe.optimizer == "adam"
    assert recipe.content_layers == {"conv4_2": 1.0}
    assert list(recipe.style_layers) == SOURCE_STYLE_LAYERS
    assert len(set(recipe.style_layers.values())) == 5
    assert recipe.loss == "mean"


def test_content_start_is_source_003():
    recipe = Recipe(preset="content-start")
    assert recipe.optimizer == "adam"
    assert recipe.init == "content"
    assert recipe.content_layers == {"conv4_2": 1.0}
    assert len(recipe.style_layers) > 1
    assert recipe.loss == "mean"


def test_thumbnail_is_source_004():
    recipe = Recipe(preset="thumbnail")
    assert recipe.optimizer == "adam"
    assert recipe.learning_rate == 0.1
    assert total_steps(recipe) == 1000
    assert (recipe.content_weight, recipe.style_weight) == (10, 1e4)
    assert (recipe.size, recipe.square) == (128, True)
    assert recipe.upscale_to_content
    assert recipe.snapshot_every == 100
    assert recipe.snapshot_view == "side_by_side"
    assert list(recipe.style_layers) == SOURCE_STYLE_LAYERS
    assert recipe.content_layers == {"conv4_2": 1.0}
    assert recipe.loss == "mean"


def test_default_is_ours():
    recipe = Recipe(preset="default")
    assert (recipe.optimizer, recipe.loss, recipe.style_loss) == ("lbfgs", "normalized", "bures")
    assert len(level_sizes(recipe)) > 1
    assert all(layer.startswith("relu") for layer in [*recipe.content_layers, *recipe.style_layers])
    assert not recipe.square


def test_default_keeps_the_drawing_and_bold_does_not():
    default, bold = Recipe(preset="default"), Recipe(preset="bold")
    assert len(default.content_layers) > len(bold.content_layers) == 1
    weights = [at_level(default, size).style_weight for size in level_sizes(default)]
    assert weights == sorted(set(weights))
    assert {at_level(bold, size).style_weight for size in level_sizes(bold)} == {15.0}


def test_draft_is_less_work_and_print_is_larger():
    default, draft, large = (Recipe(preset=name) for name in ("default", "draft", "print"))
    assert draft.size < default.size
    assert megapixel_steps(draft) < megapixel_steps(default) / 5
    assert large.size >= 2048
