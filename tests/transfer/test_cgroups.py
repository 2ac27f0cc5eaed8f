"""Control groups as systemd, Slurm, containers and old kernels lay them out, in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.transfer.cgroups import memory_left

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
OTHERS = (
    "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw"
)
UNLIMITED = str((1 << 63) - 4096)

Limits = Mapping[str, tuple[str, int, int]]


def machine(folder: Path, own: str, mount: str) -> Path:
    proc = folder / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(own)
    (proc / "mountinfo").write_text(f"{OTHERS}\n{mount}\n")
    return folder


def write_groups(folder: Path, names: tuple[str, str, str], limits: Limits) -> None:
    """Write each group's limit, its usage, and how much of that is page cache that can be reclaimed."""
    for group, (limit, used, inactive) in limits.items():
        place = folder / group
        place.mkdir(parents=True, exist_ok=True)
        (place / names[0]).write_text(f"{limit}\n")
        (place / names[1]).write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 12\n{names[2]} {inactive}\nfile 7\n")


def with_version_2(folder: Path, group: str, limits: Limits, root: str = "/") -> Path:
    names = ("memory.max", "memory.current", "inactive_file")
    write_groups(folder / "sys/fs/cgroup", names, limits)
    return machine(folder, f"0::{group}\n", V2.format(root=root))


def with_version_1(folder: Path, group: str, limits: Limits, root: str = "/") -> Path:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    write_groups(folder / "sys/fs/cgroup/memory", names, limits)
    return machine(folder, f"5:cpu,cpuacct:/other\n4:memory:{group}\n0::/\n", V1.format(root=root))


@pytest.mark.parametrize(
    ("limit", "used", "inactive", "left"),
    [("max", 5, 0, None), ("1000", 600, 0, 400), ("1000", 950, 300, 350), ("1000", 1200, 0, 0)],
)
def test_the_group_at_the_top_as_a_container_sees_its_own(tmp_path, limit, used, inactive, left):
    assert memory_left(with_version_2(tmp_path, "/", {"": (limit, used, inactive)})) == left


def test_a_unit_of_systemd_is_in_a_group_below_the_top(tmp_path):
    unit = "system.slice/style-pipeline.watch.service"
    assert memory_left(with_version_2(tmp_path, f"/{unit}", {unit: ("1000", 100, 0)})) == 900


def test_a_limit_that_slows_down_counts_as_one_that_kills(tmp_path):
    system = with_version_2(tmp_path, "/user.slice", {"user.slice": ("1000", 100, 0)})
    (system / "sys/fs/cgroup/user.slice/memory.high").write_text("500\n")
    assert memory_left(system) == 400


@pytest.mark.parametrize("lay", [with_version_1, with_version_2])
def test_the_least_that_any_group_above_leaves_counts(lay, tmp_path):
    """Such as Slurm's: a job, its step, its task; the job's others use of its limit, too."""
    limits = {"job": ("3000", 2900, 0), "job/step": ("2000", 500, 0), "job/step/task": ("900", 500, 0)}
    assert memory_left(lay(tmp_path, "/job/step/task", limits)) == 100


def test_version_1_says_no_limit_with_a_number(tmp_path):
    limits = {"": (UNLIMITED, 5, 0), "docker": (UNLIMITED, 5, 0)}
    assert memory_left(with_version_1(tmp_path, "/docker", limits)) is None
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("1000\n")
    assert memory_left(tmp_path) == 995


@pytest.mark.parametrize("lay", [with_version_1, with_version_2])
@pytest.mark.parametrize(
    ("own", "root"),
    [("/docker/1f", "/docker/1f"), ("/docker/1f/inner", "/docker/1f"), ("/../other", "/"), ("/gone", "/")],
)
def test_a_group_is_found_below_what_is_mounted(lay, own, root, tmp_path):
    limits = {"": ("1000", 100, 0), "inner": ("2000", 100, 0)}
    assert memory_left(lay(tmp_path, own, limits, root)) == 900


def test_a_mount_with_a_space_in_its_name(tmp_path):
    write_groups(
        tmp_path / "my groups/a", ("memory.max", "memory.current", "inactive_file"), {"": ("9", 2, 0)}
    )
    mount = "30 23 0:26 / /my\\040groups rw - cgroup2 cgroup2 rw"
    assert memory_left(machine(tmp_path, "0::/a\n", mount)) == 7


def test_without_groups_there_is_no_limit(tmp_path):
    assert memory_left(tmp_path) is None
    assert memory_left(machine(tmp_path, "", "")) is None


def test_groups_without_files_or_with_strange_ones_are_passed_over(tmp_path):
    system = with_version_2(tmp_path, "/a/b", {"a": ("1000", 100, 0)})
    (system / "sys/fs/cgroup/a/b").mkdir()
    (system / "sys/fs/cgroup/a/b/memory.max").write_text("plenty\n")
    assert memory_left(system) == 900
