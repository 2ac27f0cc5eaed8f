from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from page_client import NOTHING
from page_viewer import Viewer

from pipeline.errors import MachineError, UsageError
from pipeline.page import server
from pipeline.page.server import check_token, listen, serving
from pipeline.page.watched import Watched
from pipeline.spec.config import Config, read_config

TOKEN = "0123456789abcdef"


def ports(sockets: list[socket.socket]) -> list[tuple[str, int]]:
    names = [one.getsockname()[:2] for one in sockets]
    for one in sockets:
        one.close()
    return names


def can_use_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["", "localhost"])
def test_the_page_listens_on_both_loopback_addresses_and_one_port(host: str) -> None:
    names = ports(listen(host, 0))
    assert [name for name, _ in names] == ["127.0.0.1", *(["::1"] if can_use_ipv6() else [])]
    assert len({port for _, port in names}) == 1


def test_a_machine_without_ipv6_has_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    own = server._listen_on

    def listen_on(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if address == "::1":
            raise OSError(errno.EADDRNOTAVAIL, "no such address")
        return own(family, address, port)

    monkeypatch.setattr(server, "_listen_on", listen_on)
    assert [name for name, _ in ports(listen("", 0))] == ["127.0.0.1"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_reported_with_a_way_out(address: str) -> None:
    if address == "::1" and not can_use_ipv6():
        pytest.skip("no IPv6")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MachineError, match=rf"Port {port} .* in use") as caught:
            listen("", port)
    assert "--port 0" in caught.value.next_step


def test_a_host_that_does_not_exist_is_reported() -> None:
    with pytest.raises(UsageError, match="no such address"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(MachineError, match="cannot listen"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "studio.lan"])
def test_other_machines_need_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="other machines") as caught:
        check_token(host, "")
    assert "--token" in caught.value.next_step
    check_token(host, TOKEN)


def test_a_token_must_not_be_easy_to_guess() -> None:
    with pytest.raises(UsageError, match="15 characters"):
        check_token("", TOKEN[1:])
    for host in ("", "127.0.0.1", "localhost", "::1"):
        check_token(host, "")


@pytest.fixture
def config(environment: Path) -> Config:
    (environment / "config.yaml").write_text("state_dir: state\ncache_dir: cache\npage: {port: 0}\n")
    (environment / "inbox").mkdir()
    return read_config(None)


def watched(config: Config) -> Watched:
    return Watched(config.watch.inbox, lambda: NOTHING, lambda id: None)


def test_the_page_is_there_while_the_block_runs(config: Config) -> None:
    with serving(config, watched(config)) as address:
        viewer = Viewer(address)
        viewer.sign_in()
        stream = viewer.states()
        assert next(stream)["inbox"] == str(config.watch.inbox)
        assert viewer.ask("GET", "/")[0] == 200
        with serving(config, watched(config)) as other:
            assert Viewer(other).netloc != viewer.netloc
    assert list(stream) == []
    with pytest.raises(ConnectionRefusedError):
        viewer.ask("GET", "/")


def test_a_cookie_outlives_a_restart_and_a_token_does_not(config: Config) -> None:
    with serving(config, watched(config)) as address:
        viewer = Viewer(address)
        viewer.sign_in()
    fixed = config.model_copy(update={"page": config.page.model_copy(update={"port": _port(address)})})
    with serving(fixed, watched(config)) as again:
        assert Viewer(again).netloc == viewer.netloc
        assert viewer.ask("GET", "/api/state")[0] == 200
        with pytest.raises(AssertionError, match="no longer valid"):
            viewer.sign_in()


def _port(address: str) -> int:
    return int(Viewer(address).netloc.rpartition(":")[2])


def test_a_chosen_token_is_the_one_in_the_address(config: Config) -> None:
    with serving(config, watched(config), TOKEN) as address:
        assert address.endswith(f"/#token={TOKEN}")


def test_odd_requests_are_answered_or_dropped_and_the_page_goes_on(config: Config) -> None:
    with serving(config, watched(config)) as address:
        viewer = Viewer(address)
        for data in (
            b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\r\n\r\n\r\n",
            b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: " + b"x" * 100_000 + b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ):  # fmt: skip
            host, _, port = viewer.netloc.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=30) as raw:
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
                answer = raw.recv(100)
                assert not answer or answer.split()[1] in {b"400", b"421", b"431", b"505"}, (data, answer)
        viewer.sign_in()


def test_a_page_that_cannot_start_leaves_nothing_open(config: Config) -> None:
    config.state_dir.write_text("a file is where a folder should be")
    with pytest.raises(MachineError, match=r"page\.key"), serving(config, watched(config)):
        pass
