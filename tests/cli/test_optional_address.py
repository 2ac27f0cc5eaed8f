from __future__ import annotations

import pytest

from pipeline.cli.commands.flags import on_ray
from pipeline.cli.commands.optional_address import with_address
from pipeline.errors import UsageError
from pipeline.spec.config import Config


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run night.yaml --ray", "run night.yaml --ray auto"),
        ("run --ray night.yaml", "run --ray auto night.yaml"),
        ("run night.yaml --ray --ray-ship", "run night.yaml --ray auto --ray-ship"),
        ("run night.yaml --ray ant:6379", "run night.yaml --ray ant:6379"),
        ("run --ray ant:6379 night.yaml", "run --ray ant:6379 night.yaml"),
        ("run --ray ray://ant:10001 night.yaml", "run --ray ray://ant:10001 night.yaml"),
        ("run --ray auto night.yaml", "run --ray auto night.yaml"),
        ("run --ray=ant:6379 night.yaml", "run --ray=ant:6379 night.yaml"),
        ("run night.yaml", "run night.yaml"),
    ],
)
def test_an_address_may_be_left_out(words: str, expected: str) -> None:
    assert list(with_address(words.split())) == expected.split()


def test_the_flag_chooses_the_cluster_and_leaves_its_address_to_the_configuration() -> None:
    local, named = Config(), Config.model_validate({"ray": {"address": "ant:6379"}})
    assert on_ray(local, None) == local
    assert (on_ray(local, "auto").executor, on_ray(local, "auto").ray.address) == ("ray", "auto")
    assert on_ray(named, "auto").ray.address == "ant:6379"
    assert on_ray(named, "bee:6379").ray.address == "bee:6379"


def test_pictures_are_sent_only_to_a_cluster() -> None:
    assert on_ray(Config(), "auto", ship=True).ray.ship
    assert on_ray(Config(executor="ray"), None, ship=True).ray.ship
    with pytest.raises(UsageError, match="--ray-ship needs a Ray cluster"):
        on_ray(Config(), None, ship=True)
