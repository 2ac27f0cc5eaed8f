from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_records import add_record, draw, failed
from page_client import World

from pipeline.errors import DiskError
from pipeline.page import state as state_module
from pipeline.page.running import running_id
from pipeline.page.state import PAGE_SIZE
from pipeline.page.watched import MOST_LISTED
from pipeline.storage.live import Live, LiveFolder, is_looked_at
from pipeline.version import VERSION

JOB = Live(
    key="k" * 64,
    batch="night",
    name="me--monet",
    drop="",
    content=Path("/photos/me.jpg"),
    style="monet",
    styles=((Path("/styles/monet.jpg"), 1.0),),
    level=2,
    levels=3,
    width=40,
    height=60,
    step=12,
    steps=30,
    seconds=1.234,
    left_s=2.345,
    losses={
        "step": (1, 12),
        "size": (30, 60),
        "total": (1.23456789, 0.5),
        "content": (0, 1),
        "style": (2, 3),
    },
)


def running(**facts: Any) -> dict[str, Any]:
    return {"name": "me--monet", "step": 3, "steps": 9, "seconds": 1.0, "left_s": 2.0, **facts}


def photo_and_style(world: World) -> tuple[Path, Path]:
    return draw(world.folder / "photo.png"), draw(world.inbox / "styles/monet.png")


def test_an_idle_page_says_so(world: World) -> None:
    state = world.state()
    assert state["server"]["version"] == VERSION
    assert state["outbox"] == str(world.outbox)
    assert state["inbox"] == str(world.inbox)
    assert state["problem"] is None
    assert state["daemon"]["state"] == "none"
    assert [state[name] for name in ("running", "waiting", "done", "failed", "styles")] == [[]] * 5
    assert state["doneNext"] == ""


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, "none"),
        ({"alive": True}, "idle"),
        ({"alive": True, "running": running()}, "working"),
        ({"alive": True, "paused": "The disk is full."}, "fault"),
        ({"alive": True, "paused_by_user": 5.0}, "paused"),
        ({"alive": False, "paused_by_user": 5.0}, "paused"),
        ({"alive": True, "paused": "The disk is full.", "paused_by_user": 5.0}, "paused"),
    ],
)
def test_what_the_daemon_does(world: World, status: dict[str, Any], expected: str) -> None:
    world.status |= status
    daemon = world.state()["daemon"]
    assert daemon["state"] == expected
    assert daemon["alive"] == status.get("alive", False)
    assert daemon["text"] == ("The disk is full." if expected == "fault" else "")
    assert daemon["since"] == (5.0 if expected == "paused" else None)


def test_without_an_inbox_there_is_no_daemon_and_nothing_to_drop_on(world: World) -> None:
    draw(world.inbox / "styles/monet.png")
    world.inbox.rename(world.folder / "elsewhere")
    state = world.state()
    assert (state["inbox"], state["daemon"], state["styles"]) == (None, None, [])
    world.status |= {"alive": True, "paused": "the inbox is away"}
    assert world.state()["daemon"]["state"] == "fault"


def test_what_waits_and_why(world: World) -> None:
    draw(world.inbox / "styles/monet.png")
    for name in ("a.png", "monet/b.png", "odd/c.png"):
        draw(world.inbox / name)
    world.status["waits"] = [
        {"path": "a.png", "reason": "its turn"},
        {"path": "gone.png", "reason": "its turn"},
        {"path": "monet/b.png", "reason": "to settle", "first": True},
        {"path": "odd/c.png", "reason": "to be cancelled"},
    ]
    world.status["begun"] = [{"id": "drop-1", "path": "monet/begun.png"}]
    world.status["eta_s"] = 99
    state = world.state()
    assert state["waitingCount"] == 5
    assert state["waitingSeconds"] == 99
    assert [(one["path"], one["reason"], one["styles"]) for one in state["waiting"]] == [
        ("monet/begun.png", "begun, to be resumed", ["monet"]),
        ("monet/b.png", "to settle", ["monet"]),
        ("a.png", "", []),
        ("gone.png", "", []),
        ("odd/c.png", "to be cancelled", []),
    ]
    assert state["waiting"][2]["bytes"] == (world.inbox / "a.png").stat().st_size
    assert state["waiting"][3]["bytes"] is None
    assert state["waiting"][4]["folder"] == "odd"


def test_long_lists_are_cut_off_and_counted(world: World) -> None:
    count = MOST_LISTED + 5
    world.status["waits"] = [{"path": f"{n}.png", "reason": "its turn"} for n in range(count)]
    world.status["quarantined"] = [
        {"id": f"{n}", "path": f"{n}.png", "error": "broken"} for n in range(count)
    ]
    state = world.state()
    assert (len(state["waiting"]), state["waitingCount"]) == (MOST_LISTED, count)
    assert (len(state["failed"]), state["failedCount"]) == (MOST_LISTED, count)
    assert state["failed"][0]["id"] == str(count - 1)  # the newest


def test_what_failed_and_whether_it_can_be_tried_again(world: World) -> None:
    photo, style = photo_and_style(world)
    night, inbox = world.outbox / "night", world.outbox / "inbox"
    add_record(night, photo, style, name="run", **failed("run.png: broken."))
    add_record(inbox, photo, style, name="one", **failed(), drop="d1")
    add_record(inbox, photo, style, name="two", **failed("two.png: broken."), drop="d2")
    add_record(inbox, photo, style, name="three", **failed("three.png: broken."), drop="d2")
    add_record(inbox, photo, style, name="retried", **failed(), drop="d0")
    world.status["quarantined"] = [
        {
            "id": "d1",
            "path": "monet/one.png",
            "error": f"{world.inbox}/monet/one.png: broken.",
            "next_step": "Copy it again.",
        },
        {"id": "d2", "path": "two.png", "error": "two", "cancelled": True},
    ]
    failures = world.state()["failed"]
    assert [(one["id"], one["canRetry"], one["cancelled"]) for one in failures[:2]] == [
        ("d2", True, True),
        ("d1", True, False),
    ]
    assert {one["name"] for one in failures[0]["failures"]} == {"two", "three"}
    assert failures[1]["failures"] == []  # it says no more than the card itself
    assert failures[0]["nextStep"] == "Retry brings it back."
    assert (failures[1]["folder"], failures[1]["nextStep"]) == ("monet", "Copy it again.")
    assert failures[1]["error"] == "Broken."
    assert [(one["name"], one["batch"], one["canRetry"]) for one in failures[2:]] == [("run", "night", False)]


def test_the_style_library(world: World) -> None:
    for name in ("monet.png", "monet.jpg", ".hidden.png", "notes.txt", "a_small.png", "scream.png"):
        draw(world.inbox / "styles" / name.replace(".txt", ".png")).rename(world.inbox / "styles" / name)
    (world.inbox / "styles/folder.png").mkdir()
    (world.inbox / "styles/link.png").symlink_to(world.folder)
    styles = world.state()["styles"]
    assert [style["name"] for style in styles] == ["monet", "scream"]
    draw(world.inbox / "styles/scream.png", "red", (9, 9))
    assert world.state()["styles"][1]["thumb"] != styles[1]["thumb"]


def test_running_jobs_have_a_live_picture_and_curves(world: World) -> None:
    folder = LiveFolder(world.folder / "state")
    folder.write(JOB, b"jpeg")
    (card,) = world.state()["running"]
    assert card["id"] == running_id(JOB)
    assert (card["name"], card["contentName"], card["styleName"]) == ("me--monet", "me.jpg", "monet")
    assert (card["level"], card["levels"], card["size"]) == (2, 3, 60)
    assert (card["step"], card["steps"], card["seconds"], card["secondsLeft"]) == (12, 30, 1.2, 2.3)
    assert card["losses"]["steps"] == [1, 12]
    assert card["losses"]["total"] == [1.235, 0.5]
    assert not card["canCancel"]
    answer = world.browser.get(card["picture"])
    assert (answer.body, answer.headers["content-type"]) == (b"jpeg", "image/jpeg")
    assert "sandbox" in answer.headers["content-security-policy"]
    folder.close()
    assert world.state()["running"] == []
    assert world.browser.get(card["picture"]).status == 404


def test_the_daemons_job_is_shown_before_its_first_live_picture_and_once(world: World) -> None:
    world.status |= {"alive": True, "running": running(path="me.jpg", id="drop-1")}
    (card,) = world.state()["running"]
    assert (card["step"], card["picture"], card["canCancel"]) == (3, "", True)
    folder = LiveFolder(world.folder / "state")
    folder.write(replace(JOB, drop="drop-1"), b"jpeg")
    (live,) = world.state()["running"]
    assert live["id"] == card["id"]
    assert live["canCancel"]
    folder.close()
    assert world.state()["running"] == []  # its state is a moment late


def test_live_pictures_are_asked_for_as_long_as_someone_looks(world: World, monkeypatch) -> None:
    state_dir = world.folder / "state"
    assert not is_looked_at(state_dir)
    world.state()
    assert is_looked_at(state_dir)
    (state_dir / "live/looked-at").unlink()
    world.state()  # too soon to ask again
    assert not is_looked_at(state_dir)
    later = time.monotonic() + state_module.LOOK_AGAIN_S
    monkeypatch.setattr(state_module.time, "monotonic", lambda: later)
    world.state()
    assert is_looked_at(state_dir)


def test_a_fault_of_the_machine_is_part_of_the_state_and_logged_once(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, style = photo_and_style(world)
    add_record(world.outbox / "night", photo, style)

    def fail() -> None:
        raise DiskError("ledger: cannot be used.", "Check its disk.")

    monkeypatch.setattr(world.site.state, "_read_status", fail)
    for _ in range(2):
        state = world.state()
        assert state["problem"] == {"error": "ledger: cannot be used.", "nextStep": "Check its disk."}
        assert state["doneCount"] == 1
    assert caplog.text.count("ledger: cannot be used.") == 1


def test_an_outbox_that_cannot_be_read_does_not_hide_the_daemon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DiskError("outbox: cannot be read.", "Mount it.")

    monkeypatch.setattr(world.site.state.results, "refresh", fail)
    world.status |= {"alive": True, "paused": "outbox: is gone."}
    state = world.state()
    assert state["problem"] == {"error": "outbox: cannot be read.", "nextStep": "Mount it."}
    assert (state["daemon"]["state"], state["daemon"]["text"]) == ("fault", "outbox: is gone.")


def test_finished_pictures_come_in_pages(world: World) -> None:
    photo, style = photo_and_style(world)
    for number in range(PAGE_SIZE + 2):
        add_record(world.outbox / "night", photo, style, name=f"p{number:03}")
    state = world.state()
    assert (len(state["done"]), state["doneCount"]) == (PAGE_SIZE, PAGE_SIZE + 2)
    page = world.browser.get(f"/api/pictures?before={state['doneNext']}").json
    assert (len(page["pictures"]), page["next"], page["count"]) == (2, "", PAGE_SIZE + 2)
    assert not {one["id"] for one in state["done"]} & {one["id"] for one in page["pictures"]}


def test_names_that_are_not_unicode_do_not_end_the_page(world: World) -> None:
    world.status["waits"] = [{"path": "\udcff<img onerror=x>\n.png", "reason": "its turn"}]
    answer = world.browser.get("/api/state")
    assert answer.status == 200
    assert answer.body.isascii()
    assert answer.json["waiting"][0]["name"] == "\udcff<img onerror=x>\n.png"
