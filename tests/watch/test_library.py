from __future__ import annotations

from pathlib import Path

import pytest
from watching import put

from pipeline.storage.files import Disk
from pipeline.watch import library
from pipeline.watch.inbox import Identity, Seen, scan_inbox
from pipeline.watch.library import StyleLibrary, style_paths, unused_styles
from pipeline.watch.settling import OBSERVATIONS, Settling


def seen(name: str) -> Seen:
    return Seen(Path("styles", name), Identity(1, 2, 3, 4, 5))


def settled(inbox: Path, *names: str) -> StyleLibrary:
    """A library with these files, all of which have settled."""
    for name in names:
        put(inbox / "styles" / name)
    now = [0.0]
    found = StyleLibrary(inbox, Settling(lambda: now[0], settle_s=1, settle_max_s=60))
    for _ in range(OBSERVATIONS):
        found.observe(scan_inbox(inbox, Disk()).styles)
        now[0] += 1
    return found


def test_pictures_are_named_by_their_stems() -> None:
    files = [seen(name) for name in ("monet.jpg", "monet.png", "the scream.tar.png", "klee", "new.png")]
    assert style_paths(files, files[:4], Path("/inbox")) == {
        "monet": Path("/inbox/styles/monet.jpg"),
        "the scream.tar": Path("/inbox/styles/the scream.tar.png"),
        "klee": Path("/inbox/styles/klee"),
        "new": None,
    }


def test_of_two_styles_with_one_name_the_second_is_not_used() -> None:
    ((path, reason),) = unused_styles([seen("monet.jpg"), seen("klee.jpg"), seen("monet.png")])
    assert path == Path("styles/monet.png")
    assert "monet.jpg has the same name" in reason


def test_a_style_counts_once_it_was_checked(inbox: Path) -> None:
    styles = settled(inbox, "a.png", "b.png")
    assert styles.paths == {"a": None, "b": None}
    good, bad = styles.unchecked()
    styles.note_check(good, "")
    styles.note_check(bad, "no picture")
    assert styles.unchecked() == []
    assert styles.paths == {"a": inbox / "styles/a.png"}
    assert styles.known == {"a", "b"}


def test_a_style_that_changed_is_not_current(inbox: Path) -> None:
    styles = settled(inbox, "a.png")
    path = inbox / "styles" / "a.png"
    assert not styles.is_current(path)
    styles.note_check(styles.unchecked()[0], "")
    assert styles.is_current(path)
    path.write_bytes(b"another picture")
    assert not styles.is_current(path)
    path.unlink()
    assert not styles.is_current(path)


def test_what_was_not_checked_as_it_is_now_is_known(inbox: Path) -> None:
    styles = settled(inbox, "a.png", "b.png")
    a, b, other = (inbox / "styles" / name for name in ("a.png", "b.png", "never/seen.png"))
    assert styles.unchecked_among([b, other, a]) == [a, b]
    for one in styles.unchecked():
        styles.note_check(one, "no picture")
    assert styles.unchecked_among([a, b]) == []
    a.write_bytes(b"another picture")
    assert styles.unchecked_among([a, b]) == [a]


def test_paths_are_worked_out_once_however_many_styles_are_checked(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [], library.style_paths

    def counted(*arguments: object) -> object:
        read.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(library, "style_paths", counted)
    styles = settled(inbox, *(f"{number}.png" for number in range(20)))
    for number, one in enumerate(styles.unchecked()):
        styles.note_check(one, "" if number else "no picture")
    assert sum(path is not None for path in styles.paths.values()) == 19
    assert len(styles.paths) == 19
    assert len(read) == 1
