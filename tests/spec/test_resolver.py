from __future__ import annotations

import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes import MakeManifest
from small_manifests import ONE, failure, pairs

from pipeline.spec.config import Config
from pipeline.spec.manifest import read_manifest


def test_globs_are_sorted_and_find_pictures_only(read: Any) -> None:
    batch = read("contents: ['photos/*']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["a.jpg", "b.PNG", "c.jpg"]


def test_a_glob_finds_folders_below(read: Any) -> None:
    batch = read("contents: ['**/*.jpg']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["a.jpg", "c.jpg"]


def test_a_glob_finds_every_format_and_ignores_case(read: Any, here: Path) -> None:
    for name in ("d.JPG", "e.jfif", "f.Heic", "g.jpeg", "h.cr3"):
        (here / "photos" / name).write_bytes(b"")
    batch = read("contents: [photos/*.jpg, 'photos/[e-h].*']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == [
        "a.jpg", "c.jpg", "d.JPG", "e.jfif", "f.Heic", "g.jpeg",
    ]  # fmt: skip
    assert batch.notes == (
        "photos/*.jpg: passed over: 1 with ignored names (.hidden.jpg)",
        "photos/[e-h].*: passed over: 1 with other suffixes (.cr3)",
    )


def test_a_folder_with_brackets_is_found_by_its_name(read: Any, here: Path) -> None:
    (here / "Album [2024]").mkdir()
    (here / "Album [2024]/x.jpg").write_bytes(b"")
    batch = read("contents: ['Album [2024]/*.jpg']\nstyles: [styles/s.png]\n")
    assert pairs(batch) == [("x.jpg", "s")]
    (line,) = failure(read, "contents: ['Album [2023]/*.jpg']\nstyles: [styles/s.png]\n")
    assert line.endswith("no picture matches; if a name contains brackets, write [[] for [")


def test_an_empty_glob_says_what_it_passed_over(read: Any) -> None:
    (line,) = failure(read, "contents: ['photos/n*']\nstyles: [styles/s.png]\n")
    assert line.endswith("photos/n*: no picture matches; passed over: 1 with other suffixes (.txt)")


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system has one spelling")
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_in_another_unicode_form_is_found(form: Literal["NFC", "NFD"], read: Any, here: Path) -> None:
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "Müller")
    path = here / "photos" / f"{unicodedata.normalize(form, 'Müller')}.png"
    path.write_bytes(b"")
    text = (
        f"contents: [photos/{other}.png]\nstyles: [{{blend: {{photos/{other}.png: 1, styles/s.png: 1}}}}]\n"
    )
    (job,) = read(text + f"recipe: {{init: photos/{other}.png}}\n").jobs()
    assert (job.content, job.style.images[0][0], job.init_path) == (path, path, path)
    (job,) = read(f"contents: ['photos/{other[:3]}*']\nstyles: [styles/s.png]\n").jobs()
    assert job.name == f"{unicodedata.normalize('NFC', 'Müller')}--s"


def test_a_glob_finds_no_results(here: Path, make_manifest: MakeManifest) -> None:
    """`**/*.png` beside the outbox found a--s.png in the second run, and a--s--s.png in the third."""
    config = Config(ignore=("*_small.*",)).resolved(here)
    for name in (
        "outbox/night/a--s.png", "archive/b.png", "quarantine/ID/c.png", "inbox/d.png", "photos/e_SMALL.png",
        "inbox/.style-pipeline/claimed/ID/f.png",
    ):  # fmt: skip
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(b"")
    manifest = make_manifest("contents: ['**/*.png']\nstyles: [styles/s.png]\n")
    batch = read_manifest(manifest, {}, {}, exclusions=config.exclusions())
    assert [content for content, _ in pairs(batch)] == ["d.png", "b.PNG", "start.png", "s.png", "t.png"]
    assert batch.notes == (
        "**/*.png: passed over: 2 with ignored names (.style-pipeline, e_SMALL.png), "
        "3 for results, originals, state or cache (archive, outbox, quarantine)",
    )
    chained = make_manifest("contents: [outbox/night/*.png]\nstyles: [styles/s.png]\n", "again.yaml")
    assert pairs(read_manifest(chained, {}, {}, exclusions=config.exclusions())) == [("a--s.png", "s")]


def test_a_file_that_cannot_be_used_has_a_reason(
    read: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(here / "photos/pipe.jpg")
    real = Path.stat

    def stat(path: Path, **how: Any) -> os.stat_result:
        if path.name == "locked.jpg":
            raise PermissionError(13, "Permission denied")
        return real(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    for entry, words in (
        ("photos/A.JPG", "no such file; there is 'a.jpg'"),
        ("photos/no.jpg", "no such file"),
        ("photos", "is a folder; name its pictures, as in photos/*.jpg"),
        ("photos/pipe.jpg", "is not a file, but a pipe or a device"),
        ("photos/locked.jpg", "cannot be read (Permission denied)"),
        ("photos/a.jpg/x", "no such file"),
    ):
        (line,) = failure(read, f"contents: [{entry}]\nstyles: [styles/s.png]\n")
        assert line == f"1: contents[0]: {entry}: {words}"


def test_entries_keep_their_order(read: Any) -> None:
    batch = read("contents: [photos/c.jpg, 'photos/[ab].*']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["c.jpg", "a.jpg", "b.PNG"]


def test_a_file_may_have_any_name_when_it_is_named(read: Any, here: Path) -> None:
    (here / "photos/[x]*?.jpg").write_bytes(b"")
    (here / "photos/scan").write_bytes(b"")
    batch = read("contents: ['photos/[x]*?.jpg', photos/scan]\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["[x]*?.jpg", "scan"]


def test_a_name_may_begin_like_that_of_a_users_home(read: Any, here: Path) -> None:
    (here / "start.png").rename(here / "~start.png")
    (here / "photos").rename(here / "~photos")
    text = "styles: [styles/s.png]\nrecipe: {init: ~start.png}\n"
    jobs = list(read(f"contents: [~start.png, '~photos/c*']\n{text}").jobs())
    assert [job.content for job in jobs] == [here / "~start.png", here / "~photos/c.jpg"]
    assert {job.init_path for job in jobs} == {here / "~start.png"}
    (line,) = failure(read, f"contents: [~no-such-user/a.jpg]\n{text}")
    assert line.endswith("~no-such-user/a.jpg: no such file")


def test_a_tilde_stands_for_the_home_of_the_user(
    read: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here / "photos"))
    batch = read("contents: [~/a.jpg, '~/[bc]*']\nstyles: [styles/s.png]\nrecipe: {init: ~/c.jpg}\n")
    assert [content for content, _ in pairs(batch)] == ["a.jpg", "b.PNG", "c.jpg"]
    assert {job.init_path for job in batch.jobs()} == {here / "photos/c.jpg"}


def test_paths_start_at_the_manifest(read: Any, here: Path) -> None:
    batch = read(
        "contents: [../photos/a.jpg, '../photos/b*']\nstyles: [../styles/s.png]\n", name="sub/night.yaml"
    )
    assert [job.content for job in batch.jobs()] == [here / "photos/a.jpg", here / "photos/b.PNG"]


def test_a_manifest_named_from_its_own_folder(read: Any, here: Path) -> None:
    (here / "night.yaml").write_text("contents: [photos/a.jpg, 'photos/c*']\nstyles: [styles/s.png]\n")
    batch = read_manifest(Path("night.yaml"), {}, {})
    assert [job.content for job in batch.jobs()] == [here / "photos/a.jpg", here / "photos/c.jpg"]


def test_a_folder_with_glob_characters_is_only_a_folder(read: Any, here: Path) -> None:
    """The folder of the manifest is not part of the pattern."""
    folder = here / "set [2024]*"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"")
    batch = read("contents: ['*.jpg']\nstyles: [../styles/s.png]\n", name="set [2024]*/night.yaml")
    assert [job.content for job in batch.jobs()] == [folder / "x.jpg"]


def test_absolute_paths_and_globs(read: Any, here: Path) -> None:
    batch = read(f"contents: ['{here}/photos/a*']\nstyles: ['{here}/styles/s.png']\n", name="sub/night.yaml")
    assert [job.content for job in batch.jobs()] == [here / "photos/a.jpg"]


def test_a_tilde_is_the_home(read: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    batch = read(
        "contents: [~/photos/a.jpg, '~/photos/c*']\nstyles: [~/styles/s.png]\n", name="sub/night.yaml"
    )
    assert [content for content, _ in pairs(batch)] == ["a.jpg", "c.jpg"]


def test_file_names_in_other_letters(read: Any, here: Path) -> None:
    (here / "photos/Übung 字.jpg").write_bytes(b"")
    (job,) = read("contents: ['photos/Ü*']\nstyles: [styles/s.png]\n").jobs()
    assert job.name == "Übung 字--s"


# Styles


def test_every_missing_file_and_empty_glob_at_once(read: Any) -> None:
    lines = failure(
        read,
        "contents:\n  - photos/a.jpg\n  - photos/missing.jpg\n  - nothing/*.jpg\n  - photos\n"
        "styles:\n  - 'styles/*.gif'\n  - {name: x, image: styles/x.png}\n"
        "pairs:\n  - content: photos/no.jpg\n    style:\n      blend: {styles/s.png: 1, styles/u.png: 1}\n",
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["3", "contents[1]"],
        ["4", "contents[2]"],
        ["5", "contents[3]"],
        ["7", "styles[0]"],
        ["8", "styles[1].image"],
        ["10", "pairs[0].content"],
        ["12", "pairs[0].style.blend.styles/u.png"],
    ]
    for line, text in zip(lines, ["missing.jpg", "nothing/*.jpg", "photos/*.jpg", "*.gif"], strict=False):
        assert text in line


@pytest.mark.parametrize(
    "entry",
    [
        "~nobody-by-this-name/a.jpg",
        "~nobody-by-this-name/*.jpg",
        "x" * 300 + ".jpg",
        "[" + "x" * 5000,
        "photos/a.jpg/b.jpg",
        "photos/[.jpg",
        "a\\0b.jpg",
        "a\\0*.jpg",
        "*.gif",
        ".",
        "..",
        "/",
    ],
)
def test_an_odd_path_is_a_problem_with_its_line(entry: str, read: Any) -> None:
    (line,) = failure(read, f'contents:\n  - photos/a.jpg\n  - "{entry}"\nstyles: [styles/s.png]\n')
    assert line.startswith("3: contents[1]: ")
    (line,) = failure(read, f'{ONE}recipe:\n  init: "{entry}"\n')
    assert re.match(r"[34]: recipe", line)


def test_a_missing_file_is_reported_wherever_it_is_named(read: Any) -> None:
    """A file that exists is looked up once."""
    text = "pairs:\n" + 2 * "  - {content: photos/no.jpg, style: styles/s.png}\n"
    assert failure(read, text) == [
        f"{line}: pairs[{line - 2}].content: photos/no.jpg: no such file" for line in (2, 3)
    ]
    twice = "pairs:\n" + 2 * "  - {content: photos/a.jpg, style: styles/s.png}\n"
    assert pairs(read(twice)) == [("a.jpg", "s")] * 2
