"""What the system says about files: who writes to them, and on what kind of disk they are."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ..storage.system import mount_field

_NETWORK = """
    9p acfs afs beegfs ceph cifs coda davfs drvfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs
    prl_fs pvfs2 smb3 smbfs vboxsf virtiofs vmhgfs
"""
_NETWORK_FUSE = """
    beegfs ceph curlftpfs davfs davfs2 glusterfs goofys grpcfuse gvfs-fuse-daemon gvfsd-fuse osxfs rclone
    s3fs sshfs vmhgfs-fuse
"""
NETWORK_FILE_SYSTEMS = frozenset([*_NETWORK.split(), *(f"fuse.{name}" for name in _NETWORK_FUSE.split())])


def is_being_written(path: Path) -> bool:
    """Tell whether some process has a file open for writing. False also where the system cannot tell.

    On Linux, the owner of a file on a local file system can tell: the kernel grants a read lease if nobody
    writes. A program that opens the file in the microseconds of the lease waits until the lease ends.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except BlockingIOError:
        return True  # another holds a lease for writing: a file server, for its client
    except OSError:
        return False
    try:
        # The kernel announces a waiting writer by SIGIO, which ends a process, and blocking it here would
        # leave it to our other threads. SIGURG does nothing unless it is asked for.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # not ours, or a file system without leases
    finally:
        os.close(descriptor)
    return False


def is_network_file_system(path: Path) -> bool:
    """Tell whether other machines may change this folder without an event here. Only Linux can tell."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.is_file():
        return False
    return file_system_type(path.resolve(), os.fsdecode(mounts.read_bytes())) in NETWORK_FILE_SYSTEMS


def file_system_type(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that an absolute path is on, from Linux' mountinfo; "" if none."""
    best, longest = "", -1
    for line in mountinfo.split("\n"):
        mount, separator, source = line.partition(" - ")
        fields = mount.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(mount_field(fields[4]))
        # Of two mounts on one folder, the later one is seen.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            best, longest = source.split(" ")[0], len(point.parts)
    return best
