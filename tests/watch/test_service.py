from __future__ import annotations

import errno
import getpass
import itertools
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser, SectionProxy
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.spec.config import Config, WatchConfig
from pipeline.watch.service import ServiceManager, systemd_unit

COMMAND = [sys.executable, "-m", "pipeline", "watch"]


@contextmanager
def manager(address: str | Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.settimeout(10)
        link.bind(str(address))
        yield link


def received(link: socket.socket) -> str:
    return link.recv(4096).decode()


# Notifications of the service manager


def test_the_manager_is_notified_of_start_heartbeats_and_end(tmp_path: Path) -> None:
    with manager(tmp_path / "notify") as link:
        service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        service.ready()
        service.alive("2 waiting, naïve")
        service.stopping()
        assert [received(link) for _ in range(3)] == [
            "READY=1",
            "WATCHDOG=1\nSTATUS=2 waiting, naïve",
            "STOPPING=1",
        ]


if sys.platform == "linux":  # nobody else has addresses without a file

    def test_an_address_without_a_file() -> None:
        name = f"style-pipeline-{secrets.token_hex(8)}"
        with manager(f"\0{name}") as link:
            ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready()
            assert received(link) == "READY=1"


def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was opened"))
    for environment in ({}, {"NOTIFY_SOCKET": ""}):
        service = ServiceManager(environment)
        service.ready()
        service.alive("all is well")
        service.stopping()


def test_the_environment_is_asked_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with manager(tmp_path / "notify") as link:
        ServiceManager().stopping()
        assert received(link) == "STOPPING=1"


def test_a_manager_that_vanished_is_no_reason_to_stop(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    service = ServiceManager({"NOTIFY_SOCKET": str(address)})
    with manager(address) as link:
        service.ready()
        assert received(link) == "READY=1"
    service.alive("nobody listens")
    address.unlink()
    service.alive("nobody is there")
    with manager(address) as link:
        service.stopping()
        assert received(link) == "STOPPING=1"


def test_too_many_open_files_are_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with manager(tmp_path / "notify") as link:
        service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", refuse)
            service.alive("no message")
        service.ready()
        assert received(link) == "READY=1"


# The unit


def make_config(folder: Path) -> Config:
    watch = WatchConfig(inbox=folder / "inbox", archive=folder / "kept", quarantine=folder / "aside")
    return Config(
        outbox=folder / "outbox", state_dir=folder / "state", cache_dir=folder / "cache", watch=watch
    )


def read_unit(text: str) -> ConfigParser:
    unit = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    # It keeps one value of a name; systemd runs every command.
    numbers = itertools.count(1)
    unit.read_string(re.sub("^ExecStartPre", lambda _: f"ExecStartPre{next(numbers)}", text, flags=re.M))
    return unit


def words(line: str) -> list[str]:
    """Split a value into words as systemd does: quotes, then specifiers."""
    assert "%" not in line.replace("%%", ""), "systemd would put something else here"
    return [word.replace("%%", "%") for word in shlex.split(line)]


SIX = ("inbox", "outbox", "kept", "aside", "state", "cache")


def test_the_unit_says_what_a_service_needs(tmp_path: Path) -> None:
    unit = read_unit(systemd_unit(make_config(tmp_path), COMMAND, tmp_path, user="me"))
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "on-failure"
    assert int(service["WatchdogSec"]) > 30
    assert set(service["RestartPreventExitStatus"].split()) == {"1", "2", "4", "5"}
    assert {"130", "143"} <= set(service["SuccessExitStatus"].split())
    assert "-HUP $MAINPID" in service["ExecReload"]
    assert service["WorkingDirectory"] == str(tmp_path)
    assert words(service["ExecStart"]) == COMMAND
    assert (service["ProtectSystem"], service["NoNewPrivileges"]) == ("strict", "yes")
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_a_running_job_has_time_to_end(tmp_path: Path) -> None:
    """The daemon promises to be gone within 10 s of a TERM."""
    unit = read_unit(systemd_unit(make_config(tmp_path), COMMAND, tmp_path, user="me"))
    assert int(unit["Service"]["TimeoutStopSec"]) > 10


def test_what_a_service_may_not_do(tmp_path: Path) -> None:
    """Neither more than it needs, nor kill what runs beside it, nor start again without end."""
    config = make_config(tmp_path)
    unit = read_unit(systemd_unit(config, COMMAND, tmp_path, user="me"))
    service = unit["Service"]
    assert service["CapabilityBoundingSet"] == ""
    assert service["RestrictAddressFamilies"].split() == ["AF_UNIX", "AF_INET", "AF_INET6"]
    assert (service["SystemCallFilter"], service["SystemCallArchitectures"]) == ("@system-service", "native")
    assert "MemoryDenyWriteExecute" not in service  # kernels are compiled as they are needed
    assert (service["UMask"], service["OOMPolicy"]) == ("0027", "continue")
    assert "#MemoryMax=" in systemd_unit(config, COMMAND, tmp_path, user="me")
    # As many starts as fit within the interval, each as long as the shortest failure.
    interval, burst = int(unit["Unit"]["StartLimitIntervalSec"]), int(unit["Unit"]["StartLimitBurst"])
    assert burst * int(service["RestartSec"]) < interval


def test_devices_are_hidden_where_no_gpu_is_wanted(tmp_path: Path) -> None:
    on_cpu = make_config(tmp_path).model_copy(update={"device": "cpu"})
    assert read_unit(systemd_unit(on_cpu, COMMAND, tmp_path, "me"))["Service"]["PrivateDevices"] == "yes"
    text = systemd_unit(make_config(tmp_path), COMMAND, tmp_path, "me")
    assert "PrivateDevices" not in read_unit(text)["Service"]
    assert "\n#PrivateDevices=yes\n" in text


def test_a_service_of_root_says_so_and_a_users_own_keeps_what_it_cannot_give_away(tmp_path: Path) -> None:
    text = systemd_unit(make_config(tmp_path), COMMAND, tmp_path, user="root")
    assert "would run as root: name here the user" in text.partition("\nUser=root\n")[0].splitlines()[-1]
    assert "CapabilityBoundingSet" not in text
    for user in ("me", ""):
        assert "better name a user" not in systemd_unit(make_config(tmp_path), COMMAND, tmp_path, user)
    own = systemd_unit(make_config(tmp_path), COMMAND, tmp_path, user="")
    assert not {"CapabilityBoundingSet", "PrivateDevices"} & set(read_unit(own)["Service"])


def test_folders_that_the_environment_names_are_named_to_the_service(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": "/my 100% state", "XDG_CACHE_HOME": "", "HOME": "/home/me", "LANG": "C"}
    text = systemd_unit(make_config(tmp_path), COMMAND, tmp_path, "me", environment)
    lines = [line for line in text.splitlines() if line.startswith("Environment=")]
    assert [words(line.partition("=")[2]) for line in lines] == [["XDG_STATE_HOME=/my 100% state"]]


def test_a_users_own_unit_starts_with_the_user(tmp_path: Path) -> None:
    unit = read_unit(systemd_unit(make_config(tmp_path), COMMAND, tmp_path, user=""))
    assert unit["Install"]["WantedBy"] == "default.target"


# systemd expands % in paths, and $ in commands only.
@pytest.mark.parametrize(
    "name", ["plain", "my photos", "100%h", "50% off", 'a"b c', "it's", "$HOME", "naïve"]
)
def test_every_folder_is_made_and_writable_whatever_its_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    unit = read_unit(systemd_unit(make_config(folder), [*COMMAND, str(folder)], folder, user="me"))
    six = [str(folder / part) for part in SIX]
    service = unit["Service"]
    assert sorted(words(service["ReadWritePaths"])) == sorted(six)
    made = [word for command in makes(service) for word in command if word in six]
    assert sorted(made) == sorted(six)
    assert words(service["ExecStart"])[-1].replace("$$", "$") == str(folder)
    assert set(words(unit["Unit"]["RequiresMountsFor"])) == {str(folder / "inbox"), str(folder / "outbox")}
    assert service["WorkingDirectory"] == str(folder).replace("%", "%%")
    assert str(folder).replace("%", "%%") in unit["Unit"]["Description"]


def makes(service: SectionProxy) -> list[list[str]]:
    """What systemd runs before the start, without the sign that it runs with full privileges."""
    lines = [service[key] for key in service if key.startswith("ExecStartPre")]
    commands = [[word.replace("$$", "$") for word in words(line)] for line in lines]
    assert all(command[0].startswith("+") for command in commands)
    return [[command[0].removeprefix("+"), *command[1:]] for command in commands]


def make_folders(service: SectionProxy) -> None:
    for command in makes(service):
        subprocess.run(command, check=True)


def test_folders_are_made_for_the_user_and_those_there_stay_as_they_are(tmp_path: Path) -> None:
    me, folder = getpass.getuser(), tmp_path / "it's my $HOME"
    (folder / "inbox").mkdir(parents=True)
    (folder / "inbox").chmod(0o777)
    service = read_unit(systemd_unit(make_config(folder), COMMAND, folder, me))["Service"]
    assert service["User"] == me
    for _ in range(2):
        make_folders(service)
        assert {path.name for path in folder.iterdir()} == set(SIX)
    assert (folder / "inbox").stat().st_mode & 0o777 == 0o777
    assert modes(folder) == {"inbox": 0o777, "outbox": 0o755, "kept": 0o755, "aside": 0o755, **PRIVATE}
    nobody = makes(read_unit(systemd_unit(make_config(folder), COMMAND, folder, "jane"))["Service"])
    assert all("-o jane" in " ".join(command) for command in nobody)


PRIVATE = {"state": 0o700, "cache": 0o700}


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_a_users_own_folders_are_made_by_the_user(tmp_path: Path) -> None:
    service = read_unit(systemd_unit(make_config(tmp_path), COMMAND, tmp_path, user=""))["Service"]
    assert "User" not in service
    assert [command[:5] for command in makes(service)] == [
        ["mkdir", "-m", mode, "-p", "--"] for mode in ("0755", "0700")
    ]
    make_folders(service)
    assert modes(tmp_path) == {**dict.fromkeys(SIX, 0o755), **PRIVATE}


def test_a_dollar_is_doubled_in_commands_only(tmp_path: Path) -> None:
    folder = tmp_path / "$HOME"
    service = read_unit(systemd_unit(make_config(folder), [*COMMAND, "$x"], folder, user="me"))["Service"]
    assert service["ExecStart"].endswith(" $$x")
    assert "$$HOME/inbox" in service["ExecStartPre1"]
    assert "$$" not in service["ReadWritePaths"]


if ANALYZE := shutil.which("systemd-analyze"):

    @pytest.mark.parametrize("name", ["plain", "50% of my 'photos'", "$HOME"])
    @pytest.mark.parametrize("user", ["", "root"])
    def test_systemd_finds_nothing_wrong(name: str, user: str, tmp_path: Path) -> None:
        folder = tmp_path / name
        folder.mkdir()
        path = tmp_path / "style-pipeline.watch.service"
        path.write_text(
            systemd_unit(make_config(folder), [*COMMAND, "%i $x"], folder, user), encoding="utf-8"
        )
        done = subprocess.run(
            [str(ANALYZE), "verify", str(path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
