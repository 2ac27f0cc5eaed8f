"""How long jobs take."""

from __future__ import annotations

import pytest
from fakes import QUICK, Workshop

from pipeline.batch.estimate import TYPICAL, Estimate, Speeds, megapixel_steps
from pipeline.spec.recipe import Recipe, merged_recipe
from pipeline.storage.ledger import Ledger


def test_steps_that_are_taken_are_no_work() -> None:
    recipe = Recipe(size=512, pyramid=256, steps=(3, 2, 1), square=True, margin=0)
    assert megapixel_steps(recipe, steps_taken=4) == pytest.approx((362**2 + 512**2) / 1e6)
    assert megapixel_steps(recipe, steps_taken=6) == 0


def test_the_work_of_a_recipe_is_its_pixels_times_its_steps() -> None:
    plain = {"pyramid": 0, "margin": 0, "steps": 7}
    assert megapixel_steps(Recipe(size=1000, square=True, **plain)) == pytest.approx(7)
    assert megapixel_steps(Recipe(size=1000, **plain), aspect=2) == pytest.approx(3.5)
    assert megapixel_steps(Recipe(size=1000, **plain), aspect=0.5) == pytest.approx(3.5)
    with_margin = Recipe(size=1000, **{**plain, "margin": 100})
    assert megapixel_steps(with_margin, aspect=2) == pytest.approx(1.2 * 0.7 * 7)
    recipe = Recipe(size=512, pyramid=256, steps=(3, 2, 1), square=True, margin=0)
    expected = (256**2 * 3 + 362**2 * 2 + 512**2) / 1e6
    assert megapixel_steps(recipe) == pytest.approx(expected)


def test_an_estimate_learns_from_the_last_picture(workshop: Workshop) -> None:
    recipe = Recipe(size=1000, square=True, pyramid=0, steps=10, margin=0)
    ledger = Ledger(workshop.state)
    guess = Estimate(ledger)
    guess.add(recipe, "vgg19")
    assert guess.seconds == pytest.approx(10 * TYPICAL["vgg19"])
    assert "guess" in guess.basis
    ledger.note_speed("vgg19", "cuda:0", 0.01)
    seen = Estimate(ledger)
    for steps_taken in (0, 0, 4):
        seen.add(recipe, "vgg19", steps_taken)
    seen.add(recipe.model_copy(update={"steps": (1,)}), "vgg19-slim")
    assert (seen.jobs, seen.seconds) == (4, pytest.approx(0.26 + TYPICAL["vgg19-slim"]))
    assert (seen.encoders, "cuda:0" in seen.basis) == ("vgg19 and vgg19-slim", True)
    assert Speeds(ledger).seconds(recipe, "another") == 0
    assert "tiles" not in seen.basis
    seen.add(recipe, "vgg19", work_factor=1.5)
    assert seen.seconds == pytest.approx(0.26 + 0.15 + TYPICAL["vgg19-slim"])
    assert seen.basis.endswith("; tiles, for which the memory asks, add 50 % to the work")
    ledger.close()


def test_a_small_job_is_no_measure_of_speed(workshop: Workshop) -> None:
    workshop.run()
    ledger = Ledger(workshop.state)
    assert ledger.speed("fake") is None
    ledger.close()


def test_a_run_notes_its_speed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.batch.runner.ENOUGH_WORK", 0.0)
    workshop.run()
    ledger = Ledger(workshop.state)
    speed = ledger.speed("fake")
    ledger.close()
    assert speed is not None
    assert speed[0] == "fake0"
    assert speed[1] == pytest.approx(0.4 / megapixel_steps(merged_recipe(QUICK)))
