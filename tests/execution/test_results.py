from __future__ import annotations

from pathlib import Path

from pipeline.execution.results import unexpected_failure, versions
from pipeline.spec.jobs import Job, Style
from pipeline.spec.recipe import Recipe


def make_job(*styles: tuple[str, float]) -> Job:
    style = Style("mix", tuple((Path(name), share) for name, share in styles))
    return Job("night", Path("/in/me.png"), style, Recipe(), "me--mix")


def test_an_unexpected_fault_is_reported_with_its_traceback() -> None:
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
