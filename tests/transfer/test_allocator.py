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
FEW = """
import ctypes, os
from pipeline.transfer.allocator import keep_few_addresses
from pipeline.transfer.usage import used_addresses

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
keep_few_addresses()

def held(freed):
    before = used_addresses()
    blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(MB << 20))) for MB in (20, 10)]
    if freed:
        libc.free(blocks[0])
    return used_addresses() - before >> 20

names = "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
print(held(freed=False), held(freed=True), *map(os.environ.get, names))
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


@pytest.mark.skipif(GLIBC is None or sys.platform != "linux", reason="what is asked for is of glibc")
def test_freed_addresses_can_be_used_again_and_less_code_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "99")  # the user's word counts
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    run = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["30", "10", "99", "16"]


def test_with_another_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(allocator.os, "confstr", unknown, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    allocator.keep_freed_memory()
    allocator.keep_few_addresses()
    allocator.release_freed_memory()
