from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import put

from pipeline.watch.system import (
    NETWORK_FILE_SYSTEMS,
    file_system_type,
    is_being_written,
    is_network_file_system,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="leases and mountinfo are Linux'")


@linux
class TestWriters:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = put(tmp_path / "a.png")
        descriptor = os.open(path, os.O_WRONLY)
        try:
            if not is_being_written(path):
                pytest.skip("no leases on this file system")
        finally:
            os.close(descriptor)
        return path

    @pytest.fixture
    def writer(self, path: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Another process that has the file open until it reads something."""
        code = f"""
f = open({str(path)!r}, "ab")
print(flush=True)
input()
f.close()
print(flush=True)
input()
"""
        with subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            yield process
            process.kill()

    def test_another_process_is_noticed_until_it_closes(
        self, path: Path, writer: subprocess.Popen[bytes]
    ) -> None:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        assert is_being_written(path)
        assert is_being_written(path), "to ask changes nothing"
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        writer.stdout.readline()
        assert not is_being_written(path)

    @pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
    def test_every_way_of_writing(self, path: Path, flags: int) -> None:
        descriptor = os.open(path, flags)
        assert is_being_written(path)
        os.close(descriptor)
        assert not is_being_written(path)

    def test_readers_are_no_writers(self, path: Path) -> None:
        with path.open("rb"):
            assert not is_being_written(path)

    def test_nothing_stays_behind(self, path: Path) -> None:
        """Neither descriptors nor a lease, which would refuse the writer that will not wait."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10_000):
            is_being_written(path)
        with path.open("ab"):
            for _ in range(1000):
                is_being_written(path)
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    def test_a_lease_for_writing_is_a_writer(self, path: Path) -> None:
        """As file servers hold for their clients. The question breaks it, with a signal to its holder."""
        code = f"""
import fcntl, os, signal
signal.signal(signal.SIGIO, lambda number, frame: None)
f = open({str(path)!r}, "r+b")
fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(flush=True)
input()
"""
        with subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert is_being_written(path)
            holder.kill()

    def test_a_writer_that_comes_during_the_lease_ends_nobody(self, path: Path) -> None:
        """The kernel sends a signal then, to whichever thread would take it."""
        code = f"""
import fcntl, os, signal, threading
from pathlib import Path
from pipeline.watch.system import is_being_written

real, refused = fcntl.fcntl, []

def intruding(descriptor, command, argument=0):
    result = real(descriptor, command, argument)
    if command == fcntl.F_SETLEASE and argument == fcntl.F_RDLCK:
        try:
            os.close(os.open({str(path)!r}, os.O_WRONLY | os.O_NONBLOCK))
        except BlockingIOError:
            refused.append(True)
    return result

fcntl.fcntl = intruding
stop = threading.Event()
idle = threading.Thread(target=stop.wait)  # blocks no signals
idle.start()
answers = [is_being_written(Path({str(path)!r})) for _ in range(20)]
stop.set()
idle.join()
assert answers == [False] * 20, answers
assert len(refused) == 20, "the lease was not there"
assert not signal.sigpending()
os.close(os.open({str(path)!r}, os.O_WRONLY | os.O_NONBLOCK))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    def test_what_cannot_be_asked_is_not_being_written(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(path)
        os.mkfifo(tmp_path / "fifo")
        with path.open("ab"):
            assert not is_being_written(tmp_path / "link")
        for name in ("fifo", "missing", "."):
            assert not is_being_written(tmp_path / name)

    @pytest.mark.parametrize("number", [13, 22, 38])
    def test_a_lease_that_is_refused_says_nothing(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        import fcntl

        def refuse(*arguments: object) -> int:
            raise OSError(number, os.strerror(number))

        before = len(os.listdir("/proc/self/fd"))
        with path.open("ab"):
            monkeypatch.setattr(fcntl, "fcntl", refuse)
            assert not is_being_written(path)
        assert len(os.listdir("/proc/self/fd")) == before


def test_elsewhere_writers_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.png")
    monkeypatch.setattr(sys, "platform", "darwin")
    with path.open("ab"):
        assert not is_being_written(path)


MOUNTS = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
40 21 0:50 / /mnt/share rw,relatime shared:20 master:3 - nfs4 server:/export rw,addr=10.0.0.1
41 40 8:2 / /mnt/share/local rw - xfs /dev/sdb1 rw
42 21 0:51 / /mnt/my\040photos\134\011x rw - cifs //nas/my\040photos rw
43 21 0:52 / /mnt/twice rw - ext4 /dev/sdc1 rw
44 43 0:53 / /mnt/twice rw - fuse.sshfs me@there: rw
45 21 0:54 / /mnt/none rw - tmpfs - - tmpfs rw
46 21 8:3 /sub - dir /odd rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/me/inbox", "ext4"),
        ("/", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/inbox/deep", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/share/local/inbox", "xfs"),
        ("/mnt/my photos\\\tx/inbox", "cifs"),
        ("/mnt/twice/inbox", "fuse.sshfs"),
        ("/mnt/none", "tmpfs"),
    ],
)
def test_the_file_system_of_a_path(path: str, expected: str) -> None:
    assert file_system_type(Path(path), MOUNTS) == expected


@pytest.mark.parametrize(
    "text", ["", "\n\n", "nonsense", "1 2 3 - ext4", "1 2 3:4 / /elsewhere rw - ext4 a rw"]
)
def test_no_file_system_is_known(text: str) -> None:
    assert file_system_type(Path("/home"), text) == ""


def test_which_file_systems_are_on_the_network() -> None:
    assert {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.rclone"} <= NETWORK_FILE_SYSTEMS
    assert (
        not {"ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "vfat", "fuse", ""} & NETWORK_FILE_SYSTEMS
    )


@linux
def test_proc_is_no_network() -> None:
    assert not is_network_file_system(Path("/proc/self"))


@linux
def test_a_share_is_known_by_its_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share"
    (share / "inbox").mkdir(parents=True)
    (tmp_path / "link").symlink_to(share / "inbox")
    lines = f"1 0 8:1 / / rw - ext4 a rw\n2 1 0:9 / {share} rw - cifs b rw\n".encode()
    monkeypatch.setattr(Path, "read_bytes", lambda self: lines)
    assert is_network_file_system(share / "inbox")
    assert is_network_file_system(tmp_path / "link")
    assert not is_network_file_system(tmp_path)
