from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from batch_folders import IMAGE, KEY_A, KEY_B, KEY_C, fresh, run_job, staged

from pipeline.errors import PathError


def put_foreign(stage: Path, kind: str) -> Path:
    """Something on the stage that this program did not put there; return what must still be there."""
    path = stage / (KEY_C if "record" in kind else ".DS_Store")
    if "record" in kind:
        path.mkdir(parents=True)
        (path / "image.png").write_bytes(b"theirs")
    if kind == "file":
        path.write_bytes(b"theirs")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path = stage / KEY_C
        path.symlink_to(stage.parent)
    elif kind == "loop":
        path = stage / KEY_C
        path.symlink_to(path)
    elif kind == "folder as record":
        (path / "record.json").mkdir()
    elif kind == "loop as record":
        (path / "record.json").symlink_to("record.json")
    elif kind == "pipe as record":
        os.mkfifo(path / "record.json")
    return path


@pytest.mark.parametrize(
    "kind", ["file", "folder", "link", "loop", "folder as record", "loop as record", "pipe as record"]
)
def test_foreign_things_on_the_stage_are_left_alone_and_reported(kind: str, tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    staged(folder, "a--s", KEY_A)
    foreign = put_foreign(folder.stage.folder, kind)
    for _ in range(2):
        again = fresh(tmp_path)
        assert again.staged_drops() == []
        with again.locked():
            assert again.left_alone == (f"{foreign}: is not a result, and is left alone.",)
            assert run_job(again, "b--s", KEY_B) == "b--s"
    assert os.path.lexists(foreign)
    assert again.paths.image("a--s", ".png").read_bytes() == IMAGE
    assert again.paths.image("b--s", ".png").read_bytes() == IMAGE


def test_a_foreign_file_in_a_staged_result_is_left_alone(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    place = staged(folder, "a--s", KEY_A)
    (place / ".DS_Store").write_bytes(b"theirs")
    assert folder.publish_staged(place).read_bytes() == IMAGE
    assert not folder.stage.holds(KEY_A)
    for _ in range(2):
        again = fresh(tmp_path)
        with again.locked():
            assert again.left_alone == (f"{place}: is not empty, and is left alone.",)
    assert [path.name for path in place.iterdir()] == [".DS_Store"]


def test_a_result_that_cannot_be_published_waits_and_the_others_are(tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    waiting = staged(folder, "x.png/y", KEY_A)
    staged(folder, "b--s", KEY_B)
    (folder.path / "x.png").write_bytes(b"in the way")
    again = fresh(tmp_path)
    with again.locked():
        (text,) = again.left_alone
        assert f"{folder.path / 'x.png'}: cannot be written" in text
        assert f"waits in {waiting}" in text
        assert again.stage.holds(KEY_A)
    assert again.paths.image("b--s", ".png").read_bytes() == IMAGE
    (folder.path / "x.png").unlink()
    with fresh(tmp_path).locked():
        pass
    assert folder.paths.image("x.png/y", ".png").read_bytes() == IMAGE


def test_a_result_whose_record_cannot_be_read_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = staged(fresh(tmp_path), "a--s", KEY_A)
    real = open

    def failing(file: Any, *rest: Any, **options: Any) -> Any:
        if str(file) == str(place / "record.json"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(file))
        return real(file, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", failing)
        patched.setattr(io, "open", failing)
        with pytest.raises(PathError, match="cannot be written"), fresh(tmp_path).locked():
            pass
    with fresh(tmp_path).locked():
        pass
    assert fresh(tmp_path).paths.image("a--s", ".png").read_bytes() == IMAGE


@pytest.mark.parametrize("image", ["../../evil.png", "ABOVE/evil.png", "link/evil.png", "..", "\0.png", ""])
def test_a_staged_record_leads_nowhere_else(image: str, tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    place = staged(folder, "a--s", KEY_A)
    (folder.path / "link").symlink_to(tmp_path)
    record = json.loads((place / "record.json").read_bytes())
    record["image"] = image.replace("ABOVE", str(tmp_path))
    (place / "record.json").write_text(json.dumps(record))
    before = sorted(tmp_path.rglob("*.png"))
    with folder.locked():
        (text,) = folder.left_alone
        assert "leads out of the folder" in text
    assert sorted(tmp_path.rglob("*.png")) == before
