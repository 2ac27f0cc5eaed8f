"""Running as a service: a unit for systemd, and notifications to its manager. See sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..spec.config import Config


class ServiceManager:
    """Notifies the service manager, if there is one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        self._send("READY=1")

    def alive(self, status: str) -> None:
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A manager that cannot be reached just now is no reason to stop working.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.sendto(message.encode(), address)


UNIT = """\
[Unit]
Description=style-pipeline: restyles what is dropped into {inbox}
After=local-fs.target remote-fs.target
RequiresMountsFor={mounts}
# A service that fails ten times within five minutes stays stopped until `systemctl start`.
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=notify
{account}# ReadWritePaths needs folders that exist; + creates them outside of the restrictions.
ExecStartPre=+{make_open} {open_folders}
ExecStartPre=+{make_private} {private_folders}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
{environment}# The user's group may read the results, nobody else may; with 0022 everyone may.
UMask=0027
Restart=on-failure
RestartSec=5
# 2: the configuration is wrong; 5: another process watches the inbox. Starting again helps neither.
# 1 and 4: the time of --for or --until is over.
RestartPreventExitStatus=1 2 4 5
SuccessExitStatus=130 143
WatchdogSec=120
# Within this time the running job writes a checkpoint.
TimeoutStopSec=20
Nice=10
# A picture that does not fit the memory ends its worker; the daemon stays, and starts another.
OOMPolicy=continue
# The most memory that the daemon and its workers may use, so that some is left for the rest.
#MemoryMax=75%

NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
SystemCallArchitectures=native
{restrictions}ReadWritePaths={writable}

[Install]
WantedBy={target}
"""


# Creates folders that belong to the user. `install` alone would reset the permissions of existing ones.
MAKE_FOR = (
    """/bin/sh -c 'for f; do test -d "$$f" || install -d -m {mode} -o {user} -- "$$f" || exit; done' sh"""
)
MAKE_OWN = "mkdir -m {mode} -p --"

ROOT = "# Printed by root, so the daemon would run as root: name here the user who owns the pictures.\n"
# Only for the system's manager, as a user's own may not drop capabilities. Root needs them: without, it could
# not read the files of other users.
NO_CAPABILITIES = "CapabilityBoundingSet=\n"
NO_DEVICES = "PrivateDevices=yes\n"
DEVICES = (
    "# Hides GPUs, so it is set with device: cpu only; set it where there are none.\n#PrivateDevices=yes\n"
)
# These set the default folders. A service does not inherit the environment of its caller.
FOLDER_VARIABLES = ("XDG_STATE_HOME", "XDG_CACHE_HOME")


def systemd_unit(
    config: Config,
    command: Sequence[str],
    folder: Path,
    user: str,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Return a unit file for a daemon with this configuration; `command` starts it in `folder`.

    For the system's manager `user` is the account that it runs as; for a user's own manager it is "".
    """
    watch = config.watch
    places = [watch.inbox, config.outbox, watch.archive_dir, watch.quarantine_dir]
    private = [config.state_dir, config.cache_dir]
    make = MAKE_FOR if user else MAKE_OWN
    devices = NO_DEVICES if config.device == "cpu" else DEVICES
    return UNIT.format(
        inbox=_escaped(watch.inbox),
        account=_account(user),
        environment=_environment(environment),
        make_open=make.format(user=_escaped(user), mode="0755"),
        make_private=make.format(user=_escaped(user), mode="0700"),
        mounts=" ".join(_quoted(place) for place in places[:2]),
        open_folders=_command_line([str(place) for place in places]),
        private_folders=_command_line([str(place) for place in private]),
        command=_command_line(command),
        folder=_escaped(folder),
        restrictions=(NO_CAPABILITIES if user != "root" else "") + devices if user else "",
        writable=" ".join(_quoted(place) for place in [*places, *private]),
        target="multi-user.target" if user else "default.target",
    )


def _account(user: str) -> str:
    return (ROOT if user == "root" else "") + f"User={_escaped(user)}\n" if user else ""


def _environment(environment: Mapping[str, str]) -> str:
    names = [name for name in FOLDER_VARIABLES if environment.get(name)]
    return "".join(f"Environment={_quoted(f'{name}={environment[name]}')}\n" for name in names)


def _escaped(text: Path | str) -> str:
    """Escape percent signs, which systemd expands."""
    return str(text).replace("%", "%%")


def _command_line(parts: Sequence[str]) -> str:
    """Quote the words of a command. Only in commands systemd expands dollar signs."""
    return " ".join(_quoted(part).replace("$", "$$") for part in parts)


def _quoted(text: Path | str) -> str:
    plain = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"' if any(c.isspace() or c in "\"'\\" for c in plain) else plain
