from __future__ import annotations

from typing import Any

import pytest

from pipeline.batch.records import what_changed
from pipeline.spec.recipe import Recipe


def record(content: str = "a", **fields: Any) -> dict[str, Any]:
    return {"content": {"sha256": content}, "recipe": {**Recipe().model_dump(mode="json"), **fields}}


@pytest.mark.parametrize(
    ("old", "changed"),
    [
        (record(), "the program"),
        (record("b"), "the content"),
        (record(tv_weight=9.0), "the recipe"),
        (record("b", name="{content}", preset="draft", encoder="vgg19"), "the content"),
        ({}, "the program"),
    ],
)
def test_what_changed_between_two_results_is_named(old: dict[str, Any], changed: str) -> None:
    assert what_changed(old, record()) == changed
