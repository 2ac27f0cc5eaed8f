"""Running as a service: a unit for systemd, and what its manager is told. See sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from .config import Config


class Notifier:
    """Tells the service manager how things are; without one, says nothing."""

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
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            try:
                link.sendto(message.encode(), address)
            except OSError:
                # A manager that went away is no reason to stop working; it asks for no answer either.
                self._address = ""


UNIT = """\
[Unit]
Description=style-pipeline: restyles what is dropped into {inbox}
After=local-fs.target remote-fs.target
RequiresMountsFor={mounts}

[Service]
Type=notify
{account}# A folder that is not there cannot be made writable; + does this outside of what shuts the rest off.
ExecStartPre=+{make} {folders}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
Restart=on-failure
RestartSec=5
# 2: the configuration is wrong; 5: another process watches the inbox. Neither is mended by starting again.
RestartPreventExitStatus=2 5
SuccessExitStatus=130 143
WatchdogSec=120
# The running job keeps a checkpoint within this time.
TimeoutStopSec=20
Nice=10

NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
ReadWritePaths={writable}

[Install]
WantedBy={target}
"""


# Folders are made for the user. `install` alone would take from those that are there what they let others do.
MAKE_FOR = """/bin/sh -c 'for f; do test -d "$$f" || install -d -o {user} -- "$$f" || exit; done' sh"""


def systemd_unit(config: Config, command: Sequence[str], folder: Path, user: str) -> str:
    """Return a unit file for a daemon with this configuration; `command` starts it in `folder`.

    For the system's manager `user` is the name of whom it runs as; for a user's own it is "".
    """
    watch = config.watch
    places = [
        watch.inbox,
        config.outbox,
        watch.archive_dir,
        watch.quarantine_dir,
        config.state_dir,
        config.cache_dir,
    ]
    return UNIT.format(
        inbox=_escaped(watch.inbox),
        account=f"User={_escaped(user)}\n" if user else "",
        make=MAKE_FOR.format(user=_escaped(user)) if user else "mkdir -p --",
        mounts=" ".join(_quoted(place) for place in places[:2]),
        folders=_command_line([str(place) for place in places]),
        command=_command_line(command),
        folder=_escaped(folder),
        writable=" ".join(_quoted(place) for place in places),
        target="multi-user.target" if user else "default.target",
    )


def _escaped(text: Path | str) -> str:
    """Double what systemd would expand."""
    return str(text).replace("%", "%%")


def _command_line(parts: Sequence[str]) -> str:
    """Quote the words of a command; only there systemd would expand what begins with a dollar."""
    return " ".join(_quoted(part).replace("$", "$$") for part in parts)


def _quoted(text: Path | str) -> str:
    plain = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"' if any(c.isspace() or c in "\"'\\" for c in plain) else plain
