from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from pipeline.spec.globs import DiskNames, Exclusions, find

COMPOSED = "Müller"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
two_spellings = pytest.mark.skipif(sys.platform == "darwin", reason="the file system has one spelling")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "a.jpg", "B.JPG", "notes.txt", ".hidden.jpg", "old.jpg~", "sub/c.Jfif", "sub/deep/d.HEIC",
        "sub/@eaDir/e.jpg", ".thumbnails/f.jpg", "__MACOSX/g.jpg", "Album [2024]/h.jpg", "Album 2/i.jpg",
        "sub/shot.cr3", "sub/shot.xmp", "noext",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


NOTHING = Exclusions()


def names(tree: Path, pattern: str, exclusions: Exclusions = NOTHING) -> list[str]:
    files = find(tree, Path(pattern).parts, exclusions).files
    return [path.relative_to(tree.resolve()).as_posix() for path in files]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["B.JPG", "a.jpg"]),
        ("*", ["B.JPG", "a.jpg"]),
        ("?.JPG", ["B.JPG", "a.jpg"]),
        ("[a-c].jpg", ["B.JPG", "a.jpg"]),
        ("[!a].jpg", ["B.JPG"]),
        ("*/*", ["Album 2/i.jpg", "Album [2024]/h.jpg", "sub/c.Jfif"]),
        ("**/*.jpg", ["Album 2/i.jpg", "Album [2024]/h.jpg", "B.JPG", "a.jpg"]),
        ("sub/**", ["sub/c.Jfif", "sub/deep/d.HEIC"]),
        ("sub/**/*", ["sub/c.Jfif", "sub/deep/d.HEIC"]),
        ("**/**/d*", ["sub/deep/d.HEIC"]),
        ("**/deep/*", ["sub/deep/d.HEIC"]),
        ("s*/d*/d.*", ["sub/deep/d.HEIC"]),
        ("sub/../*.jpg", ["B.JPG", "a.jpg"]),
        ("**.jpg", ["B.JPG", "a.jpg"]),
        ("nothing/*.jpg", []),
        ("a.jpg/*", []),
        ("*/nothing", []),
        # A name with brackets of its own.
        ("Album [2024]/*.jpg", ["Album [2024]/h.jpg"]),
        ("Album [[]2024]/*", ["Album [2024]/h.jpg"]),
        ("Album [0-9]/*", ["Album 2/i.jpg"]),
        # What is spelt out is taken as it stands.
        (".thumbnails/*", [".thumbnails/f.jpg"]),
        ("sub/@eaDir/*", ["sub/@eaDir/e.jpg"]),
        ("*/shot.cr3", ["sub/shot.cr3"]),
        ("**/noext", ["noext"]),
    ],
)
def test_what_is_found(tree: Path, pattern: str, found: list[str]) -> None:
    assert names(tree, pattern) == found


def test_what_is_passed_over_is_reported(tree: Path) -> None:
    assert find(tree, ("*",)).passed_over() == (
        "2 with other suffixes (.txt, no suffix), 2 with ignored names (.hidden.jpg, old.jpg~)"
    )
    assert find(tree, ("*.jpg",)).passed_over() == "1 with ignored names (.hidden.jpg)"
    assert find(tree, ("sub", "*")).passed_over() == "2 with other suffixes (.cr3, .xmp)"
    assert find(tree, ("**", "*.jpg")).passed_over() == (
        "4 with ignored names (.hidden.jpg, .thumbnails, @eaDir, ...)"
    )
    assert find(tree, ("Album 2", "*")).passed_over() == ""


def test_a_frequent_suffix_has_a_count(tree: Path) -> None:
    for name in ("n1.txt", "n2.txt", "n3.TXT", "n.x", "n.y", "n.z"):
        (tree / name).touch()
    assert find(tree, ("n*",)).passed_over() == ("8 with other suffixes (.txt 4 times, .x, .y, ...)")


def test_more_names_may_be_ignored(tree: Path) -> None:
    exclusions = Exclusions(names=("SUB", "a.*"))
    assert names(tree, "**/*", exclusions) == ["Album 2/i.jpg", "Album [2024]/h.jpg", "B.JPG"]
    assert names(tree, "sub/*", exclusions) == ["sub/c.Jfif"]  # as it is spelt out


def test_folders_that_no_wildcard_enters(tree: Path) -> None:
    for name in ("outbox/night/a--s.png", "outbox/b.png", "pictures/outbox/c.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    (tree / "link").symlink_to(tree / "outbox" / "night")
    (tree / "one.png").symlink_to(tree / "outbox" / "b.png")
    exclusions = Exclusions(folders=(tree.resolve() / "outbox",))
    assert names(tree, "**/*.png", exclusions) == ["pictures/outbox/c.png"]
    assert names(tree, "*/*.png", exclusions) == []
    assert find(tree, ("*", "*.png"), exclusions).passed_over() == (
        "2 with ignored names (.thumbnails, __MACOSX), "
        "2 for results, originals, state or cache (link, outbox)"
    )
    assert names(tree, "*/outbox/*.png", exclusions) == ["pictures/outbox/c.png"]
    assert names(tree, "[p]ictures/../outbox/*.png", exclusions) == []
    # Who names it means it.
    assert names(tree, "outbox/**/*.png", exclusions) == ["outbox/b.png", "outbox/night/a--s.png"]
    assert names(tree, "one.png", exclusions) == ["outbox/b.png"]


def test_links_are_followed_by_their_names_but_not_by_two_stars(tree: Path) -> None:
    (tree / "loop").symlink_to(tree)
    (tree / "other").symlink_to(tree / "sub")
    assert names(tree, "**/*.jfif") == ["sub/c.Jfif"]
    assert names(tree, "other/*.jfif") == ["sub/c.Jfif"]
    assert names(tree, "o*/*.jfif") == ["sub/c.Jfif"]


def test_a_file_found_twice_is_one(tree: Path) -> None:
    os.symlink(tree / "a.jpg", tree / "again.jpg")
    assert names(tree, "a*.jpg") == ["a.jpg"]


@two_spellings
@pytest.mark.parametrize(("on_disk", "typed"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_name_in_another_unicode_form_is_found(tmp_path: Path, on_disk: str, typed: str) -> None:
    (tmp_path / on_disk).mkdir()
    path = tmp_path / on_disk / f"{on_disk}.jpg"
    path.write_bytes(b"x")
    for pattern in (f"{typed}/*", f"{typed[:4]}*/{typed}.jpg", f"**/{typed}.*", f"*/{typed.lower()}.*"):
        assert find(tmp_path, Path(pattern).parts).files == [path.resolve()], pattern
    assert DiskNames().as_on_disk(tmp_path / typed / f"{typed}.jpg") == path
    assert (
        DiskNames().as_on_disk(tmp_path / typed / "missing" / typed) == tmp_path / on_disk / "missing" / typed
    )


@two_spellings
def test_of_two_unicode_forms_the_typed_one_is_found(tmp_path: Path) -> None:
    for name in (COMPOSED, DECOMPOSED):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
        assert DiskNames().as_on_disk(tmp_path / f"{name}.jpg").read_bytes() == name.encode()
    assert len(find(tmp_path, ("*.jpg",)).files) == 2


def test_a_folder_that_cannot_be_read_is_reported(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find(tree, ("sub", "**", "*.heic"))
    assert found.files == []
    assert found.passed_over().endswith(f"{tree / 'sub/deep'}, which cannot be read (Permission denied)")


def test_a_file_without_status_stops_no_other(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.is_file

    def is_file(path: Path) -> bool:
        if path.name == "a.jpg":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    found = find(tree, ("*.jpg",))
    assert [path.name for path in found.files] == ["B.JPG"]
    assert "a.jpg, which cannot be read (Permission denied)" in found.passed_over()


def test_files_come_folder_by_folder(tmp_path: Path) -> None:
    for name in ("a-1/9.jpg", "a/9.jpg", "a/10.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find(tmp_path, ("**", "*.jpg")).files]
    assert found == ["a/10.jpg", "a/9.jpg", "a-1/9.jpg"]


def test_many_stars_take_no_time(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(30):
        folder = folder / "d"
        folder.mkdir()
    (folder / "x.jpg").touch()
    assert find(tmp_path, ("**", "d", "**", "d", "**", "d", "**", "*a*a*a*a*a*b")).files == []
    assert len(find(tmp_path, (*("**", "d") * 8, "**")).files) == 1


def test_a_folder_is_read_once_however_many_names_are_looked_for(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, listdir = [], os.listdir

    def counted(folder: Path) -> list[str]:
        read.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", counted)
    names = DiskNames()
    for number in range(20):
        path = tree / f"{number}.jpg"
        assert names.as_on_disk(path) == path
        assert names.in_other_case(path) == ""
    assert names.in_other_case(tree / "b.jpg") == "B.JPG"
    assert read.count(tree) == 1
