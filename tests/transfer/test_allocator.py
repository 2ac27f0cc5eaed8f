from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.transfer import allocator

KEPT = """
import ctypes, threading
from pipeline.transfer.allocator import keep_freed_memory

class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2
libc.malloc.restype = ctypes.c_void_p
keep_freed_memory()

def work():
    before = libc.mallinfo2().hblks
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(SIZE)))
    mapped = libc.mallinfo2().hblks - before
    libc.free(block)
    print(mapped, libc.mallinfo2().fordblks, libc.mallinfo2().arena)

SIZE = 100 << 20  # more than glibc keeps by default
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
GLIBC = allocator._glibc()


@pytest.mark.skipif(not hasattr(GLIBC, "mallinfo2"), reason="what is asked for is of glibc, since 2.33")
def test_freed_memory_stays_with_the_process_in_every_thread() -> None:
    run = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    (mapped, kept, heap), (mapped_later, kept_later, heap_later) = (
        map(int, line.split()) for line in run.stdout.splitlines()
    )
    assert (mapped, mapped_later) == (0, 0)
    assert min(kept, kept_later) >= 100 << 20
    assert heap_later - heap < 10 << 20  # the thread was given what had been freed


def test_with_another_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(allocator.os, "confstr", unknown, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    allocator.keep_freed_memory()
    allocator.release_freed_memory()
