from __future__ import annotations

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claimed import (
    ID,
    ODD_NAMES,
    OTHER,
    REPORT,
    Killed,
    across_file_systems,
    below,
    drop,
    files,
    make_claims,
    quarantine_of,
    taken,
    with_disk,
)
from disks import Points, When, deep_folders, failing
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import DiskError, JobError
from pipeline.storage.files import TEMPORARY_PREFIX, Disk
from pipeline.watch.claims import Claim, Claims, new_id
from pipeline.watch.inbox import scan_inbox
from pipeline.watch.markers import marker_path

pytestmark = pytest.mark.usefixtures("no_sync")


# Taking


@pytest.mark.parametrize("name", ["a.png", "style/a.png", "a/b/c.png"])
def test_a_file_is_taken_with_its_path(claims: Claims, name: str) -> None:
    claim = taken(claims, name)
    assert (claim.id, claim.relative) == (ID, Path(name))
    assert claim.path == claims.claimed_folder / ID / name
    assert claim.folder == claims.claimed_folder / ID
    assert claim.path.read_bytes() == b"picture"
    assert not (claims.inbox / name).exists()
    assert (claims.inbox / name).parent.is_dir()  # a person's folder is theirs
    assert [path for path in below(claims.claimed_folder) if "." in path] == [f"{ID}/{name}"]


@pytest.mark.parametrize("name", ["gone.png", "gone/a.png"])
def test_another_program_may_be_quicker(claims: Claims, name: str) -> None:
    assert claims.take(Path(name), ID) is None
    assert below(claims.inbox) == {".style-pipeline": None, ".style-pipeline/claimed": None, "styles": None}


def test_someone_else_may_be_quicker_at_the_last_moment(claims: Claims) -> None:
    relative = drop(claims, "sub/a.png")

    def hook(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        if (when, operation) == ("before", "rename"):
            paths[0].unlink()

    assert with_disk(claims, hook).take(relative, ID) is None
    assert below(claims.claimed_folder) == {}


@pytest.mark.parametrize("is_across", [False, True])
def test_a_file_is_taken_although_its_folder_goes_at_that_moment(claims: Claims, is_across: bool) -> None:
    relative = drop(claims, "sub/a.png")
    exdev = across_file_systems(claims.claimed_folder)

    def hook(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        if is_across:
            exdev(when, operation, paths)
        moment = ("before", "unlink") if is_across else ("after", "rename")
        if (when, operation) == moment:
            (claims.inbox / "sub").rename(claims.inbox.parent / "sub")

    claim = with_disk(claims, hook).take(relative, ID)
    assert claim is not None
    assert claim.path.read_bytes() == b"picture"


def test_nothing_is_made_where_the_inbox_was_unmounted(claims: Claims) -> None:
    relative = drop(claims, "a.png")
    claims.inbox.rename(claims.inbox.with_name("away"))
    assert claims.take(relative, ID) is None
    assert not claims.inbox.exists()


def test_of_two_claimers_one_gets_the_file(claims: Claims) -> None:
    relative = drop(claims, "a.png")
    first, second = claims.take(relative, ID), claims.take(relative, OTHER)
    assert first is not None
    assert second is None
    assert below(claims.claimed_folder) == {ID: None, f"{ID}/a.png": b"picture"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_may_not_be_moved_is_no_fault_of_the_machine(claims: Claims, number: int) -> None:
    relative = drop(claims, "sub/a.png")
    refusing = with_disk(claims, failing("rename", number))
    with pytest.raises(JobError, match=r"sub/a\.png: cannot be taken") as caught:
        refusing.take(relative, ID)
    assert not isinstance(caught.value, DiskError)
    assert caught.value.next_step
    assert below(claims.claimed_folder) == {}
    assert (claims.inbox / relative).read_bytes() == b"picture"


def test_a_file_that_may_not_be_read_stays(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be copied to an archive or a quarantine on another file system."""

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pipeline.watch.claims.open_regular", refuse)
    with pytest.raises(JobError, match=r"a\.png: cannot be taken \(Permission denied\)") as caught:
        claims.take(drop(claims, "a.png"), ID)
    assert "Let this program read it" in caught.value.next_step
    assert files(claims.inbox) == Counter([b"picture"])
    assert below(claims.claimed_folder) == {}


@pytest.mark.parametrize("operation", ["mkdir", "rename", "sync_folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_any_other_refusal_is_the_machines(claims: Claims, operation: str, number: int) -> None:
    relative = drop(claims, "sub/a.png")
    with pytest.raises(DiskError, match=str(claims.inbox)):
        with_disk(claims, failing(operation, number)).take(relative, ID)
    assert files(claims.inbox) == Counter([b"picture"])


# Putting back


@pytest.mark.parametrize("name", ["a.png", "a/b/c.png"])
def test_a_file_is_put_back(claims: Claims, name: str) -> None:
    claim = taken(claims, name)
    assert claims.put_back(claim)
    assert (claims.inbox / name).read_bytes() == b"picture"
    assert below(claims.claimed_folder) == {}


def test_a_file_is_put_back_into_a_folder_that_is_gone(claims: Claims) -> None:
    claim = taken(claims, "a/b/c.png")
    (claims.inbox / "a/b").rmdir()
    (claims.inbox / "a").rmdir()
    assert claims.put_back(claim)
    assert (claims.inbox / "a/b/c.png").read_bytes() == b"picture"


@pytest.mark.parametrize("there", ["a.png", "a.png/folder", "sub"])
def test_a_file_is_never_put_back_over_another(claims: Claims, there: str) -> None:
    claim = taken(claims, "sub/a.png" if there == "sub" else "a.png")
    if there == "sub":
        (claims.inbox / "sub").rmdir()
    drop(claims, there, b"another")
    assert not claims.put_back(claim)
    assert claim.path.read_bytes() == b"picture"
    assert (claims.inbox / there).read_bytes() == b"another"


# What was claimed before


def test_what_was_claimed_is_found_by_the_folder_alone(claims: Claims) -> None:
    claims_made = [taken(claims, name, id=id) for id, name in ((OTHER, "b/b.png"), (ID, "a.png"))]
    assert make_claims(claims.inbox.parent).recover() == claims_made[::-1]


def test_nothing_is_pending_in_a_new_inbox(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "inbox", tmp_path / "archive", Disk())
    assert claims.recover() == []
    assert claims.claimed_folder.is_dir()


def test_what_a_killed_process_left_is_removed(claims: Claims) -> None:
    (claims.claimed_folder / "empty/a/b").mkdir(parents=True)
    (claims.claimed_folder / "copying/sub").mkdir(parents=True)
    (claims.claimed_folder / f"copying/sub/{TEMPORARY_PREFIX}0123").write_bytes(b"half a pic")
    claim = taken(claims, "a.png")
    (claim.folder / f"{TEMPORARY_PREFIX}4567").write_bytes(b"half a pic")
    assert claims.recover() == [claim]
    assert below(claims.claimed_folder) == {ID: None, f"{ID}/a.png": b"picture"}


def test_stray_files_and_links_are_left_alone(claims: Claims) -> None:
    (claims.claimed_folder / "stray").write_bytes(b"mine")
    (claims.claimed_folder / "link").symlink_to(claims.inbox)
    drop(claims, "a.png")
    before = below(claims.claimed_folder)
    assert claims.recover() == []
    assert below(claims.claimed_folder) == before


# Archiving


def test_an_original_is_archived_under_its_own_path(claims: Claims) -> None:
    assert claims.archive(taken(claims, "style/a.png")) == claims.archive_folder / "style/a.png"
    assert (claims.archive_folder / "style/a.png").read_bytes() == b"picture"
    assert below(claims.claimed_folder) == {}


def test_nothing_in_the_archive_is_replaced(claims: Claims) -> None:
    places = [claims.archive(taken(claims, "a.png", bytes([n]), id)) for n, id in enumerate((ID, OTHER))]
    places.append(claims.archive(taken(claims, "a.png", b"\2", OTHER)))
    assert [place.relative_to(claims.archive_folder).as_posix() for place in places] == [
        "a.png",
        f"a-{OTHER}.png",
        f"{OTHER}/a.png",
    ]
    assert [place.read_bytes() for place in places] == [b"\0", b"\1", b"\2"]


@pytest.mark.parametrize("name", ["style/a.png", "style/b/a.png"])
def test_a_folder_of_the_archive_may_be_a_file(claims: Claims, name: str) -> None:
    (claims.archive_folder / "style").write_bytes(b"a file")
    assert claims.archive(taken(claims, name)) == claims.archive_folder / ID / "a.png"
    assert (claims.archive_folder / "style").read_bytes() == b"a file"
    assert below(claims.claimed_folder) == {}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_can_be_archived_twice(claims: Claims, name: str) -> None:
    places = {claims.archive(taken(claims, name, b"%d" % n, f"{ID}{n}")) for n in range(3)}
    assert sorted(place.read_bytes() for place in places) == [b"0", b"1", b"2"]
    assert all(claims.archive_folder in place.parents for place in places)


def test_a_long_suffix_can_be_archived_twice(claims: Claims) -> None:
    name = "a." + "x" * 253
    places = [claims.archive(taken(claims, name, b"%d" % n, f"{ID}{n}")) for n in range(3)]
    assert [place.read_bytes() for place in places] == [b"0", b"1", b"2"]


def test_an_archive_where_every_name_is_taken_is_the_machines_fault(claims: Claims) -> None:
    for name in ("a.png", f"a-{ID}.png", f"{ID}/a.png", f"{ID}/original.png"):
        place = claims.archive_folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"theirs")
    claim = taken(claims, "a.png")
    with pytest.raises(DiskError, match="exists already"):
        claims.archive(claim)
    assert claim.path.read_bytes() == b"picture"
    assert files(claims.archive_folder) == Counter({b"theirs": 4})


def test_an_original_is_deleted(claims: Claims) -> None:
    claims.delete(taken(claims, "sub/a.png"))
    assert files(claims.inbox.parent) == Counter()
    assert below(claims.claimed_folder) == {}


# Leaving


@pytest.mark.parametrize("name", [*ODD_NAMES, "sub/a.png"])
def test_an_original_is_left_with_a_marker(claims: Claims, name: str) -> None:
    claim = taken(claims, name)
    assert not claims.markers.is_done(claim.relative)
    home = claims.leave(claim)
    assert home == claims.inbox / name
    assert home.read_bytes() == b"picture"
    assert claims.markers.is_done(claim.relative)
    scan = scan_inbox(claims.inbox, Disk())
    assert scan.markers == {marker_path(claim.relative)}
    assert [seen.relative for seen in scan.files] == [claim.relative]
    assert below(claims.claimed_folder) == {}


def test_an_original_is_not_left_over_another_file(claims: Claims) -> None:
    claim = taken(claims, "a.png")
    drop(claims, "a.png", b"another")
    assert claims.leave(claim) == claims.archive_folder / "a.png"
    assert (claims.inbox / "a.png").read_bytes() == b"another"
    assert not claims.markers.is_done(Path("a.png"))


# Across file systems


def test_a_file_is_moved_across_file_systems(claims: Claims) -> None:
    across = with_disk(claims, across_file_systems(claims.claimed_folder, claims.archive_folder))
    claim = across.take(drop(claims, "sub/a.png"), ID)
    assert claim is not None
    os.utime(claim.path, (1, 1))
    assert files(claims.inbox) == Counter([b"picture"])
    place = across.archive(claim)
    assert files(claims.inbox, claims.archive_folder) == Counter([b"picture"])
    assert place.stat().st_mtime == 1  # a copy keeps the times
    assert below(claims.claimed_folder) == {}


def test_an_original_is_left_across_file_systems(claims: Claims) -> None:
    """A copy has another inode; the marker describes the copy."""
    across = with_disk(claims, across_file_systems(claims.claimed_folder))
    assert across.leave(taken(claims, "a.png")) == claims.inbox / "a.png"
    (claims.inbox / "a.png").replace(claims.inbox / "renamed")  # and no inode is used again
    across.leave(taken(claims, "a.png", b"another"))
    assert claims.markers.is_done(Path("a.png"))


def test_an_original_that_was_copied_and_not_removed_is_claimed_once(claims: Claims) -> None:
    """Killed between the copy and the unlink: the file is in both places, and is to be in one."""
    relative = drop(claims, "sub/a.png")
    exdev = across_file_systems(claims.claimed_folder)

    def hook(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        exdev(when, operation, paths)
        if (when, operation) == ("before", "unlink"):
            raise Killed

    with pytest.raises(Killed):
        with_disk(claims, hook).take(relative, ID)
    assert files(claims.inbox) == Counter({b"picture": 2})
    assert [claim.relative for claim in claims.recover()] == [relative]
    assert files(claims.inbox) == Counter([b"picture"])


def test_a_file_that_goes_away_while_it_is_copied_is_not_taken(claims: Claims) -> None:
    relative = drop(claims, "sub/a.png")
    exdev = across_file_systems(claims.claimed_folder)

    def hook(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        exdev(when, operation, paths)
        if (when, operation) == ("after", "copy"):
            (claims.inbox / relative).unlink()

    assert with_disk(claims, hook).take(relative, ID) is None
    assert below(claims.claimed_folder) == {}


@pytest.mark.parametrize("data", [b"picture", b"another"])
def test_what_is_dropped_after_a_claim_is_not_taken_for_its_copy(claims: Claims, data: bytes) -> None:
    claim = taken(claims, "a.png")
    home = claims.inbox / drop(claims, "a.png", data)
    while home.stat().st_ctime_ns <= claim.path.stat().st_ctime_ns:
        os.utime(home)  # until the file system's clock has ticked
    assert claims.recover() == [claim]
    assert home.read_bytes() == data


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSPC])
def test_a_disk_that_keeps_nothing_but_bytes_can_be_moved_to(
    claims: Claims, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Its files belong to another user, or it has no space for more."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("utime", "chmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    across = with_disk(claims, across_file_systems(claims.archive_folder))
    assert across.archive(taken(claims, "a.png")).read_bytes() == b"picture"
    assert below(claims.claimed_folder) == {}


def test_a_copy_keeps_the_mode_where_an_attribute_does_not_fit(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only its owner may read stays so."""
    across = with_disk(claims, across_file_systems(claims.archive_folder))
    claim = taken(claims, "a.png")
    claim.path.chmod(0o600)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copystat", refuse)
    assert across.archive(claim).stat().st_mode & 0o777 == 0o600


def test_a_dangling_link_in_the_archive_is_another_file(claims: Claims) -> None:
    (claims.archive_folder / "a.png").symlink_to("gone")
    across = with_disk(claims, across_file_systems(claims.archive_folder))
    assert across.archive(taken(claims, "a.png")).name == f"a-{ID}.png"
    assert (claims.archive_folder / "a.png").is_symlink()


def test_a_file_that_may_not_be_read_is_another(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was dropped under the name of one that was claimed before a crash, or is to be left."""
    claim = taken(claims, "a.png")
    home = claims.inbox / drop(claims, "a.png")
    while claim.path.stat().st_ctime_ns <= home.stat().st_ctime_ns:
        os.utime(claim.path)  # as if it were a copy of the other
    monkeypatch.setattr("pipeline.storage.files._sha256", failing_at(home, errno.EACCES))
    assert claims.recover() == [claim]
    assert claims.leave(claim) == claims.archive_folder / "a.png"
    assert home.exists()


def test_a_disk_that_cannot_be_read_says_nothing_about_its_files(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = taken(claims, "a.png")
    home = claims.inbox / drop(claims, "a.png")
    monkeypatch.setattr("pipeline.storage.files._sha256", failing_at(home, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        claims.leave(claim)
    assert files(claims.inbox) == Counter({b"picture": 2})


def failing_at(broken: Path, number: int) -> Callable[[Path], bytes]:
    def read(path: Path) -> bytes:
        if path == broken:
            raise OSError(number, os.strerror(number), str(path))
        return path.read_bytes()

    return read


def test_another_file_is_not_replaced_across_file_systems(claims: Claims) -> None:
    (claims.archive_folder / "a.png").write_bytes(b"theirs")
    across = with_disk(claims, across_file_systems(claims.archive_folder))
    assert across.archive(taken(claims, "a.png")).name == f"a-{ID}.png"
    assert files(claims.archive_folder) == Counter([b"theirs", b"picture"])


def killed() -> None:
    raise Killed


def moved(name: str, claims: Claims, claim: Claim) -> None:
    if name == "quarantine":
        quarantine_of(claims).add(claim, REPORT)
    elif name == "retry":
        for quarantined in quarantine_of(claims).files():
            quarantine_of(claims).retry(quarantined)
    else:
        getattr(claims, name)(claim)


@pytest.mark.parametrize("operation", ["archive", "quarantine", "put_back", "retry"])
def test_a_move_across_that_was_cut_off_anywhere_is_completed_by_the_same_call(
    operation: str, tmp_path: Path
) -> None:
    at, was_cut = 0, True
    while was_cut:
        claims = make_claims(tmp_path / str(at))
        claim = taken(claims, "sub/a.png")
        if operation == "retry":
            quarantine_of(claims).add(claim, REPORT)
        roots = (claims.claimed_folder, claims.archive_folder, quarantine_of(claims).folder)
        points, exdev = Points(at, killed), across_file_systems(*roots)

        def hook(
            when: When, name: str, paths: tuple[Path, ...], exdev: Any = exdev, points: Any = points
        ) -> None:
            points(when, name, paths)
            exdev(when, name, paths)

        was_cut = False
        try:
            moved(operation, with_disk(claims, hook), claim)
        except Killed:
            was_cut = True
        homes = (claims.inbox, claims.archive_folder, quarantine_of(claims).folder)
        assert files(*homes)[b"picture"] >= 1, points.passed[-1]
        again = with_disk(claims, exdev)
        if claim.path.exists() or operation == "retry":
            assert operation == "retry" or again.recover() == [claim], points.passed[-1]
            moved(operation, again, claim)
        assert files(*homes)[b"picture"] == 1, points.passed[-1]
        again.recover()
        assert below(claims.claimed_folder) == {}, points.passed[-1]
        at += 1
    assert at > 15, "nothing was cut off"


def test_a_copy_that_differs_is_not_trusted(claims: Claims) -> None:
    def corrupt(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        if when == "after" and operation == "copy":
            paths[1].write_bytes(b"pictur\0")
        across_file_systems(claims.archive_folder)(when, operation, paths)

    claim = taken(claims, "a.png")
    with pytest.raises(DiskError, match="differs"):
        with_disk(claims, corrupt).archive(claim)
    assert claim.path.read_bytes() == b"picture"
    assert files(claims.archive_folder) == Counter()


# Anything at all
NAMES = (
    st.binary(min_size=1, max_size=255)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in {b".", b"..", b".style-pipeline"})
)

PATHS = st.lists(NAMES, min_size=1, max_size=3)


@given(PATHS, st.binary(max_size=20))
@example([b"error.json"], b"1")
@example([b"error.json", b"error.json"], b"2")
@example([b"\xff\xfe", b"\n", b" "], b"3")
@example([b"a" * 255] * 3, b"4")
@example(["e\u0301.png".encode(), "\xe9.png".encode()], b"5")
def test_any_path_comes_back_as_it_was(parts: list[bytes], data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        claims = make_claims(Path(folder))
        name = os.fsdecode(b"/".join(parts))
        home = claims.inbox / name
        for bring_back in (claims.put_back, lambda claim: quarantine_and_retry(claims, claim)):
            bring_back(taken(claims, name, data))
            assert home.read_bytes() == data
            assert os.listdir(os.fsencode(home.parent)).count(parts[-1]) == 1
            assert files(Path(folder)) == Counter([data])
            assert below(claims.claimed_folder) == below(quarantine_of(claims).folder) == {}
            home.unlink()


def quarantine_and_retry(claims: Claims, claim: Claim) -> None:
    quarantine_of(claims).add(claim, REPORT)
    (quarantined,) = quarantine_of(claims).files()
    assert str(claim.relative) == quarantined.report["path"]
    assert quarantined.is_called(str(claim.relative))
    quarantine_of(claims).retry(quarantined)


def test_ids_are_sortable_and_unlike_each_other() -> None:
    ids = [new_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(id.startswith("20") and len(id) == len(ID) for id in ids)
    assert sorted(ids, key=lambda id: id[:15]) == ids


def test_a_name_that_the_archive_cannot_hold_gets_another(claims: Claims) -> None:
    claim = taken(claims, "a:b.png")

    def hook(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        if when == "before" and operation == "rename" and ":" in paths[-1].name:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    assert with_disk(claims, hook).archive(claim) == claims.archive_folder / ID / "original.png"


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ])
def test_a_name_that_cannot_be_claimed_is_refused_and_stays(claims: Claims, number: int) -> None:
    drop(claims, "sub/a.png")
    broken = with_disk(claims, failing("rename", number))
    with pytest.raises(JobError, match="cannot be taken") as caught:
        broken.take(Path("sub/a.png"), ID)
    assert not isinstance(caught.value, DiskError)
    assert (claims.inbox / "sub/a.png").read_bytes() == b"picture"
    assert list(claims.claimed_folder.iterdir()) == []


def test_a_path_too_long_to_be_claimed_is_refused_and_stays(claims: Claims) -> None:
    """It has space for the inbox's path, and not for that of the claimed folder."""
    length = 4_080 - len(os.fsencode(claims.inbox)) - 1
    parts = ["d" * 200] * (length // 201)
    name = "/".join([*parts, "f" * (length - 201 * len(parts))])
    drop(claims, name)
    with pytest.raises(JobError, match="too long"):
        claims.take(Path(name), ID)
    assert (claims.inbox / name).read_bytes() == b"picture"
    assert list(claims.claimed_folder.iterdir()) == []


def test_a_file_in_a_thousand_folders_is_claimed_found_and_archived(claims: Claims) -> None:
    with deep_folders(claims.inbox.parent):
        deep = claims.inbox.joinpath(*["d"] * 1_000)
        Disk().make_folder(deep)
        claim = taken(claims, str((deep / "a.png").relative_to(claims.inbox)))
        assert claims.recover() == [claim]
        assert claims.archive(claim).read_bytes() == b"picture"
        assert claims.recover() == []
