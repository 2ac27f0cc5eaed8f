"""How much memory control groups leave to a process: the limits of systemd, Slurm and containers on Linux.

A process is in one group of each hierarchy, and every group above it may have a limit too: the lowest holds.
See cgroups(7) and proc_pid_mountinfo(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..storage.system import mount_field

# Numbers from here on mean no limit: version 1 writes the largest multiple of the page size.
NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class _Files:
    """A version's files of limits and usage, and its statistic of memory that can be reclaimed."""

    limits: tuple[str, ...]
    used: str
    reclaimable: str


_VERSION_1 = _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
# Above `high` a process is not killed but throttled until it stands still.
_VERSION_2 = _Files(("memory.max", "memory.high"), "memory.current", "inactive_file")


def memory_left(system: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still allocate, or None if no group limits it."""
    left = [bytes_ for folder, files in _groups(system) if (bytes_ := _left(folder, files)) is not None]
    return min(left, default=None)


def _groups(system: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield the folders of the groups that the process is in, and of all groups above them."""
    try:
        own = (system / "proc/self/cgroup").read_text().splitlines()
        mounts = (system / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    for mount in mounts:
        files, controller = _version(mount)
        if files is None:
            continue
        root, point = (mount_field(field) for field in mount.split()[3:5])
        for line in own:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                top = system / point.lstrip("/")
                folder = top / _below(path, root)
                yield from ((each, files) for each in (folder, *folder.parents) if each.is_relative_to(top))


def _version(mount: str) -> tuple[_Files | None, str]:
    """Return the files and the controller of a hierarchy that limits memory, given its line of mountinfo."""
    kind, _, source_and_options = mount.partition(" - ")[2].partition(" ")
    if kind == "cgroup2":
        return _VERSION_2, ""
    if kind == "cgroup" and "memory" in source_and_options.rpartition(" ")[2].split(","):
        return _VERSION_1, "memory"
    return None, ""


def _below(path: str, root: str) -> str:
    """Return a group's path below the root of the mount; a group outside counts as the root."""
    inside = path == root or path.startswith(f"{root.rstrip('/')}/")
    return path.removeprefix(root).lstrip("/") if inside and ".." not in path.split("/") else ""


def _left(folder: Path, files: _Files) -> int | None:
    try:
        texts = [(folder / name).read_text().strip() for name in files.limits if (folder / name).exists()]
        limits = [int(text) for text in texts if text != "max" and int(text) < NO_LIMIT]
        if not limits:
            return None
        used = int((folder / files.used).read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # the root group has no such files
        return None
    statistics = dict(line.split(" ", 1) for line in lines)
    # The usage includes the page cache, which is reclaimed on demand.
    return max(0, min(limits) - used + int(statistics.get(files.reclaimable, 0)))
