"""What processes take: as /proc says it, in a folder, and of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.transfer import usage
from pipeline.transfer.usage import address_limit, others_bytes, own_bytes, used_addresses

PAGE = os.sysconf("SC_PAGE_SIZE")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def process(system: Path, pid: int | str, size: int, resident: int, *children: str) -> None:
    folder = system / "proc" / str(pid)
    for number, text in enumerate(children):
        task = folder / f"task/{number}"
        task.mkdir(parents=True)
        (task / "children").write_text(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "statm").write_text(f"{size} {resident + 3} 3 1 0 2 0\n")


def test_pages_are_counted_in_bytes(tmp_path):
    process(tmp_path, "self", 100, 40)
    process(tmp_path, 7, 100, 5)
    assert own_bytes(system=tmp_path) == 40 * PAGE
    assert own_bytes(7, tmp_path) == 5 * PAGE
    assert own_bytes(8, tmp_path) == 0  # it has ended
    assert own_bytes(system=tmp_path / "no-linux") == 0
    assert used_addresses(tmp_path) == 100 * PAGE
    assert used_addresses(tmp_path / "no-linux") == 0


def test_a_limit_of_addresses_is_that_of_the_process(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = {resource.RLIMIT_AS: (resource.RLIM_INFINITY, 9)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert address_limit() is None
    limits[resource.RLIMIT_AS] = (5, 9)
    assert address_limit() == 5
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert address_limit() is None


@pytest.mark.parametrize("is_worker", [False, True])
def test_the_others_are_who_started_this_process_and_whom_that_started(tmp_path, monkeypatch, is_worker):
    """Children are those of every thread; who has ended meanwhile takes nothing."""
    me = os.getpid()
    root, other = (1, me) if is_worker else (me, 1)
    process(tmp_path, root, 0, 10, f"{other} 2 ", "3 ", "")
    for pid, resident in ((other, 20), (2, 30)):
        process(tmp_path, pid, 0, resident)
    parent = SimpleNamespace(pid=root) if is_worker else None
    monkeypatch.setattr(usage.multiprocessing, "parent_process", lambda: parent)
    assert others_bytes(tmp_path) == ((10 if is_worker else 20) + 30) * PAGE


@linux
def test_a_real_child_is_counted():
    assert own_bytes() > 10 << 20
    code = "import sys; data = b'x' * (64 << 20); print('ready', flush=True); sys.stdin.read()"
    before = others_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        taken = own_bytes(child.pid)
        assert taken > 64 << 20
        if list(Path("/proc/self/task").glob("*/children")):  # a kernel may be built without
            assert others_bytes() >= before + (64 << 20)
        child.communicate()
