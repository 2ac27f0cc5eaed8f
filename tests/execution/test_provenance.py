from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.execution.provenance import provenance
from pipeline.spec.jobs import Job, Masks, Style
from pipeline.spec.recipe import Recipe
from pipeline.vgg.weights import EncoderWeights, bundled_path


def make_job(*styles: tuple[str, float]) -> Job:
    style = Style("mix", tuple((Path(name), share) for name, share in styles))
    return Job("night", Path("/in/me.png"), style, Recipe(), "me--mix")


def test_styles_of_one_name_are_distinguished() -> None:
    weights = EncoderWeights("vgg19-slim", bundled_path("vgg19-slim"), "1" * 64)
    two, one = make_job(("/in/a/x.png", 0.7), ("/in/b/x.png", 0.3)), make_job(("/in/style.png", 1.0))
    assert provenance(two, "key", weights)["style"] == {"a/x.png": 0.7, "b/x.png": 0.3}
    assert provenance(one, "key", weights)["style"] == {"style.png": 1.0}


WEIGHTS = EncoderWeights("vgg19-slim", bundled_path("vgg19-slim"), "1" * 64)


def test_every_picture_is_distinguished_from_others_of_its_name() -> None:
    masks = Masks(Path("/p/masks/a.png"), ((0, 0, 0), (1, 1, 1)))
    style = Style("two", ((Path("/p/t/styles/a.png"), 1.0), (Path("/p/t/styles/b.png"), 1.0)))
    job = Job("same", Path("/p/flat/a.png"), style, Recipe(init="/p/starts/a.png"), "a--a", masks=masks)
    found = provenance(job, "key", WEIGHTS)
    assert (found["content"], found["recipe"]["init"]) == ("flat/a.png", "starts/a.png")
    assert found["style"] == {"styles/a.png": 1.0, "b.png": 1.0}
    assert found["masks"] == {"content": "masks/a.png", "styles": {"styles/a.png": 0, "b.png": 1}}


@pytest.mark.parametrize(
    ("content", "style", "names"),
    [
        ("/p/flat/a.png", "/p/t/styles/a.png", ("flat/a.png", "styles/a.png")),
        ("/p/a.png", "/p/t/styles/a.png", ("a.png", "styles/a.png")),
        ("/p/t/styles/a.png", "/p/a.png", ("styles/a.png", "a.png")),
        ("/home/zoe/a/x/me.png", "/data/b/x/me.png", ("a/x/me.png", "b/x/me.png")),
        ("/p/x/me.png", "/p/y/s.png", ("me.png", "s.png")),
        ("/p/x/me.png", "/p/x/me.png", ("me.png", "me.png")),
        ("me.png", "x/me.png", ("me.png", "x/me.png")),
    ],
)
def test_names_have_as_few_folders_as_it_takes(content, style, names) -> None:
    job = Job("b", Path(content), Style("s", ((Path(style), 1.0),)), Recipe(), "n")
    found = provenance(job, "key", WEIGHTS)
    assert (found["content"], *found["style"]) == names


def test_a_dropped_picture_has_the_name_that_it_was_dropped_with() -> None:
    style = Style("a", ((Path("/in/styles/a.png"), 1.0),))
    job = Job("b", Path("/in/.claimed/17.png"), style, Recipe(), "n", origin=Path("/in/a.png"))
    found = provenance(job, "key", WEIGHTS)
    assert (found["content"], *found["style"]) == ("a.png", "styles/a.png")


def test_a_picture_twice_in_a_blend_has_both_its_shares() -> None:
    found = provenance(make_job(("/in/s.png", 0.5), ("/in/t.png", 1.0), ("/in/s.png", 0.25)), "key", WEIGHTS)
    assert found["style"] == {"s.png": 0.75, "t.png": 1.0}


def test_a_start_that_is_called_like_a_way_to_start() -> None:
    job = Job("b", Path("/in/me.png"), make_job(("/in/s.png", 1.0)).style, Recipe(init="/in/content"), "n")
    assert provenance(job, "key", WEIGHTS)["recipe"]["init"] == "./content"


def test_the_name_of_a_style_is_recorded_if_it_is_not_that_of_its_files() -> None:
    mix = make_job(("/in/s.png", 1.0), ("/in/t.png", 1.0))
    assert provenance(mix, "key", WEIGHTS)["name"] == "mix"
    same = replace(mix, style=replace(mix.style, name="s+t"))
    assert "name" not in provenance(same, "key", WEIGHTS)
