from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from claimed import ID, ODD_NAMES, OTHER, REPORT, below, drop, quarantine_of, taken, with_disk
from disks import When, failing

from pipeline.errors import DiskError, UsageError
from pipeline.storage.files import Disk
from pipeline.watch.claims import Claims

pytestmark = pytest.mark.usefixtures("no_sync")


def test_a_report_can_be_removed(claims: Claims) -> None:
    """Of a claim that was to be quarantined and succeeded after all."""
    quarantine = quarantine_of(claims)
    report = quarantine.folder / ID / "error.json"
    report.parent.mkdir()
    report.write_text("{}")
    for _ in range(2):
        quarantine.remove_report(ID)
        assert below(quarantine.folder) == {}


# Quarantine


@pytest.mark.parametrize("name", [*ODD_NAMES, "sub/a.png"])
def test_a_file_is_quarantined_under_its_own_name_and_comes_back(claims: Claims, name: str) -> None:
    claim = taken(claims, name)
    place = quarantine_of(claims).add(claim, REPORT)
    expected = "original-error.json" if name == "error.json" else Path(name).name
    assert place == quarantine_of(claims).folder / ID / expected
    assert place.read_bytes() == b"picture"
    report = quarantine_of(claims).report(ID)
    assert report == {"id": ID, "inbox": "../inbox", "path": name, "file": expected, **REPORT}
    assert (place.parent / "error.json").read_bytes().isascii()
    assert below(claims.claimed_folder) == {}

    (quarantined,) = quarantine_of(claims).files()
    assert (quarantined.id, quarantined.file, quarantined.report) == (ID, place, report)
    assert quarantine_of(claims).retry(quarantined) == claims.inbox / name
    assert (claims.inbox / name).read_bytes() == b"picture"
    assert below(quarantine_of(claims).folder) == {}
    assert quarantine_of(claims).files() == []


def test_the_report_is_written_before_the_file_is_moved(claims: Claims) -> None:
    """From then on the decision stands: a process that is killed in between does not run the job again."""
    claim = taken(claims, "a.png")
    with pytest.raises(DiskError):
        quarantine_of(with_disk(claims, failing("rename"))).add(claim, REPORT)
    assert quarantine_of(claims).report(ID)["error"] == "It broke."
    assert quarantine_of(claims).files() == []  # not there yet
    assert claims.recover() == [claim]
    assert quarantine_of(claims).add(claim, quarantine_of(claims).report(ID)).read_bytes() == b"picture"
    assert len(quarantine_of(claims).files()) == 1


def test_without_a_report_nothing_is_moved(claims: Claims) -> None:
    claim = taken(claims, "a.png")
    with pytest.raises(DiskError):
        quarantine_of(with_disk(claims, failing("write"))).add(claim, REPORT)
    assert claim.path.read_bytes() == b"picture"
    assert quarantine_of(claims).report(ID) == {}


@pytest.mark.parametrize("report", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_report_that_cannot_be_read_is_none(claims: Claims, report: bytes) -> None:
    place = quarantine_of(claims).add(taken(claims, "a.png"), REPORT)
    (place.parent / "error.json").write_bytes(report)
    assert quarantine_of(claims).report(ID) == {}
    assert quarantine_of(claims).files() == []


def test_what_is_no_report_is_passed_over(claims: Claims) -> None:
    (quarantine_of(claims).folder / "notes.txt").write_bytes(b"mine")
    (quarantine_of(claims).folder / "mine").mkdir()
    for id in (OTHER, ID):
        quarantine_of(claims).add(taken(claims, "a.png", id=id), REPORT)
    assert [quarantined.id for quarantined in quarantine_of(claims).files()] == [ID, OTHER]


def test_without_a_quarantine_nothing_is_quarantined(claims: Claims) -> None:
    quarantine_of(claims).folder.rmdir()
    assert quarantine_of(claims).files() == []


def test_a_quarantine_that_may_not_be_read_is_named(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DiskError, match=r"quarantine: cannot be read \(Permission denied\)") as caught:
        quarantine_of(claims).files()
    assert "as the user that the daemon runs as" in caught.value.next_step


@pytest.mark.parametrize("there", ["a.png", "a.png/x", "sub"])
def test_a_file_is_not_brought_back_over_another(claims: Claims, there: str) -> None:
    quarantine_of(claims).add(taken(claims, "sub/a.png" if there == "sub" else "a.png"), REPORT)
    if there == "sub":
        (claims.inbox / "sub").rmdir()
    drop(claims, there, b"another")
    before = below(claims.inbox.parent)
    with pytest.raises(UsageError, match="exists already"):
        quarantine_of(claims).retry(quarantine_of(claims).files()[0])
    assert below(claims.inbox.parent) == before


def test_nothing_is_brought_back_to_an_inbox_that_is_not_mounted(claims: Claims) -> None:
    quarantine_of(claims).add(taken(claims, "a.png"), REPORT)
    (quarantined,) = quarantine_of(claims).files()
    claims.inbox.rename(claims.inbox.with_name("away"))
    claims.inbox.mkdir()
    with pytest.raises(UsageError, match="its disk is not mounted"):
        quarantine_of(claims).retry(quarantined)
    assert below(claims.inbox) == {}
    assert quarantined.file.read_bytes() == b"picture"


def test_names_that_a_file_is_called_by(claims: Claims) -> None:
    quarantine_of(claims).add(taken(claims, "sub/a.png"), REPORT)
    (quarantined,) = quarantine_of(claims).files()
    assert all(quarantined.is_called(name) for name in (ID, ID[:8], "a.png", "sub/a.png"))
    assert not any(quarantined.is_called(name) for name in ("", "a", "sub", OTHER, f"{ID}0", "b/a.png", "."))


@pytest.mark.parametrize("name", ["caf\xe9", "cafe\u0301"])
def test_a_name_may_be_spelt_in_two_ways(claims: Claims, name: str) -> None:
    quarantine_of(claims).add(taken(claims, f"{name}/{name}.png"), REPORT)
    (quarantined,) = quarantine_of(claims).files()
    for typed in ("caf\xe9", "cafe\u0301"):
        assert quarantined.is_called(f"{typed}.png")
        assert quarantined.is_called(f"{typed}/{typed}.png")


def test_a_report_is_plain_json(claims: Claims) -> None:
    place = quarantine_of(claims).add(taken(claims, "a.png"), REPORT)
    assert json.loads((place.parent / "error.json").read_bytes())["next_step"] == "Correct it."


def test_two_inboxes_may_share_a_quarantine(tmp_path: Path) -> None:
    one, other = (Claims(tmp_path / name, tmp_path / "archive", Disk()) for name in ("1", "2"))
    for claims in (one, other):
        claims.make_folders()
    (tmp_path / "1" / "a.png").write_bytes(b"picture")
    claim = one.take(Path("a.png"), ID)
    assert claim is not None
    quarantine_of(one).add(claim, REPORT)
    assert [quarantined.id for quarantined in quarantine_of(one).files()] == [ID]
    assert quarantine_of(other).files() == []


# Reports and names that lead elsewhere


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../escaped.png"},
        {"path": "sub/../../escaped.png"},
        {"path": "OUTSIDE/escaped.png"},
        {"path": "link/escaped.png"},
        {"path": ".style-pipeline/lock"},
        {"path": "a\0.png"},
        {"path": ""},
        {"path": ".."},
        {"file": "../../outside/secret.txt"},
        {"file": "OUTSIDE/secret.txt"},
        {"file": f"../{OTHER}/b.png"},
        {"file": f"../{ID}/../{OTHER}/b.png"},
    ],
)
def test_a_report_leads_nowhere_else(claims: Claims, change: dict[str, str], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(b"secret")
    (claims.inbox / "link").symlink_to(outside)
    quarantine_of(claims).add(taken(claims, "a.png"), REPORT)
    quarantine_of(claims).add(taken(claims, "b.png", b"other", OTHER), REPORT)
    report = quarantine_of(claims).folder / ID / "error.json"
    changed = {key: text.replace("OUTSIDE", str(outside)) for key, text in change.items()}
    report.write_text(json.dumps({**json.loads(report.read_bytes()), **changed}))
    before = below(tmp_path)
    (one,) = [each for each in quarantine_of(claims).files() if each.id == ID]
    with pytest.raises(UsageError, match=r"leads out of the inbox|is not in that folder") as caught:
        quarantine_of(claims).retry(one)
    assert str(report) in caught.value.message
    assert caught.value.next_step
    assert below(tmp_path) == before
    (other,) = [each for each in quarantine_of(claims).files() if each.id == OTHER]
    assert quarantine_of(claims).retry(other).read_bytes() == b"other"


@pytest.mark.parametrize("report", [[], {"path": 3}, {"path": None}, {}, "deep", "link"])
def test_a_file_with_a_damaged_report_is_not_listed(claims: Claims, report: object, tmp_path: Path) -> None:
    quarantine_of(claims).add(taken(claims, "a.png"), REPORT)
    path = quarantine_of(claims).folder / ID / "error.json"
    if report == "link":
        path.rename(tmp_path / "report.json")
        path.symlink_to(tmp_path / "report.json")
    else:
        path.write_text("[" * 100_000 if report == "deep" else json.dumps(report))
    assert quarantine_of(claims).files() == []
    assert quarantine_of(claims).report(ID) == {}


def test_a_report_says_nothing_of_where_a_file_goes(claims: Claims) -> None:
    """One that was there before is written again, with what is so now."""
    claim = taken(claims, "a.png")
    place = quarantine_of(claims).add(claim, {**REPORT, "path": "../b.png", "file": "../../c.png", "id": "x"})
    written = json.loads((quarantine_of(claims).folder / ID / "error.json").read_bytes())
    assert (written["path"], written["file"], written["id"]) == ("a.png", "a.png", ID)
    assert place == quarantine_of(claims).folder / ID / "a.png"


def test_a_name_that_the_quarantine_cannot_hold_gets_another(claims: Claims) -> None:
    claim = taken(claims, "a:b.png")
    strict = failing("rename", errno.EINVAL, lambda path: path.parent.name == ID and ":" in path.name)

    def hook(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        strict(when, operation, paths[-1:])

    place = quarantine_of(with_disk(claims, hook)).add(claim, REPORT)
    assert place.name == "original.png"
    (one,) = quarantine_of(claims).files()
    assert (one.file, one.report["path"]) == (place, "a:b.png")
    assert quarantine_of(claims).retry(one) == claims.inbox / "a:b.png"
