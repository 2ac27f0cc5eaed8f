from __future__ import annotations

from pathlib import Path

from pipeline.jobs import Job, Style
from pipeline.neural.weights import SLIM_PATH, EncoderWeights
from pipeline.recipe import Recipe
from pipeline.results import provenance, unexpected_failure, versions


def make_job(*styles: tuple[str, float]) -> Job:
    style = Style("mix", tuple((Path(name), share) for name, share in styles))
    return Job("night", Path("/in/me.png"), style, Recipe(), "me--mix")


def test_styles_of_one_name_are_told_apart() -> None:
    weights = EncoderWeights("vgg19-slim", SLIM_PATH, "1" * 64)
    two, one = make_job(("/in/a/x.png", 0.7), ("/in/b/x.png", 0.3)), make_job(("/in/style.png", 1.0))
    assert provenance(two, "key", weights)["style"] == {"a/x.png": 0.7, "b/x.png": 0.3}
    assert provenance(one, "key", weights)["style"] == {"style.png": 1.0}


def test_a_fault_nobody_expected_is_told_with_its_traceback() -> None:
    try:
        raise ZeroDivisionError("by whom?")
    except ZeroDivisionError as error:
        result = unexpected_failure(make_job(("/in/s.png", 1.0)), error)
    assert (result.status, result.error) == (
        "failed",
        f"{Path('/in/me.png')}: unexpected ZeroDivisionError: by whom?",
    )
    assert "report it" in result.next_step
    assert "Traceback" in result.details


def test_versions_are_plain_text() -> None:
    """torch's own class for its version would load torch wherever a result is sent."""
    assert {type(version) for version in versions().values()} == {str}
