"""What `status` and `health` report about a daemon and its inbox."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..batch.estimate import Speeds
from ..errors import DiskError
from ..spec.config import Config
from ..spec.text import counted, duration, shortened
from ..storage.control import Control
from ..storage.files import Disk
from ..storage.ledger import Ledger
from .inbox import Seen, scan_inbox
from .library import style_paths, unused_styles
from .markers import Markers
from .owner import Owner
from .quarantine import Quarantine
from .routes import Plan, Router, Waiting
from .watcher import default_settle_s

# The length of the reason why a file was quarantined; its error.json has the whole text.
MAX_ERROR = 500
# How many waiting files are listed; --json lists all.
MAX_LISTED = 20
# A daemon without a heartbeat for this long is unhealthy.
LATE_S = 30.0
# If its lock cannot be seen, a daemon with a heartbeat this recent is alive.
RECENT_S = 5.0
LABEL_WIDTH = len("quarantined") + 2
HOUR_S = 3600.0
MONTH_S = 30 * 24 * HOUR_S
ITS_TURN, CANCELLED = "its turn", "to be cancelled"
EVENTS = {True: "watched", False: "stopped", None: "not watched yet"}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    label: str
    text: str
    ok: bool = True


def current_status(config: Config) -> dict[str, Any]:
    """Return what `read_status` does, from the ledger of a configuration."""
    with closing(Ledger(config.state_dir)) as ledger:
        return read_status(config, ledger)


def read_status(config: Config, ledger: Ledger) -> dict[str, Any]:
    """Return what is known of an inbox as plain data: its daemon (`read_daemon_status`) and its files.

    `done` counts drops finished in the last 30 days, `throughput_per_hour` those in the last hour. `waits`
    names what lies in the inbox and why, what people put `first` at its beginning, and `eta_s` says how long
    its pictures will take; `begun` are files that were taken and are not being made now. `unused` names
    styles that are not used, and why.
    """
    watch, now = config.watch, time.time()
    state = ledger.read_daemon(watch.inbox)
    daemon, claimed = read_daemon_status(config, state, now), ledger.claimed(watch.inbox)
    running = daemon["running"] or {}
    done = [row for row in ledger.finished_since(watch.inbox, now - MONTH_S) if row.state == "done"]
    waits, unused = read_waiting(config, ledger, state)
    quarantined = Quarantine.of(watch).files()
    return {
        **daemon,
        "claimed": len(claimed),
        "begun": [{"id": row.id, "path": str(row.path)} for row in claimed if row.id != running.get("id")],
        "waits": [{"path": one.path, "reason": one.reason, "first": one.first} for one in waits],
        "eta_s": round(sum(one.seconds for one in waits)),
        "unused": [{"path": one.path, "reason": one.reason} for one in unused],
        "done": len(done),
        "throughput_per_hour": sum((row.ended or 0.0) >= now - HOUR_S for row in done),
        "quarantined": [
            {
                "id": one.id,
                "path": one.report["path"],
                "error": shortened(str(one.report.get("error", "")), MAX_ERROR),
                "next_step": shortened(str(one.report.get("next_step", "")), MAX_ERROR),
                "cancelled": one.report.get("cancelled") is True,
            }
            for one in quarantined
        ],
    }


def read_daemon_status(config: Config, state: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return what is known of a daemon itself; `state` is the last that it wrote.

    `alive` says whether a process holds the inbox now, or gave a heartbeat just now while the inbox is
    away, and its lock with it. `paused` is a fault of the machine, and `paused_by_user` when someone paused
    it, which outlives the process. Times are in seconds, and those of the day as `time()` has them.
    """
    owner = Owner(config.watch.inbox, Disk())
    unseen = not os.path.lexists(owner.lock_path)
    alive = abs(now - state.get("beat", 0.0)) < RECENT_S if unseen else owner.is_held()
    return {
        "inbox": str(config.watch.inbox),
        "alive": alive,
        "holder": (owner.holder() or _holder(state)) if alive else {},
        "since": state.get("since") if alive else None,
        "last_beat_s": round(now - state["beat"], 1) if "beat" in state else None,
        "encoder": state.get("encoder", ""),
        "device": state.get("device", ""),
        "watching": state.get("watching"),
        "paused": state.get("paused", "") if alive else "",
        "paused_by_user": Control(config.watch.inbox).paused_since(),
        "waiting": state.get("waiting", 0) if alive else None,
        "settling": state.get("settling", 0) if alive else None,
        "running": state.get("running") if alive else None,
    }


@dataclass(frozen=True)
class Wait:
    """A file of the inbox and why it waits. `seconds` is what its pictures will take; 0 if unknown.

    `first`: someone put it before the others.
    """

    path: str
    reason: str
    seconds: float = 0.0
    first: bool = False


def read_waiting(config: Config, ledger: Ledger, state: Mapping[str, Any]) -> tuple[list[Wait], list[Wait]]:
    """Return what waits, in the order of paths after what was put first, and styles that are not used.

    `state` is the last that a daemon wrote.
    """
    watch, disk = config.watch, Disk()
    try:
        scan = scan_inbox(watch.inbox, disk, config.ignore)
    except DiskError:
        return [], []  # the rows of the daemon say why
    library = style_paths(scan.styles, set(scan.styles), watch.inbox)
    waits: list[Wait] = []
    markers = Markers(watch.inbox, disk)
    broken, beat_s, router = state.get("broken", {}), state.get("beat", math.inf), Router(config, {})
    settle_s, speeds = watch.settle_s or default_settle_s(watch.inbox), Speeds(ledger)
    requests = Control(watch.inbox).requests()

    @cache  # many pictures lie in one folder, and it alone decides what they ask for
    def asked(folder: Path) -> Waiting | float:
        plan = router.plan(folder / "picture", library)
        return plan if isinstance(plan, Waiting) else _seconds(plan, speeds, state)

    for seen in scan.files:
        if scan.markers and markers.is_done(seen.relative):
            continue
        name = str(seen.relative)
        asked_for = {one.kind for one in requests if one.is_about(seen.relative, "", seen.identity.inode)}
        wait = 0.0 if router.is_manifest(seen.relative) else asked(seen.relative.parent)
        is_unchanged = seen.identity.ctime_ns / 1e9 <= beat_s
        reason, seconds = broken.get(name, "") if is_unchanged else "", 0.0
        if "cancel" in asked_for:
            reason = CANCELLED
        elif isinstance(wait, Waiting):
            reason = reason or wait.reason
        elif not reason:
            reason, seconds = "to settle" if _age_s(seen) < settle_s else ITS_TURN, wait
        waits.append(Wait(name, reason, seconds, "first" in asked_for))
    order = [one.path for one in requests if one.kind == "first"]
    waits.sort(key=lambda one: order.index(one.path) if one.first else len(order))
    return waits, [Wait(str(path), reason) for path, reason in unused_styles(scan.styles)]


def _seconds(plan: Plan, speeds: Speeds, state: Mapping[str, Any]) -> float:
    encoder = plan.recipe.encoder
    encoder = state.get("encoder") or "vgg19-slim" if encoder == "auto" else encoder
    return len(plan.styles) * speeds.seconds(plan.recipe, encoder)


def _age_s(seen: Seen) -> float:
    return abs(time.time() - seen.identity.ctime_ns / 1e9)


def _holder(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: state[key] for key in ("pid", "host") if key in state}


def examine_daemon(config: Config, ledger: Ledger) -> list[Check]:
    """Check that a daemon runs, gives heartbeats, sees events, and has free space."""
    status = read_daemon_status(config, ledger.read_daemon(config.watch.inbox), time.time())
    age = status["last_beat_s"]
    pause = status["paused"] or ("none" if status["paused_by_user"] is None else "by a user")
    checks = [
        Check("daemon", "is running" if status["alive"] else "nobody watches the inbox", status["alive"]),
        Check(
            "heartbeat", f"{age} s ago" if age is not None else "none yet", age is not None and age < LATE_S
        ),
        Check("events", EVENTS[status["watching"]], status["watching"] is not False),
        Check("pause", pause, not status["paused"]),
    ]
    free_needed = config.watch.min_free_mb << 20
    folders = (config.watch.inbox, config.outbox, config.state_dir)
    return [*checks, *(_free_space(folder, free_needed) for folder in folders)]


def _free_space(folder: Path, needed: int) -> Check:
    try:
        return Check("disk", f"{folder}: {Disk().require_free(folder, needed) >> 20} MB free")
    except DiskError as error:
        return Check("disk", str(error), ok=False)


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """Return a status as lines for people, each with a label."""
    rows = [("inbox", status["inbox"]), *_daemon_rows(status), *_waiting_rows(status)]
    rows += [("unused", f"{one['path']}: {one['reason']}") for one in status["unused"]]
    done, lately = status["done"], status["throughput_per_hour"]
    rows.append(("done", f"{done} in the last 30 days, {lately} in the last hour"))
    rows.append(("quarantined", str(len(status["quarantined"]))))
    for one in status["quarantined"]:
        error = one["error"].removeprefix(f"{Path(status['inbox'], one['path'])}: ")
        rows.append(("", f"{one['id']}  {one['path']}: {error}"))
    return [f"{label:<{LABEL_WIDTH}}{text}" for label, text in rows]


def _daemon_rows(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if status["alive"]:
        up = duration(time.time() - status["since"]) if status["since"] else "a moment"
        where = f" ({status['encoder']} on {status['device']})" if status["device"] else ""
        yield "daemon", f"running for {up}, process {status['holder'].get('pid')}{where}"
        yield "queue", f"{status['waiting']} waiting, {status['settling']} settling"
    else:
        claimed = status["claimed"]
        begun = f"; {counted(claimed, 'file')} begun, to be resumed when it starts" if claimed else ""
        yield "daemon", f"not running{begun}"
    if (since := status["paused_by_user"]) is not None:
        ago = duration(max(0.0, time.time() - since))
        yield "paused", f"by a user, {ago} ago; `style-pipeline resume` ends the pause"
    if status["paused"]:
        yield "paused", status["paused"]
    if run := status["running"]:
        left = f", about {duration(run['left_s'])} left" if "left_s" in run else ""
        tile = f", tile {run['tile']} of {run['tiles']}" if run.get("tiles") else ""
        yield "running", f"{run['name']}, step {run['step']} of {run['steps']}{tile}{left}"
    for one in status["begun"][:MAX_LISTED]:
        yield "begun", f"{one['path']}, to be resumed"


def _waiting_rows(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name what waits in the inbox, those that wait for something first."""
    waits = sorted(status["waits"], key=lambda one: bool(one["reason"] == ITS_TURN))
    if not waits:
        return
    eta = f", about {duration(status['eta_s'])} of work" if status["eta_s"] else ""
    yield "waits", f"{counted(len(waits), 'file')}{eta}"
    for one in waits[:MAX_LISTED]:
        yield "", f"{one['path']}: {one['reason']}{', first' if one['first'] else ''}"
    if len(waits) > MAX_LISTED:
        yield "", f"and {len(waits) - MAX_LISTED} more"
