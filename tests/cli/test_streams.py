from __future__ import annotations

import errno
import io

import pytest

from pipeline.cli.streams import LossyWriter, encoded, guarded, write_error


class Disk(io.BytesIO):
    """Takes so many bytes, then refuses until there is space again."""

    space = 100

    def write(self, data) -> int:
        taken = min(self.space, len(data))
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.space -= taken
        return super().write(bytes(data[:taken]))


def test_what_is_refused_is_dropped_and_a_line_cut_off_is_ended() -> None:
    disk = Disk()
    outlet = LossyWriter(disk)
    outlet.write(b"first\n")
    disk.space = 3
    assert outlet.write(b"second\n") == 7
    assert outlet.write(b"third\n") == 6
    assert outlet.error is not None
    assert outlet.error.errno == errno.ENOSPC
    disk.space = 100
    outlet.write(b"fourth\n")
    outlet.write(b"fifth\n")
    assert disk.getvalue() == b"first\nsec\nfourth\nfifth\n"


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_guarded_stream_raises_nothing_and_says_what_is_lost(number: int) -> None:
    class Refusing(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            raise OSError(number, "refused")

    before = io.TextIOWrapper(io.BufferedWriter(Refusing()))
    out = guarded(before, 1)
    assert write_error(out) is None
    out.write("lost\n")
    out.flush()
    # A reader that went away does not wait for it.
    assert (write_error(out) is not None) == (number == errno.ENOSPC)
    before.flush()  # nothing is left in it to be written at the end


def test_what_an_encoding_lacks_is_written_as_escapes() -> None:
    disk = io.BytesIO()
    before = io.TextIOWrapper(io.BufferedWriter(disk), "cp1252")
    guarded(before, 1).write("Übung 字 caf\udce9\n")
    assert disk.getvalue().decode("cp1252") == "Übung \\u5b57 caf\\udce9\n"
    assert encoded("Ü字", before) == b"\xdc\\u5b57"
    assert encoded("Ü", None) == "Ü".encode()


def test_what_comes_after_what_was_written_before_stays_after_it() -> None:
    disk = io.BytesIO()
    before = io.TextIOWrapper(io.BufferedWriter(disk))
    before.write("first\n")
    guarded(before, 1).write("second\n")
    assert disk.getvalue() == b"first\nsecond\n"
