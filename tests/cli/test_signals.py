from __future__ import annotations

import signal

import pytest

from pipeline.cli.signals import reload_signal, stop_signal

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
def test_the_first_is_noted_and_the_second_is_the_systems(number) -> None:
    before = [signal.getsignal(each) for each in BOTH]
    notified: list[None] = []
    with stop_signal(lambda: notified.append(None)) as received:
        assert received == []
        signal.raise_signal(number)
        assert (received, len(notified)) == ([number], 1)
        assert [signal.getsignal(each) for each in BOTH] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(each) for each in BOTH] == before


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stop_signal(lambda: None):
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


if hasattr(signal, "SIGHUP"):

    def test_a_terminal_that_closes_stops_a_run_however_often_it_says_so() -> None:
        before = signal.getsignal(signal.SIGHUP)
        with stop_signal(lambda: None, with_hang_up=True) as received:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert received == [signal.SIGHUP]
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == before

    def test_a_hang_up_that_was_ignored_stays_so() -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with stop_signal(lambda: None, with_hang_up=True) as received:
                signal.raise_signal(signal.SIGHUP)
                assert received == []
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_a_hang_up_is_answered_once_and_when_asked_for() -> None:
        before = signal.getsignal(signal.SIGHUP)
        woken: list[None] = []
        reads = iter(["first", "second"])
        with reload_signal(lambda: woken.append(None), lambda: next(reads)) as reread:
            assert reread() is None
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert len(woken) == 2
            assert [reread(), reread()] == ["first", None]
            signal.raise_signal(signal.SIGHUP)
            assert reread() == "second"
        assert signal.getsignal(signal.SIGHUP) == before

    def test_a_hang_up_is_not_forgotten_when_the_disk_is_away() -> None:
        answers = iter([OSError(116, "Stale file handle"), "read"])

        def read() -> str:
            answer = next(answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

        with reload_signal(lambda: None, read) as reread:
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(OSError, match="Stale"):
                reread()
            assert [reread(), reread()] == ["read", None]


def test_without_hang_ups_nothing_is_ever_read_again(monkeypatch) -> None:
    """Windows has none."""
    monkeypatch.delattr(signal, "SIGHUP", raising=False)
    with reload_signal(lambda: None, lambda: pytest.fail("it was read")) as reread:
        assert reread() is None
