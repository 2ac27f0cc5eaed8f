from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from batch_records import add_record, draw
from page_client import World
from PIL import Image

from pipeline.errors import LockedError
from pipeline.page.thumbnails import THUMBS
from pipeline.storage.live import LiveFolder

TRAVERSALS = [
    "..", "../..", "..%2f..%2fsecret", "%2e%2e%2fsecret", "..\\..\\secret", "%2e%2e%5csecret", "/etc/passwd",
    "%2fetc%2fpasswd", "....//secret", "night/me--monet", "night%2Fme--monet", "me--monet.png", "%00",
    "x%00.png", "\udcff", "*", "~", "C:%5csecret", "file:%2f%2f%2fetc%2fpasswd", "..;/secret",
    "%252e%252e%252fsecret",
]  # fmt: skip


@pytest.fixture
def card(world: World) -> dict[str, Any]:
    """The only finished picture of the page."""
    photo, style = (
        draw(world.folder / "photos/me.png", "navy"),
        draw(world.folder / "styles/monet.png", "gold"),
    )
    add_record(world.outbox / "night", photo, style)
    (one,) = world.state()["done"]
    draw(world.folder / "secret.png")
    (world.folder / "secret").write_text("secret")
    found: dict[str, Any] = one
    return found


def image_of(world: World, target: str, path: Path) -> Image.Image:
    answer = world.browser.get(target)
    assert answer.status == 200, answer.body
    path.write_bytes(answer.body)
    with Image.open(path) as image:
        image.load()
        return image


def test_a_finished_picture_is_shown_in_all_its_parts(
    world: World, card: dict[str, Any], tmp_path: Path
) -> None:
    for target in (card["image"], card["large"]):
        assert world.browser.get(target).body == (world.outbox / "night/me--monet.png").read_bytes()
    for target in (card["thumb"], card["content"], *card["styles"]):
        assert image_of(world, target, tmp_path / "x").format == "JPEG"
    assert len(card["styles"]) == 1
    thumbs = list((world.outbox / "night" / THUMBS).iterdir())
    assert len(thumbs) == 3


def test_pictures_are_kept_by_browsers_and_can_do_nothing(world: World, card: dict[str, Any]) -> None:
    headers = world.browser.get(card["image"]).headers
    assert headers["content-type"] == "image/png"
    assert "immutable" in headers["cache-control"]
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["content-disposition"] == "inline; filename*=utf-8''me--monet.png"
    download = world.browser.get(f"{card['image']}&download=1").headers
    assert download["content-disposition"].startswith("attachment")


def test_the_type_of_a_file_is_that_of_its_name_whatever_is_in_it(world: World, card: dict[str, Any]) -> None:
    (world.outbox / "night/me--monet.png").write_text("<script>alert(1)</script>")
    headers = world.browser.get(card["image"]).headers
    assert headers["content-type"] == "image/png"
    assert headers["x-content-type-options"] == "nosniff"


def test_a_file_of_another_kind_is_not_shown(world: World, card: dict[str, Any]) -> None:
    record = world.outbox / "night/logs/me--monet.json"
    (world.outbox / "night/page.html").write_text("<script>alert(1)</script>")
    record.write_text(json.dumps({**json.loads(record.read_text()), "image": "page.html"}))
    (changed,) = world.state()["done"]
    assert world.browser.get(changed["image"]).status == 404


def test_odd_names_are_told_to_a_browser_in_ascii(world: World, card: dict[str, Any]) -> None:
    name = 'x"\r\nset-cookie: a=b; é\u202egnp'
    record = json.loads((world.outbox / "night/logs/me--monet.json").read_text())
    draw(world.outbox / "night" / f"{name}.png")
    (world.outbox / "night/logs/odd.json").write_text(json.dumps({**record, "image": f"{name}.png"}))
    one = next(one for one in world.state()["done"] if one["name"] == "odd")
    headers = world.browser.get(one["image"]).headers
    assert headers["content-disposition"] == f"inline; filename*=utf-8''{quote(name, safe='')}.png"


def test_a_link_that_leads_out_of_the_outbox_is_not_followed(world: World, card: dict[str, Any]) -> None:
    image = world.outbox / "night/me--monet.png"
    image.unlink()
    image.symlink_to(world.folder / "secret.png")
    for part in ("image", "large"):
        assert world.browser.get(card[part]).status == 404


def test_a_picture_without_a_thumbnail_is_shown_itself(
    world: World, card: dict[str, Any], monkeypatch
) -> None:
    async def none(*_: object) -> None:
        return None

    monkeypatch.setattr(world.site.previews, "get", none)
    assert world.browser.get(card["thumb"]).headers["content-type"] == "image/png"
    assert world.browser.get(card["content"]).status == 404


def test_a_content_that_was_changed_or_is_gone_is_not_shown(world: World, card: dict[str, Any]) -> None:
    draw(world.folder / "photos/me.png", "red")
    assert world.browser.get(card["content"]).status == 404
    (world.folder / "styles/monet.png").unlink()
    assert world.browser.get(card["styles"][0]).status == 404


def test_a_record_cannot_make_the_page_show_another_file(world: World, card: dict[str, Any]) -> None:
    record = world.outbox / "night/logs/me--monet.json"
    secret = world.folder / "secret"
    facts = json.loads(record.read_text())
    for sha256 in ("", facts["content"]["sha256"]):
        facts["content"] = {"path": str(secret), "sha256": sha256}
        facts["style"]["images"] = [{"path": str(secret), "sha256": sha256}]
        record.write_text(json.dumps(facts))
        (changed,) = world.state()["done"]
        for target in (changed["content"], *changed["styles"]):
            assert world.browser.get(target).status == 404


def test_all_about_a_picture(world: World, card: dict[str, Any]) -> None:
    details = world.browser.get(f"/api/pictures/{card['id']}").json
    assert details["thumb"] == card["thumb"]
    assert details["recipe"].startswith("recipe:")
    assert details["styles"] == [{"name": "monet.png", "share": 1.0, "thumb": card["styles"][0]}]
    assert set(details["curves"]) == {"steps", "levels", "lines", "ends"}
    assert str(world.folder) not in json.dumps({**details, "recipe": ""})


@pytest.mark.parametrize("id", TRAVERSALS)
def test_an_id_is_never_a_path(world: World, card: dict[str, Any], id: str) -> None:
    draw(world.inbox / "styles/monet.png")
    escaped = id.replace("\udcff", "%FF").replace("\\", "%5C")
    pictures, running = f"/api/pictures/{escaped}", f"/api/running/{escaped}"
    for target in (
        pictures, f"{pictures}/image", f"{pictures}/thumb", f"{pictures}/styles/0", f"{running}/picture",
        f"{running}/content", f"/api/styles/{escaped}/thumb", f"/static/{escaped}", f"/static/../{escaped}",
        f"/{escaped}",
    ):  # fmt: skip
        answer = world.browser.get(target)
        assert answer.status == 404, target
        assert b"secret" not in answer.body
    for target in (
        f"/api/waiting/{escaped}/cancel",
        f"/api/waiting/{escaped}/first",
        f"/api/running/{escaped}/cancel",
    ):
        assert world.browser.post(target).status == 404, target


@pytest.mark.parametrize("number", ["1", "-1", "99999999999999999999", "x", "0/..", "%2e%2e", "1e3"])
def test_only_the_styles_of_a_picture_are_shown(world: World, card: dict[str, Any], number: str) -> None:
    assert world.browser.get(f"/api/pictures/{card['id']}/styles/{number}").status == 404


@pytest.mark.parametrize(
    "name", ["sheet.html", "page.html", "app.py", "__init__.py", "../version.py", "", "page"]
)
def test_only_the_pages_own_styles_and_scripts_are_static(world: World, name: str) -> None:
    expected = 200 if name == "page.html" else 404
    assert world.stranger.get(f"/static/{name}").status == expected


def test_the_pages_own_files_are_checked_again_but_not_sent_again(world: World) -> None:
    for target, kind in (
        ("/", "text/html"),
        ("/static/page.js", "text/javascript"),
        ("/static/page.css", "text/css"),
    ):
        answer = world.stranger.get(target)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "no-cache"
        again = world.stranger.get(target, **{"if-none-match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("mark", ["x", "1-2-3", "1", "../..", "1" * 5000, "\u00b2-x"])
def test_a_wrong_mark_is_refused_or_finds_nothing(world: World, card: dict[str, Any], mark: str) -> None:
    answer = world.browser.get(f"/api/pictures?before={quote(mark)}")
    assert answer.status == 400 or answer.json["pictures"] == []


def test_a_style_is_shown_as_soon_as_it_can_be_read(world: World, tmp_path: Path) -> None:
    (world.inbox / "styles/monet.png").write_bytes(b"\x89PNG half a picture")
    (style,) = world.state()["styles"]
    assert world.browser.get(style["thumb"]).status == 404
    draw(world.inbox / "styles/monet.png", "gold")
    (style,) = world.state()["styles"]
    assert image_of(world, style["thumb"], tmp_path / "x").size == (60, 40)


def test_the_inputs_of_a_running_job_are_shown(world: World, tmp_path: Path) -> None:
    from test_page_state import JOB, replace

    photo, style = draw(world.folder / "me.png", "navy"), draw(world.folder / "monet.png", "gold")
    folder = LiveFolder(world.folder / "state")
    folder.write(replace(JOB, content=photo, styles=((style, 1.0),)), b"jpeg")
    (job,) = world.state()["running"]
    for target in (job["content"], job["style"]):
        assert image_of(world, target, tmp_path / "x").size == (60, 40)
    folder.write(replace(JOB, styles=()), b"jpeg")
    (job,) = world.state()["running"]
    assert job["style"] == ""
    assert world.browser.get(f"/api/running/{job['id']}/style").status == 404
    folder.close()


# Commands


def test_pause_and_resume(world: World) -> None:
    control = world.site.state.watched.control
    for path, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        assert world.browser.post(f"/api/daemon/{path}").status == 204
        assert (control.paused_since() is not None) == paused


@pytest.mark.parametrize(("path", "kind"), [("cancel", "cancel"), ("first", "first")])
def test_what_waits_can_be_cancelled_and_put_first(world: World, path: str, kind: str) -> None:
    draw(world.inbox / "monet/a.png")
    world.status["waits"] = [{"path": "monet/a.png", "reason": "its turn"}]
    (waiting,) = world.state()["waiting"]
    assert world.browser.post(f"/api/waiting/{waiting['id']}/{path}").status == 204
    (request,) = world.site.state.watched.control.requests()
    assert (request.kind, request.path) == (kind, "monet/a.png")


def test_what_is_gone_cannot_be_cancelled(world: World) -> None:
    world.status["waits"] = [{"path": "gone.png", "reason": "its turn"}]
    (waiting,) = world.state()["waiting"]
    answer = world.browser.post(f"/api/waiting/{waiting['id']}/cancel")
    assert answer.status == 409
    assert "gone.png" in answer.json["error"]
    assert answer.json["nextStep"]


def test_the_running_picture_of_a_drop_can_be_cancelled(world: World) -> None:
    from test_page_state import JOB, replace, running

    claimed = draw(world.inbox / ".style-pipeline/claimed/drop-1/me.png")
    world.status |= {"alive": True, "running": running(path="me.png", id="drop-1")}
    (job,) = world.state()["running"]
    assert world.browser.post(f"/api/running/{job['id']}/cancel").status == 204
    control = world.site.state.watched.control
    (request,) = control.requests()
    assert (request.kind, request.id) == ("cancel", "drop-1")
    control.remove(request)
    folder = LiveFolder(world.folder / "state")
    folder.write(replace(JOB, drop="drop-1", content=claimed), b"jpeg")
    assert world.browser.post(f"/api/running/{job['id']}/cancel").status == 204
    assert len(control.requests()) == 1
    world.status["running"] = None
    folder.write(replace(JOB, drop=""), b"jpeg")
    (job,) = world.state()["running"]
    assert not job["canCancel"]
    assert world.browser.post(f"/api/running/{job['id']}/cancel").status == 404
    folder.close()


def test_retry(world: World) -> None:
    assert world.browser.post("/api/failed/d1/retry").status == 204
    assert world.retried == ["d1"]
    world.status["quarantined"] = [
        {"id": id, "path": f"{id}.png", "error": "broken"} for id in ("a", "b", "c")
    ]
    world.stays = frozenset("b")
    answer = world.browser.post("/api/failed/retry").json
    assert answer == {"retried": 2, "errors": [{"error": "b.png: exists already.", "nextStep": "Move it."}]}
    assert world.retried == ["d1", "a", "c"]
    answer = world.browser.post("/api/failed/b/retry")
    assert (answer.status, answer.json["error"]) == (409, "b.png: exists already.")


@pytest.mark.parametrize(
    ("error", "status"),
    [(LockedError("busy", "Wait."), 409), (OSError("odd"), 500), (ValueError("odd"), 500)],
)
def test_every_error_is_an_answer(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(world.site.state, "read", fail)
    answer = world.browser.get("/api/state")
    assert answer.status == status
    assert set(answer.json) == {"error", "nextStep"}
    assert (type(error).__name__ in caplog.text) == (status == 500)
    assert "odd" not in answer.json["error"]
