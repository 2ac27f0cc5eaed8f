from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes import picture_bytes
from page_client import Browser, World

from pipeline.errors import DiskError
from pipeline.page.answers import Refusal
from pipeline.page.uploads import PREFIX
from pipeline.storage.paths import HIDDEN
from pipeline.watch.inbox import scan_inbox

PHOTO = picture_bytes("photo")


def style_of(world: World, name: str = "monet.png") -> str:
    (world.inbox / "styles" / name).write_bytes(picture_bytes(name))
    return next(one["id"] for one in world.state()["styles"] if one["name"] == Path(name).stem)


def test_a_photo_goes_to_every_style(world: World) -> None:
    answer = world.browser.put("/api/photos?name=me.png", PHOTO)
    assert answer.status == 201
    assert (answer.json["name"], answer.json["folder"]) == ("me.png", "")
    assert (world.inbox / "me.png").read_bytes() == PHOTO


def test_a_photo_goes_to_one_style(world: World) -> None:
    answer = world.browser.put(f"/api/photos?name=me.png&style={style_of(world)}", PHOTO)
    assert (answer.status, answer.json["folder"]) == (201, "monet")
    assert (world.inbox / "monet/me.png").read_bytes() == PHOTO


def test_a_style_goes_into_the_library(world: World) -> None:
    answer = world.browser.put("/api/styles?name=monet.jpg", PHOTO)
    assert (answer.status, answer.json["name"], answer.json["folder"]) == (201, "monet.jpg", "styles")
    assert (world.inbox / "styles/monet.jpg").read_bytes() == PHOTO
    assert [(style["name"], style["id"]) for style in world.state()["styles"]] == [
        ("monet", answer.json["id"])
    ]


def test_a_name_that_is_taken_gets_a_number(world: World) -> None:
    names = [world.browser.put("/api/photos?name=me.png", PHOTO + bytes([n])).json["name"] for n in range(3)]
    assert names == ["me.png", "me-2.png", "me-3.png"]
    assert world.in_inbox() == sorted(names)
    assert (world.inbox / "me.png").read_bytes() == PHOTO + b"\0"


def test_a_style_gets_a_number_where_its_name_is_taken_with_another_suffix(world: World) -> None:
    style_of(world, "monet.png")
    assert world.browser.put("/api/styles?name=monet.jpg", PHOTO).json["name"] == "monet-2.jpg"


@pytest.mark.parametrize(
    ("name", "on_disk"),
    [
        ("me%0Athere.png", "me_there.png"),
        ("%3Cimg%20onerror%3Dx%3E.png", "_img onerror=x_.png"),
        ("a%E2%80%AEgnp.png", "a_gnp.png"),  # right to left
        ("%20.hidden.png", "hidden.png"),
        (".png.png", "png.png"),
        ("..png.png", "png.png"),
        ("%C3%A9t%C3%A9.JPG", "été.JPG"),
        ("e%CC%81.png", "é.png"),
        ("x" * 400 + ".png", "x" * 200 + ".png"),
        ("CON.png", "CON.png"),
        ("a:b*c.png", "a_b_c.png"),
        ("%ED%A0%80.png", "���.png"),
    ],
)
def test_odd_names_become_names_that_any_system_accepts(world: World, name: str, on_disk: str) -> None:
    answer = world.browser.put(f"/api/photos?name={name}", PHOTO)
    assert answer.status == 201, answer.body
    assert world.in_inbox() == [on_disk]


NO_NAMES = [
    "",
    "..%2Fme.png",
    "%2Fetc%2Fme.png",
    "..%5Cme.png",
    "styles%2Fme.png",
    "me%00.png",
    "..",
    ".",
    "%2E%2E",
    f"{HIDDEN}%2Flock.png",
]


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("target", ["/api/photos", "/api/styles"])
def test_a_name_cannot_leave_the_inbox(world: World, target: str, name: str) -> None:
    answer = world.browser.put(f"{target}?name={name}", PHOTO)
    assert answer.status in {400, 415}
    assert world.in_inbox() == []
    assert sorted(path.name for path in world.folder.iterdir()) == ["inbox", "outbox", "state"]


@pytest.mark.parametrize(
    ("name", "status", "why"),
    [
        ("night.yaml", 415, "picture"),  # a manifest could name any file of this machine
        ("me", 415, "picture"),
        ("me.png.exe", 415, "picture"),
        ("me.svg", 415, "picture"),
        ("me.html", 415, "picture"),
        ("me.cr2", 415, "raw data"),
        ("me.xmp", 415, "sidecar"),
        ("me.mov", 415, "video"),
        ("~me.png", 422, "unfinished"),
        ("me_small.png", 422, "ignore"),
        (f"{PREFIX}me.png.part", 415, "picture"),
    ],
)
def test_what_the_inbox_would_leave_alone_is_refused(world: World, name: str, status: int, why: str) -> None:
    answer = world.browser.put(f"/api/photos?name={name}", PHOTO)
    assert answer.status == status
    assert why in answer.json["error"]
    assert world.in_inbox() == []


@pytest.mark.parametrize("id", ["x", "..%2Fmonet", "monet", "..", "0" * 24])
def test_a_style_is_known_by_its_id_only(world: World, id: str) -> None:
    style_of(world)
    assert world.browser.put(f"/api/photos?name=me.png&style={id}", PHOTO).status == 404
    assert world.in_inbox() == ["styles/monet.png"]


def test_nothing_is_dropped_on_a_style_whose_folder_would_be_left_alone(world: World) -> None:
    for name in ("styles.png", "a.part.png"):
        id = style_of(world, name)
        card = next(one for one in world.state()["styles"] if one["id"] == id)
        assert not card["canDrop"]
        answer = world.browser.put(f"/api/photos?name=me.png&style={id}", PHOTO)
        assert answer.status == 422
        assert "rename the file" in answer.json["error"]
    assert world.in_inbox() == ["styles/a.part.png", "styles/styles.png"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": None}, 411),
        ({"content-length": None, "transfer-encoding": "chunked"}, 411),
        ({"content-length": "-1"}, 411),
        ({"content-length": "1e3"}, 411),
        ({"content-length": "²"}, 411),
        ({"content-length": "0"}, 400),
        ({"content-length": str(1 << 40)}, 413),
        ({"content-length": "9" * 30}, 413),
        ({"content-length": "9" * 9000}, 413),
    ],
)
def test_the_length_is_checked_before_the_first_byte(
    world: World, headers: dict[str, str | None], status: int
) -> None:
    scope = world.browser.scope("PUT", "/api/photos?name=me.png", headers)
    answer = asyncio.run(_answer_without_reading(world.browser, scope))
    assert answer == status
    assert world.in_inbox() == []


async def _answer_without_reading(browser: Browser, scope: dict[str, object]) -> int:
    status = []

    async def receive() -> dict[str, object]:
        raise AssertionError("the body was read")

    async def send(message) -> None:
        status.append(message.get("status"))

    await browser.app(scope, receive, send)
    return status[0]


def test_free_space_is_checked_before_the_first_byte(world: World, monkeypatch) -> None:
    monkeypatch.setattr(world.site.uploads.disk, "free_bytes", lambda folder: 999)
    scope = world.browser.scope("PUT", "/api/photos?name=me.png", {"content-length": "1000"})
    assert asyncio.run(_answer_without_reading(world.browser, scope)) == 507
    monkeypatch.setattr(world.site.uploads.disk, "free_bytes", lambda folder: 1000)
    assert world.browser.put("/api/photos?name=me.png", b"x" * 1000).status == 201


@pytest.mark.parametrize(
    ("chunks", "length", "status"),
    [
        ([PHOTO[:9], None], len(PHOTO), 400),  # nobody reads the answer
        ([None], len(PHOTO), 400),
        ([PHOTO[:9]], len(PHOTO), 400),
        ([PHOTO, b"more"], len(PHOTO), 400),
    ],
)
def test_an_upload_that_is_cut_off_leaves_nothing(
    world: World, chunks: list[bytes | None], length: int, status: int
) -> None:
    for target in ("/api/photos", "/api/styles"):
        headers: dict[str, str | None] = {"content-length": str(length)}
        assert world.browser.ask("PUT", f"{target}?name=me.png", headers, chunks).status == status
    assert world.in_inbox() == []
    assert world.site.uploads.arriving == 0


def test_more_than_the_most_is_never_written(world: World) -> None:
    world.site.uploads.most_bytes = 10
    assert world.browser.put("/api/photos?name=me.png", b"x" * 11).status == 413
    headers: dict[str, str | None] = {"content-length": "10"}
    assert world.browser.ask("PUT", "/api/photos?name=me.png", headers, [b"x" * 9] * 3).status == 413
    assert world.in_inbox() == []


def test_an_upload_that_stops_arriving_is_given_up(world: World) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield PHOTO[:3]
        await asyncio.Event().wait()

    uploads = world.site.uploads
    uploads.silent_s = 0.01
    with pytest.raises(Refusal, match="stopped arriving"):
        asyncio.run(uploads.receive(Path("me.png"), len(PHOTO), silent()))
    assert world.in_inbox() == []
    assert uploads.arriving == 0


def test_only_so_many_arrive_at_once_and_their_space_is_counted(world: World, monkeypatch) -> None:
    uploads = world.site.uploads
    monkeypatch.setattr(uploads.disk, "free_bytes", lambda folder: 250)

    async def check() -> None:
        release = asyncio.Event()

        async def slow(size: int) -> AsyncIterator[bytes]:
            await release.wait()
            yield b"x" * size

        tasks = [asyncio.create_task(uploads.receive(Path(f"{n}.png"), 60, slow(60))) for n in range(4)]
        while uploads.arriving < 4:
            await asyncio.sleep(0)
        with pytest.raises(Refusal) as many:
            await uploads.receive(Path("5.png"), 1, slow(1))
        assert many.value.status == 429
        tasks.pop().cancel()
        while uploads.arriving > 3:
            await asyncio.sleep(0)
        with pytest.raises(Refusal) as full:
            await uploads.receive(Path("6.png"), 71, slow(71))
        assert full.value.status == 507
        release.set()
        await asyncio.gather(*tasks)

    asyncio.run(check())
    assert world.in_inbox() == ["0.png", "1.png", "2.png"]


def test_the_inbox_ignores_what_arrives(world: World) -> None:
    from pipeline.storage.files import Disk

    seen = []

    async def chunks() -> AsyncIterator[bytes]:
        yield PHOTO[:5]
        scan = scan_inbox(world.inbox, Disk())
        seen.append((scan.files, scan.styles, scan.ignored))
        yield PHOTO[5:]

    asyncio.run(world.site.uploads.receive(Path("monet/me.png"), len(PHOTO), chunks()))
    assert seen == [((), (), ())]
    assert [str(one.relative) for one in scan_inbox(world.inbox, Disk()).files] == ["monet/me.png"]


def test_a_sweep_removes_what_a_killed_page_left_and_nothing_else(world: World) -> None:
    left, daemons = world.inbox / f"{PREFIX}0", world.inbox / ".unfinished-0123456789abcdef"
    left.write_bytes(b"part")
    daemons.write_bytes(b"the daemon's")

    async def chunks() -> AsyncIterator[bytes]:
        yield PHOTO[:5]
        world.site.uploads.sweep()
        yield PHOTO[5:]

    asyncio.run(world.site.uploads.receive(Path("me.png"), len(PHOTO), chunks()))
    assert world.in_inbox() == [".unfinished-0123456789abcdef", "me.png"]


def test_an_inbox_that_no_daemon_has_watched_takes_nothing(world: World) -> None:
    os.rename(world.inbox / HIDDEN, world.folder / "elsewhere")
    answer = world.browser.put("/api/photos?name=me.png", PHOTO)
    assert answer.status == 409
    assert "not mounted" in answer.json["error"]
    assert world.in_inbox() == []


def test_a_disk_that_cannot_be_written_is_reported(world: World, monkeypatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(world.site.uploads.disk, "move", fail)
    answer = world.browser.put("/api/photos?name=me.png", PHOTO)
    assert answer.status == 503
    assert "Read-only" in answer.json["error"]
    assert world.in_inbox() == []
    with pytest.raises(DiskError):
        asyncio.run(world.site.uploads.receive(Path("me.png"), 3, _once(b"abc")))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
