from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.spec.config import Config
from pipeline.watch.claims import Claim
from pipeline.watch.inbox import Identity, Seen
from pipeline.watch.library import style_paths
from pipeline.watch.routes import Plan, Router, Waiting, manifest_jobs

LIBRARY = {name: Path(f"/inbox/styles/{name}.png") for name in ("monet", "scream")}


def make_router(
    watch: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    folder: Path = Path("/"),
) -> Router:
    config = Config.model_validate({"watch": watch or {}, "recipe": recipe or {}})
    return Router(config.resolved(folder), flags or {})


def plan(relative: str, library: Mapping[str, Path] = LIBRARY, **watch: Any) -> Plan:
    found = make_router(watch).plan(Path(relative), library)
    assert isinstance(found, Plan), found
    return found


def claim_of(relative: str) -> Claim:
    return Claim("ID", Path(relative), Path("/inbox/.style-pipeline/claimed/ID", relative))


def names(relative: str, library: Mapping[str, Path] = LIBRARY, **watch: Any) -> list[str]:
    """Where the results of a file go, below the outbox."""
    jobs = plan(relative, library, **watch).jobs(claim_of(relative), Path("/inbox"))
    return [f"{job.batch}/{job.name}" for job in jobs]


# Where things go


@pytest.mark.parametrize(
    ("relative", "results"),
    [
        ("a.png", ["inbox/a--monet", "inbox/a--scream"]),
        ("scream/a.png", ["inbox/scream/a--scream"]),
        ("scream/trip/day 1/a.png", ["inbox/scream/trip/day 1/a--scream"]),
        ("trip/a.png", ["inbox/trip/a--monet", "inbox/trip/a--scream"]),
        ("trip/scream/a.png", ["inbox/trip/scream/a--monet", "inbox/trip/scream/a--scream"]),
        ("scream.png", ["inbox/scream--monet", "inbox/scream--scream"]),
        ("monet", ["inbox/monet--monet", "inbox/monet--scream"]),
    ],
)
def test_folders_choose_styles_and_are_mirrored(relative: str, results: list[str]) -> None:
    assert names(relative) == results


def test_jobs_know_their_drop_and_where_it_was_dropped() -> None:
    (job,) = plan("scream/a.png").jobs(claim_of("scream/a.png"), Path("/inbox"))
    assert job.content == Path("/inbox/.style-pipeline/claimed/ID/scream/a.png")
    assert (job.drop, job.origin) == ("ID", Path("/inbox/scream/a.png"))
    assert job.style.images == ((LIBRARY["scream"], 1.0),)


def test_the_styles_of_the_root_may_be_named() -> None:
    assert names("a.png", styles=["scream"]) == ["inbox/a--scream"]
    assert names("trip/a.png", styles=["scream"]) == ["inbox/trip/a--scream"]
    assert names("monet/a.png", styles=["scream"]) == ["inbox/monet/a--monet"]


def test_the_batch_may_be_named() -> None:
    assert names("scream/a.png", batch="studio") == ["studio/scream/a--scream"]


ROUTES = {
    "cards": {"styles": ["monet"], "recipe": {"preset": "draft", "size": 64}, "batch": "christmas"},
    "plain": {},
    "monet": {"styles": ["scream"]},
}


@pytest.mark.parametrize(
    ("relative", "results"),
    [
        ("cards/a.png", ["christmas/a--monet"]),
        ("cards/b/c/a.png", ["christmas/b/c/a--monet"]),
        ("cards/scream/a.png", ["christmas/scream/a--monet"]),
        ("plain/a.png", ["plain/a--monet", "plain/a--scream"]),
        ("monet/a.png", ["monet/a--scream"]),  # a route wins over a style of its name
        ("x/cards/a.png", ["inbox/x/cards/a--monet", "inbox/x/cards/a--scream"]),
        ("cards", ["inbox/cards--monet", "inbox/cards--scream"]),  # a file, not the folder
    ],
)
def test_routes(relative: str, results: list[str]) -> None:
    assert names(relative, routes=ROUTES) == results


def test_a_route_without_styles_has_those_of_the_root() -> None:
    assert names("plain/a.png", routes=ROUTES, styles=["scream"]) == ["plain/a--scream"]


def test_flags_lie_over_routes_and_routes_over_the_configuration() -> None:
    router = make_router({"routes": ROUTES}, {"size": 100, "seed": 7, "history": 3}, {"seed": 9})
    for relative, size, preset in (("cards/a.png", 64, "draft"), ("a.png", 100, "default")):
        found = router.plan(Path(relative), LIBRARY)
        assert isinstance(found, Plan)
        recipe = found.recipe
        assert (recipe.size, recipe.seed, recipe.history, recipe.preset) == (size, 9, 3, preset)


def test_a_recipe_names_the_results() -> None:
    routes = {"cards": {"recipe": {"name": "{style}/{content}-{size}", "size": 64}}}
    assert names("cards/sub/a.png", routes=routes)[0] == "cards/sub/monet/a-64"


def test_the_picture_to_start_from_is_found_beside_the_configuration() -> None:
    router = make_router({"routes": {"r": {"recipe": {"init": "start.png"}}}}, folder=Path("/etc/studio"))
    found = router.plan(Path("r/a.png"), LIBRARY)
    assert isinstance(found, Plan)
    assert found.recipe.init == "/etc/studio/start.png"


# Styles


BLEND = {"name": "mix", "blend": {"monet": 0.7, "scream": 0.3}}


def test_a_blend_is_made_of_the_library() -> None:
    (style,) = plan("a.png", styles=[BLEND]).styles
    assert style.name == "mix"
    assert style.images == ((LIBRARY["monet"], 0.7), (LIBRARY["scream"], 0.3))
    assert names("a.png", styles=["scream", BLEND]) == ["inbox/a--scream", "inbox/a--mix"]


@pytest.mark.parametrize(
    ("styles", "missing"),
    [
        (["monet", "munch"], ["munch"]),
        (["munch", "klee"], ["klee", "munch"]),
        ([{"name": "mix", "blend": {"monet": 1, "munch": 1}}], ["munch"]),
    ],
)
def test_a_picture_waits_for_its_styles(styles: list[Any], missing: list[str]) -> None:
    waiting = make_router({"styles": styles}).plan(Path("a.png"), LIBRARY)
    assert isinstance(waiting, Waiting)
    listed = ", ".join(f"'{name}'" for name in missing)
    said = "style {listed} is" if len(missing) == 1 else "styles {listed} are"
    assert waiting.reason == f"the {said.format(listed=listed)} not in styles/, or still being copied"


def test_a_route_waits_for_its_own_styles_only() -> None:
    router = make_router({"styles": ["munch"], "routes": ROUTES})
    assert isinstance(router.plan(Path("a.png"), LIBRARY), Waiting)
    assert isinstance(router.plan(Path("cards/a.png"), LIBRARY), Plan)


def test_without_any_style_a_picture_waits() -> None:
    for relative in ("a.png", "munch/a.png", "plain/a.png"):
        waiting = make_router({"routes": ROUTES}).plan(Path(relative), {})
        assert isinstance(waiting, Waiting)
        assert "put a picture into styles/" in waiting.reason


def test_a_style_that_is_still_being_copied_is_waited_for() -> None:
    """Else its folder would be a folder like any other, and the root's pictures be done without it."""
    router = make_router()
    for relative in ("a.png", "munch/a.png"):
        waiting = router.plan(Path(relative), {**LIBRARY, "munch": None})
        assert isinstance(waiting, Waiting)
        assert "'munch'" in waiting.reason
    assert isinstance(router.plan(Path("monet/a.png"), {**LIBRARY, "munch": None}), Plan)


DECOMPOSED, COMPOSED = "cafe\u0301", "caf\xe9"


@pytest.mark.parametrize(("on_disk", "typed"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_a_name_may_be_spelt_in_two_ways(on_disk: str, typed: str) -> None:
    seen = [Seen(Path(f"styles/{on_disk}.png"), Identity(1, 2, 3, 4, 5))]
    library = style_paths(seen, seen, Path("/inbox"))
    for relative in ("a.png", f"{typed}/a.png", f"r{on_disk}/a.png"):
        found = make_router({"styles": [typed], "routes": {f"r{typed}": {}}}).plan(Path(relative), library)
        assert isinstance(found, Plan)
        assert found.styles[0].images == ((Path(f"/inbox/styles/{on_disk}.png"), 1.0),)
        assert found.batch == (f"r{COMPOSED}" if relative.startswith("r") else "inbox")


# Hostile names


@pytest.mark.parametrize(
    ("relative", "result"),
    [
        ("logs/a.png", "inbox/logs_/a--monet"),
        ("LOGS/a.png", "inbox/LOGS_/a--monet"),
        ("trip/logs/a.png", "inbox/trip/logs/a--monet"),  # only the first is the batch's own
        ("{content}/a.png", "inbox/{content}/a--monet"),
        ("x/{style!r:>99}.png", "inbox/x/{style!r__99}--monet"),
        ("C:/a:b.png", "inbox/C_/a_b--monet"),
        ("a\nb/c\x7f\udce9.png", "inbox/a_b/c__--monet"),
        ("x/...png", "inbox/x/--monet"),
        ("..x/a.png", "inbox/x/a--monet"),
        (" /a.png", None),
        ("-rf/--.png", "inbox/-rf/----monet"),
        ("ü" * 127 + "/" + "字" * 83 + ".png", None),
    ],
)
def test_names_stay_in_their_folder_whatever_they_are(relative: str, result: str | None) -> None:
    (found,) = names(relative, {"monet": Path("/m.png")})
    assert result is None or found == result
    assert Path("/outbox", found).resolve().is_relative_to("/outbox/inbox")
    assert all(part and not part.startswith(".") for part in found.split("/"))
    assert all(len(part.encode()) <= 255 for part in found.split("/"))


@pytest.mark.parametrize("relative", ["../a.png", "../../etc/a.png", "x/../../a.png", "./a.png"])
def test_a_path_never_leads_up(relative: str) -> None:
    (found,) = names(relative, {"monet": Path("/m.png")})
    assert ".." not in found.split("/")
    assert Path("/outbox", found).resolve().is_relative_to("/outbox/inbox")


@pytest.mark.parametrize("batch", ["..", "../x", "a/b", "/etc", ".lock", "a:b", "_", "  ", "{content}"])
def test_a_batch_is_one_folder_in_the_outbox(batch: str) -> None:
    watches: list[dict[str, Any]] = [{"batch": batch}, {"routes": {"r": {"batch": batch}}}]
    for watch, relative in zip(watches, ("a.png", "r/a.png"), strict=True):
        name = plan(relative, **watch).batch
        assert name
        assert "/" not in name
        assert not name.startswith(".")
        assert Path("/outbox", name).resolve().parent == Path("/outbox")


def test_a_style_of_any_name_stays_in_its_folder() -> None:
    (found,) = names("a.png", {"..": Path("/s.png")}, styles=[{"name": "../../x", "blend": {"..": 1}}])
    assert Path("/outbox", found).resolve().is_relative_to("/outbox/inbox")


# What is refused when the configuration is read


@pytest.mark.parametrize(
    ("watch", "recipe", "flags", "words"),
    [
        # Each is right by itself; together they are not.
        ({}, {"encoder": "vgg19-slim"}, {"content_layers": "conv5_2"}, ["recipe:", "conv5_2"]),
        (
            {"routes": {"cards": {"recipe": {"content_layers": "conv5_2"}}}},
            {"encoder": "vgg19-slim"},
            {},
            ["watch.routes.cards.recipe:", "conv5_2"],
        ),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(
    watch: Any, recipe: Any, flags: Any, words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        make_router(watch, recipe, flags)
    assert [word for word in words if word not in caught.value.message] == []


# Manifests


@pytest.mark.parametrize(
    ("name", "yes"),
    [
        ("night.yaml", True),
        ("sub/NIGHT.YML", True),
        ("night.yaml.png", False),
        ("yaml", False),
        ("a.png", False),
    ],
)
def test_a_manifest_is_known_by_its_suffix(name: str, yes: bool) -> None:
    assert make_router().is_manifest(Path(name)) == yes


@pytest.fixture
def dropped(environment: Path) -> Any:
    """Return a function that drops a manifest, claimed already, and reads it."""
    pictures = ("photos/a.jpg", "inbox/styles/s.png", "inbox/drop.jpg", "inbox/sub/b.jpg", "looks/t.png")
    for name in pictures:
        path = environment / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())

    def read(text: str, relative: str = "night.yaml", **more: Any) -> Any:
        path = environment / "inbox/.style-pipeline/claimed/ID" / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        claim = Claim("ID", Path(relative), path)
        return make_router(folder=environment, **more).read_manifest(path, Path(relative)), claim

    return read


GOOD = "contents: [../photos/a.jpg]\nstyles: [styles/s.png, ../looks/t.png]\n"


def test_a_manifest_is_read_where_it_was_dropped(dropped: Any, environment: Path) -> None:
    batch, claim = dropped(GOOD)
    jobs = list(manifest_jobs(batch, claim))
    assert [(job.batch, job.name, job.drop) for job in jobs] == [
        ("night", "a--s", "ID"),
        ("night", "a--t", "ID"),
    ]
    assert jobs[0].content == environment / "photos/a.jpg"
    assert jobs[0].style.images == ((environment / "inbox/styles/s.png", 1.0),)
    assert [replace(job, drop="") for job in jobs] == list(batch.jobs())


def test_a_manifest_in_a_folder_starts_there(dropped: Any, environment: Path) -> None:
    text = "contents: [../../photos/a.jpg]\nstyles: [../styles/s.png]\nrecipe: {init: ../../looks/t.png}\n"
    batch, _ = dropped(text, "sub/night.yaml")
    (job,) = batch.jobs()
    assert job.content == environment / "photos/a.jpg"
    assert job.recipe.init == str(environment / "looks/t.png")


def test_flags_and_the_configuration_hold_for_manifests_too(dropped: Any) -> None:
    batch, _ = dropped(
        GOOD + "recipe: {size: 40, seed: 4}\n", recipe={"size": 30, "history": 3}, flags={"seed": 5}
    )
    recipe = next(batch.jobs()).recipe
    assert (recipe.size, recipe.seed, recipe.history) == (40, 5, 3)


@pytest.mark.parametrize(
    "text",
    [
        "contents: [drop.jpg]\nstyles: [styles/s.png]\n",
        "contents: ['../inbox/sub/*.jpg']\nstyles: [styles/s.png]\n",
        "contents: [../photos/a.jpg]\nstyles: [drop.jpg]\n",
        "contents: [../photos/a.jpg]\nstyles: [{name: x, blend: {styles/s.png: 1, sub/b.jpg: 1}}]\n",
        "pairs: [{content: sub/b.jpg, style: styles/s.png}]\n",
        "pairs: [{content: ../photos/a.jpg, style: drop.jpg}]\n",
        "pairs: [{content: ../photos/a.jpg, style: styles/s.png, recipe: {init: drop.jpg}}]\n",
    ],
)
def test_pictures_in_the_inbox_are_drops_of_their_own(text: str, dropped: Any, environment: Path) -> None:
    with pytest.raises(UsageError, match="lies in the inbox") as caught:
        dropped(text)
    assert caught.value.message.startswith(str(environment / "inbox/night.yaml"))
    assert "elsewhere" in caught.value.next_step


def test_mistakes_name_the_place_where_a_manifest_was_dropped(dropped: Any, environment: Path) -> None:
    with pytest.raises(UsageError) as caught:
        dropped("contents: [missing.jpg]\nstyles: [styles/s.png]\n", "sub/night.yaml")
    assert caught.value.message.startswith(f"{environment}/inbox/sub/night.yaml:1: contents[0]: ")
    assert "claimed" not in caught.value.message
