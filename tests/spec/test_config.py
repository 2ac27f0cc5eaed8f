from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.errors import UsageError
from pipeline.spec.config import Blend, Config, Route, WatchConfig, anchor_init, read_config
from pipeline.spec.recipe import INIT_MODES, Recipe, merged_recipe

THE_CONFIG = Path(__file__).parents[2] / "config.yaml"


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def failure(path: Path) -> list[str]:
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert caught.value.exit_code == 2
    return caught.value.message.splitlines()


def test_the_config_of_the_repository_is_valid() -> None:
    config = read_config(THE_CONFIG)
    assert config.outbox == THE_CONFIG.parent / "outbox"
    merged_recipe(config.recipe)


def test_the_config_of_the_repository_has_every_key() -> None:
    text = THE_CONFIG.read_text(encoding="utf-8")
    missing = [key for key in Config.model_fields if not re.search(rf"^(# ?)?{key}:", text, re.MULTILINE)]
    assert missing == []


def test_every_key_in_the_config_of_the_repository_works(tmp_path: Path) -> None:
    """Also the keys in comments, once their `#` is removed."""
    text = THE_CONFIG.read_text(encoding="utf-8")
    keys, fields = "|".join(Config.model_fields), "|".join(Recipe.model_fields)
    uncommented = re.sub(rf"^# ?(?=(?:{keys}):|  +(?:{fields}):)", "", text, flags=re.MULTILINE)
    assert set(Config.model_fields) == set(read_config(write(tmp_path, uncommented)).model_fields_set)


def test_without_a_file_the_defaults_apply(environment: Path) -> None:
    config = read_config(None)
    assert config == Config().resolved(environment)
    assert config.outbox == environment / "outbox"
    assert config.device == "auto"
    assert config.weights is None
    assert config.recipe == {}


def test_the_file_in_the_current_folder_is_found(environment: Path) -> None:
    write(environment, "device: cpu\n")
    assert read_config(None).device == "cpu"


def test_a_named_file_wins_over_the_one_in_the_current_folder(environment: Path, tmp_path: Path) -> None:
    write(environment, "device: cpu\n")
    assert read_config(write(tmp_path / "other", "device: mps\n")).device == "mps"


def test_a_named_file_must_be_there(environment: Path) -> None:
    write(environment, "device: cpu\n")
    (line,) = failure(Path("missing.yaml"))
    assert "missing.yaml" in line


def test_an_empty_file_is_the_defaults(environment: Path) -> None:
    assert read_config(write(environment, "# nothing\n")) == Config().resolved(environment)


@pytest.mark.parametrize("relative", [True, False])
def test_paths_start_at_the_folder_of_the_file(relative: bool, environment: Path) -> None:
    path = write(
        environment / "etc",
        "outbox: ../results\nstate_dir: state\ncache_dir: /var/x/../cache\nweights: w/vgg.pth\n",
    )
    config = read_config(path.relative_to(environment) if relative else path)
    assert config.outbox == environment / "results"
    assert config.state_dir == environment / "etc/state"
    assert config.cache_dir == Path("/var/cache")
    assert config.weights == environment / "etc/w/vgg.pth"


def test_a_tilde_is_the_home(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(environment / "me"))
    config = read_config(write(environment, "outbox: ~/results\nrecipe: {init: ~/a.png}\n"))
    assert config.outbox == environment / "me/results"
    assert config.recipe == {"init": str(environment / "me/a.png")}


def test_the_home_of_an_unknown_user_is_an_error_with_its_line(environment: Path) -> None:
    (line,) = failure(write(environment, "device: cpu\noutbox: ~nobody-by-this-name/results\n"))
    assert re.search(r"config\.yaml:2: outbox: ", line)


@pytest.mark.parametrize("key", ["outbox", "state_dir", "weights", "watch.inbox"])
def test_a_path_cannot_hold_a_nul(key: str, environment: Path) -> None:
    section, _, name = key.rpartition(".")
    text = f'{name}: "a\\0b"'
    (line,) = failure(write(environment, f"device: cpu\n{section}: {{{text}}}" if section else f"\n{text}\n"))
    assert line.endswith(f"config.yaml:2: {key}: a path cannot hold the character NUL")


def test_state_and_cache_are_in_the_folders_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is read when a Config is made, not when the module is imported."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    config = read_config(None)
    assert tmp_path / "elsewhere" in config.state_dir.parents
    assert tmp_path / "elsewhere" in config.cache_dir.parents
    assert "style-pipeline" in config.state_dir.parts
    assert "style-pipeline" in config.cache_dir.parts


def test_recipe_fields_are_kept_as_given_so_that_others_can_be_merged(environment: Path) -> None:
    path = write(environment, "recipe: {preset: draft, beta: 1e3, style_layers: [relu1_1]}\n")
    config = read_config(path)
    assert config.recipe == {"preset": "draft", "style_weight": 1000.0, "style_layers": ["relu1_1"]}
    assert merged_recipe(config.recipe, {"alpha": 2}).style_weight == 1000


def test_the_picture_to_start_from_is_found_beside_the_file(environment: Path) -> None:
    config = read_config(write(environment / "etc", "recipe: {init: start.png}\n"))
    assert config.recipe["init"] == str(environment / "etc/start.png")


@pytest.mark.parametrize("mode", sorted(INIT_MODES))
def test_init_modes_are_left_alone(mode: str, environment: Path) -> None:
    assert anchor_init({"init": mode, "size": 20}, environment) == {"init": mode, "size": 20}
    assert anchor_init({}, environment) == {}


def test_every_problem_is_named_with_its_line_and_key(environment: Path) -> None:
    path = write(
        environment,
        "outbx: here\ncache_max_mb: 0\n\nmax_attempts: often\nrecipe:\n  size: 3\n  styel_weight: 1\n"
        "checkpoint_s: .nan\nworkers: perhaps\n",
    )
    lines = failure(path)
    assert [line.removeprefix(f"{path}:").split(": ")[:2] for line in lines] == [
        ["1", "outbx"],
        ["2", "cache_max_mb"],
        ["4", "max_attempts"],
        ["6", "recipe.size"],
        ["7", "recipe.styel_weight"],
        ["8", "checkpoint_s"],
        ["9", "workers"],
    ]
    assert "did you mean 'outbox'?" in lines[0]
    assert "did you mean 'style_weight'?" in lines[4]
    for key in Config.model_fields:
        assert key in lines[0]


@pytest.mark.parametrize(
    "text",
    [
        "recipe: {alpha: 1, content_weight: 2}",
        "recipe: {preset: nice}",
        "recipe: {preset: [draft]}",
        "recipe: {style_layers: [[relu1_1]]}",
        "recipe: [size, 3]",
        "recipe: large",
        "recipe: {name: '{zzz}'}",
    ],
)
def test_a_wrong_recipe_is_named_with_its_line(text: str, environment: Path) -> None:
    (line,) = failure(write(environment, f"device: cpu\n{text}\n"))
    assert re.search(r"config\.yaml:2: recipe\b", line)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_failures", -1), ("max_attempts", 0), ("cache_max_mb", 0), ("checkpoint_s", 0), ("zzz", 1)],
)
def test_values_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({field: value})


@pytest.mark.parametrize("value", [1e308, 10**30, float("inf"), float("nan"), -1])
@pytest.mark.parametrize("model", [Config, WatchConfig])
def test_every_number_has_bounds(model: type[BaseModel], value: float) -> None:
    found = {
        name
        for name, field in model.model_json_schema()["properties"].items()
        if {"integer", "number"} & {branch.get("type") for branch in [field, *field.get("anyOf", [])]}
    }
    assert found >= ({"workers", "checkpoint_s"} if model is Config else {"settle_s", "min_free_mb"})
    for name in found:
        with pytest.raises(ValidationError):
            model.model_validate({name: value})


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().device = "cpu"  # type: ignore[misc]


# The watched folder


def test_without_a_watch_section_its_folders_lie_in_the_current_one(environment: Path) -> None:
    watch = read_config(None).watch
    assert watch.inbox == environment / "inbox"
    assert watch.archive_dir == environment / "archive"
    assert watch.quarantine_dir == environment / "quarantine"
    assert (watch.settle_s, watch.notify, watch.originals, watch.batch) == (None, "auto", "archive", "inbox")


def test_archive_and_quarantine_lie_beside_the_inbox_unless_they_are_named(environment: Path) -> None:
    text = "watch: {inbox: /studio/in/box, quarantine: ../aside}\n"
    watch = read_config(write(environment / "etc", text)).watch
    assert watch.inbox == Path("/studio/in/box")
    assert watch.archive_dir == Path("/studio/in/archive")
    assert watch.quarantine_dir == environment / "aside"


def test_paths_of_the_watch_section_start_at_the_file(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(environment / "me"))
    text = (
        "watch:\n  inbox: ../in\n  archive: kept\n  quarantine: ~/aside\n"
        "  routes: {cards: {recipe: {init: start.png, size: 64}}, plain: {recipe: {init: noise}}}\n"
    )
    watch = read_config(write(environment / "etc", text)).watch
    assert (watch.inbox, watch.archive_dir) == (environment / "in", environment / "etc/kept")
    assert watch.quarantine_dir == environment / "me/aside"
    assert watch.routes["cards"].recipe == {"init": str(environment / "etc/start.png"), "size": 64}
    assert watch.routes["plain"].recipe == {"init": "noise"}


def test_styles_are_names_or_blends(environment: Path) -> None:
    text = (
        "watch:\n  styles: [monet, {name: mix, blend: {monet: 0.7, scream: 3}}]\n"
        "  routes: {cards: {styles: [scream], batch: christmas}, plain: {}}\n"
    )
    watch = read_config(write(environment, text)).watch
    assert watch.styles == ["monet", Blend(name="mix", blend={"monet": 0.7, "scream": 3})]
    assert watch.routes == {"cards": Route(styles=["scream"], batch="christmas"), "plain": Route()}


def test_names_to_ignore_are_patterns_without_folders(environment: Path) -> None:
    assert read_config(write(environment, "ignore: ['*_small.*', rejected]\n")).ignore == (
        "*_small.*",
        "rejected",
    )
    assert read_config(write(environment, "ignore: '*.json'\n")).ignore == ("*.json",)
    (line,) = failure(write(environment, "ignore: [a, b/c]\n"))
    assert line.endswith("ignore: expected names without folders, found 'b/c'")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("Recycler", "a recycle bin"), ("x.tmp", "named as an unfinished"), ("small", "as `ignore` in")],
)
def test_a_route_whose_folder_is_ignored_is_refused(name: str, reason: str, environment: Path) -> None:
    (line,) = failure(write(environment, f"ignore: SM*\nwatch: {{routes: {{{name}: {{}}}}}}\n"))
    assert f"watch.routes.{name}: a folder of this name is left alone ({reason}" in line


def test_a_single_style_needs_no_list(environment: Path) -> None:
    text = "watch:\n  styles: monet\n  notify: off\n"
    text += "  routes: {cards: {styles: {name: mix, blend: {monet: 1}}}}\n"
    watch = read_config(write(environment, text)).watch
    assert (watch.styles, watch.notify) == (["monet"], "off")
    assert watch.routes["cards"].styles == [Blend(name="mix", blend={"monet": 1})]


@pytest.mark.parametrize("name", ["styles", "", ".hidden", "..", ".", "a/b", "/a"])
def test_a_route_is_one_folder_of_the_inbox_and_not_styles(name: str, environment: Path) -> None:
    (line,) = failure(write(environment, f"device: cpu\nwatch:\n  routes:\n    {name!r}: {{}}\n"))
    assert re.search(r"config\.yaml:[34]: watch\.routes", line)
    assert f"'{name}' cannot name a route" in line


def test_problems_of_the_watch_section_are_named_with_line_key_and_hint(environment: Path) -> None:
    path = write(
        environment,
        "watch:\n  inbx: here\n  settle_s: 0\n  notify: sometimes\n  originals: burn\n"
        "  styles: []\n  worker_max_jobs: 0\n  min_free_mb: -1\n  rescan_s: .inf\n"
        "  routes:\n    cards:\n      stiles: [a]\n      recipe:\n        styel_weight: 3\n",
    )
    lines = failure(path)
    assert [line.removeprefix(f"{path}:").split(": ")[:2] for line in lines] == [
        ["2", "watch.inbx"],
        ["3", "watch.settle_s"],
        ["4", "watch.notify"],
        ["5", "watch.originals"],
        ["6", "watch.styles"],
        ["7", "watch.worker_max_jobs"],
        ["8", "watch.min_free_mb"],
        ["9", "watch.rescan_s"],
        ["12", "watch.routes.cards.stiles"],
        ["14", "watch.routes.cards.recipe.styel_weight"],
    ]
    assert "did you mean 'inbox'?" in lines[0]
    assert "did you mean 'styles'?" in lines[-2]
    for key in WatchConfig.model_fields:
        assert key in lines[0]
    assert "polling" in lines[2]
    assert "leave" in lines[3]


def test_a_route_may_need_a_field_of_the_recipe_around_it(environment: Path) -> None:
    route = "watch: {routes: {cards: {recipe: {match_by: histogram}}}}\n"
    config = read_config(write(environment, f"recipe: {{color: match}}\n{route}"))
    assert config.watch.routes["cards"].recipe == {"match_by": "histogram"}


def test_the_recipe_makes_sense_by_itself(environment: Path) -> None:
    (line,) = failure(write(environment, "device: cpu\nrecipe: {match_by: histogram}\n"))
    assert "config.yaml:2: recipe: match_by: histogram has no effect without color: match" in line


@pytest.mark.parametrize("blend", ["{name: x}", "{name: '', blend: {a: 1}}", "{name: x, blend: {a: 0}}", "3"])
def test_a_wrong_blend_is_named_with_its_line(blend: str, environment: Path) -> None:
    lines = failure(write(environment, f"watch:\n  styles:\n    - a\n    - {blend}\n"))
    assert all(re.search(r"config\.yaml:4: watch\.styles\[1\]", line) for line in lines)


def test_the_config_of_the_repository_has_every_key_of_the_watch_section() -> None:
    text = THE_CONFIG.read_text(encoding="utf-8")
    missing = [key for key in WatchConfig.model_fields if not re.search(rf"\b{key}:", text)]
    assert missing == []


def test_the_old_name_of_micro_batch_is_accepted(environment: Path) -> None:
    (environment / "config.yaml").write_text("together: 4\n")
    assert read_config(environment / "config.yaml").micro_batch == 4
