from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from batch_records import add_record, draw
from command_line import Studio
from page_viewer import Viewer

MOST_MB = 80


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Viewer]]:
    """Start a command that shows the page; yield it and someone who has signed in."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(r"The page: (http://127\.0\.0\.1:\d+/#token=\S+)\n", process.stdout.readline())
        assert found, process.communicate()
        viewer = Viewer(found[1])
        viewer.sign_in()
        yield process, viewer
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def outbox(environment: Path) -> Path:
    (environment / "config.yaml").write_text("state_dir: state\ncache_dir: cache\n")
    photo, style = draw(environment / "me.png"), draw(environment / "monet.png")
    add_record(environment / "outbox/night", photo, style)
    return environment / "outbox"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_shows_the_outbox_until_a_signal_although_pages_are_open(outbox: Path, number: int) -> None:
    with started("serve", "--port", "0") as (process, viewer):
        streams = [viewer.states() for _ in range(3)]
        for stream in streams:
            assert [one["name"] for one in next(stream)["done"]] == ["me--monet"]
        (done,) = viewer.ask("GET", "/api/state")[1]["done"]
        assert viewer.ask("GET", done["thumb"])[0] == 200
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        for stream in streams:
            list(stream)
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_fault_of_the_machine_is_logged_as_one_line(outbox: Path) -> None:
    with started("serve", "--port", "0") as (process, viewer):
        ledger = outbox.parent / "state/ledger.sqlite3"
        ledger.unlink(missing_ok=True)
        ledger.mkdir()
        assert "ledger" in viewer.ask("GET", "/api/state")[1]["problem"]["error"]
        process.terminate()
        process.wait(30)
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d the page: .*ledger.*", line)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_serve_stays_small_and_never_loads_torch(outbox: Path) -> None:
    for number in range(30):
        add_record(outbox / "night", outbox.parent / "me.png", outbox.parent / "monet.png", name=f"p{number}")
    with started("serve", "--port", "0") as (process, viewer):
        state = next(viewer.states())
        for one in state["done"]:
            viewer.ask("GET", one["thumb"])
            viewer.ask("GET", f"/api/pictures/{one['id']}")
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak
        assert int(peak[1]) / 1024 < MOST_MB
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert not [name for name in ("libtorch", "numpy", "_imaging") if name in loaded]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_serve_ends_its_own_process_and_loses_nothing(outbox: Path) -> None:
    with started("serve", "--port", "0") as (process, viewer):
        (done,) = viewer.ask("GET", "/api/state")[1]["done"]
        viewer.ask("GET", done["thumb"])
        before = sorted(path for path in outbox.rglob("*") if path.is_file())
        children = [
            int(pid)
            for task in Path(f"/proc/{process.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]
        assert children
        process.kill()
        process.wait(30)
    assert sorted(path for path in outbox.rglob("*") if path.is_file()) == before
    for child in children:
        _wait_for_end(child)


def _wait_for_end(pid: int) -> None:
    from watching import wait_until

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(is_gone, "the process that makes thumbnails has ended")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--host", "0.0.0.0"), 2, "other machines could reach the page"),
        (("--token", "short"), 2, "The token has 5 characters"),
        (("--port", "70000"), 2, "--port"),
        (("--host", "no.such.host.invalid"), 2, "other machines"),
    ],
)
def test_what_is_not_safe_is_refused(
    cli, outbox: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    found, out, err = cli("serve", *arguments)
    assert (found, out) == (code, "")
    assert text in err


def test_a_port_in_use_is_reported(cli, outbox: Path) -> None:
    with started("serve", "--port", "0") as (_, viewer):
        port = viewer.netloc.rpartition(":")[2]
        code, out, err = cli("serve", "--port", port)
    assert (code, out) == (3, "")
    assert f"Port {port} of 127.0.0.1 is in use" in err
    assert "--port 0" in err


def test_the_configuration_says_where_the_page_is(cli, outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.yaml").write_text("state_dir: state\npage: {host: 0.0.0.0, port: 0}\n")
    code, _, err = cli("serve")
    assert code == 2
    assert "0.0.0.0: other machines" in err
    monkeypatch.setenv("STYLE_PIPELINE_TOKEN", "short")
    assert "The token has 5 characters" in cli("serve")[2]
    Path("config.yaml").write_text("page: {port: -1}\n")
    assert "page.port" in cli("serve")[2]


def test_the_address_is_opened_in_a_browser_on_request(outbox: Path, monkeypatch, capsys) -> None:
    from pipeline.cli.commands import serve

    opened = []

    def open_and_end(address: str) -> None:
        opened.append(address)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(serve.webbrowser, "open", open_and_end)
    monkeypatch.setattr(sys, "argv", ["style-pipeline", "serve", "--port", "0", "--open"])
    from pipeline.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().out == f"The page: {opened[0]}\nCtrl-C ends it.\n"


def test_what_the_page_retries_is_what_the_command_retries(studio: Studio) -> None:
    from pipeline.cli.commands.serve import watched_folder
    from pipeline.errors import UsageError
    from pipeline.spec.config import read_config

    (id,) = studio.quarantined("a.png")
    watched = watched_folder(read_config(None))
    assert [one["id"] for one in watched.read_status()["quarantined"]] == [id]
    with pytest.raises(UsageError, match="not quarantined"):
        watched.retry("a.png")
    watched.retry(id)
    assert (studio.inbox / "a.png").is_file()
    assert studio.once()[0] == 0
