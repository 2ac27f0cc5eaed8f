from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.batch.digests import Digests
from pipeline.batch.inspection import manifest_of, manifest_text, read_origin
from pipeline.cli.main import app, main
from pipeline.errors import UsageError
from pipeline.execution.provenance import provenance
from pipeline.images.writing import LEFT_OUT, encode_image
from pipeline.spec.jobs import EncoderInfo, Job, Masks, Style, job_key
from pipeline.spec.manifest import read_manifest
from pipeline.spec.recipe import Recipe
from pipeline.vgg.weights import EncoderWeights, bundled_path

DOTS = np.zeros((4, 4, 3), np.uint8)
ENCODER = EncoderInfo("vgg19-slim", "1" * 64)


def make_result(
    folder: Path, styles: dict[str, float], masks: Masks | None = None, **fields: Any
) -> tuple[Path, str]:
    """Write a result as a job would, beside its inputs; return its path and the job's key."""
    images = tuple((folder / name, share) for name, share in styles.items())
    job = Job("night", folder / "me.png", Style("s", images), Recipe(**fields), "me--s", masks=masks)
    key = job_key(job, {path: path.name for path in job.input_paths}, ENCODER)
    for path in job.input_paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(DOTS).save(path)
    path = folder / f"result{job.recipe.suffix}"
    weights = EncoderWeights("vgg19-slim", bundled_path("vgg19-slim"), ENCODER.digest)
    path.write_bytes(encode_image(DOTS, job.recipe.format, job.recipe.quality, provenance(job, key, weights)))
    return path, key


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"format": "jpeg", "preset": "thumbnail", "style_weight": 12345.678},
        {"format": "webp", "style_layers": {"relu1_1": 1e-7, "conv5_1": 3}},
        {"format": "tiff", "bit_depth": 16, "name": "{content}: {style!r}"},
        {"init": "start.png", "steps": [3, 2, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("styles", [{"s.png": 1.0}, {"t: {x}.png": 0.7, "s.png": 0.3}], ids=len)
def test_what_is_printed_runs_again_as_the_same_job(tmp_path, fields, styles):
    if "init" in fields:
        fields = {**fields, "init": str(tmp_path / fields["init"])}
    path, key = make_result(tmp_path, styles, **fields)
    found = read_origin(path)
    assert found["key"] == key
    assert str(tmp_path) not in json.dumps(found), "a path of this machine went out with the picture"
    manifest = tmp_path / "again.yaml"
    manifest.write_text(manifest_text(path, found), encoding="utf-8")
    (job,) = read_manifest(manifest, {}, {}).jobs()
    assert job_key(job, {path: path.name for path in job.input_paths}, ENCODER) == key
    assert job.recipe.encoder == "vgg19-slim"
    assert yaml.safe_load(manifest.read_text(encoding="utf-8")) == manifest_of(found)


@pytest.mark.skipif(sys.platform == "darwin", reason="every file name is UTF-8")
@pytest.mark.parametrize("masked", [False, True])
def test_inputs_whose_names_are_not_utf_8_run_again(tmp_path: Path, masked: bool) -> None:
    latin = os.fsdecode(b"[1] f\xfcr.png")
    masks = Masks(tmp_path / f"mask {latin}", ((0.0,) * 3, (1.0,) * 3)) if masked else None
    path, key = make_result(tmp_path, {latin: 1.0, "s.png": 1.0}, masks)
    found = read_origin(path)
    manifest = tmp_path / "again.yaml"
    manifest.write_text(manifest_text(path, found), encoding="utf-8")
    (job,) = read_manifest(manifest, {}, {}).jobs()
    assert job_key(job, {path: path.name for path in job.input_paths}, ENCODER) == key


@pytest.mark.parametrize("mask", ["regions.png", "masks/me.png"])
def test_masks_run_again(tmp_path, mask):
    """A mask that is called like its content is named with its folder."""
    masks = Masks(tmp_path / mask, ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 0.2, 0.0)))
    path, key = make_result(tmp_path, {"t.png": 1.0, "u: {x}.png": 1.0, "s.png": 1.0}, masks)
    found = read_origin(path)
    assert str(tmp_path) not in json.dumps(found)
    manifest = tmp_path / "again.yaml"
    manifest.write_text(manifest_text(path, found), encoding="utf-8")
    assert f"mask     {mask}" in manifest.read_text(encoding="utf-8")
    (job,) = read_manifest(manifest, {}, {}).jobs()
    assert job.masks == masks
    assert job_key(job, {path: path.name for path in job.input_paths}, ENCODER) == key


def save(path: Path, grey: int) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(DOTS + np.uint8(grey)).save(path)
    return path


@pytest.mark.parametrize("named", ["mix", ""])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("parts", [("t/styles/me.png",), ("a/me.png", "b/me.png"), ("flat/me.png",)])
def test_pictures_of_one_name_run_again_in_their_places(tmp_path, parts, masked, named):
    if masked and len(parts) == 1:
        parts = (*parts, "s.png")
    paths = [save(tmp_path / part, 10 + index) for index, part in enumerate(parts)]
    content, init = save(tmp_path / "flat/me.png", 1), save(tmp_path / "starts/me.png", 2)
    masks = Masks(save(tmp_path / "masks/me.png", 3), ((0.0,) * 3, (1.0,) * 3)) if masked else None
    name = named or "+".join(path.stem for path in paths)
    style = Style(name, tuple((path, 1.0 if masked else 0.5) for path in paths))
    job = Job("night", content, style, Recipe(init=str(init)), f"me--{name}", masks=masks)
    key = job_key(job, Digests(lambda: False), ENCODER)
    weights = EncoderWeights("vgg19-slim", bundled_path("vgg19-slim"), ENCODER.digest)
    result = tmp_path / "result.png"
    result.write_bytes(encode_image(DOTS, "png", 95, provenance(job, key, weights)))
    if parts[0].startswith("t/"):  # of a place only as much is told as it takes
        (tmp_path / "t/styles").rename(tmp_path / "styles")
    manifest = tmp_path / "again.yaml"
    manifest.write_text(manifest_text(result, read_origin(result)), encoding="utf-8")
    (again,) = read_manifest(manifest, {}, {}).jobs()
    assert job_key(again, Digests(lambda: False), ENCODER) == key
    assert again.name == job.name


def test_files_of_older_versions_have_no_name_of_a_style(tmp_path):
    path, _ = make_result(tmp_path, {"s.png": 0.7, "t.png": 0.3})
    found = read_origin(path)
    assert manifest_of(found)["pairs"][0]["style"] == {"blend": found["style"], "name": "s"}
    del found["name"]
    assert manifest_of(found)["pairs"][0]["style"] == {"blend": found["style"]}
    path.write_bytes(encode_image(DOTS, "png", 95, found))
    assert read_origin(path) == found


def test_a_comment_that_had_no_room(tmp_path):
    path = tmp_path / "result.jpg"
    left = {"program": "p", "key": "k", LEFT_OUT: "too long for a JPEG"}
    path.write_bytes(encode_image(DOTS, "jpeg", 95, left))
    with pytest.raises(
        UsageError, match="does not say how it was made, which was too long for a JPEG"
    ) as caught:
        read_origin(path)
    assert "record" in caught.value.next_step


def test_names_cannot_leave_their_comment(tmp_path):
    path, _ = make_result(tmp_path, {"s.png": 1.0})
    found = {**read_origin(path), "program": "x\nbatch: elsewhere\x1b[2J"}
    text = manifest_text(path, found)
    assert "\x1b" not in text
    assert yaml.safe_load(text)["batch"] == "again"


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "says nothing about how it was made"),
        ({"step": 10}, "snapshots hold no recipe"),
        ({"recipe": 3}, "its metadata holds no recipe"),
        (
            {
                "content": "a",
                "style": {},
                "encoder": "e",
                "key": "k",
                "program": "p",
                "recipe": {},
                "masks": 3,
            },
            "its metadata holds no recipe",
        ),
    ],
)
def test_pictures_that_tell_nothing(tmp_path, metadata, words):
    path = tmp_path / "theirs.png"
    if metadata is None:
        Image.fromarray(DOTS).save(path)
    else:
        path.write_bytes(encode_image(DOTS, "png", 95, metadata))
    with pytest.raises(UsageError, match=words) as caught:
        read_origin(path)
    assert "theirs.png" in caught.value.message
    assert caught.value.next_step


def test_what_is_no_picture(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "absent.png", "."):
        with pytest.raises(UsageError) as caught:
            read_origin(tmp_path / name)
        assert caught.value.exit_code == 2


def test_the_command(tmp_path, monkeypatch, capsys):
    path, key = make_result(tmp_path, {"s.png": 1.0}, style_weight=7)
    for flags in ([], ["--json"]):
        app(["inspect", str(path), *flags], standalone_mode=False)
        out = capsys.readouterr().out
        found = json.loads(out)["manifest"] if flags else yaml.safe_load(out)
        assert found["recipe"]["style_weight"] == 7
        assert key in out
    Image.fromarray(DOTS).save(tmp_path / "plain.png")
    monkeypatch.setattr("sys.argv", ["style-pipeline", "inspect", str(tmp_path / "plain.png")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "says nothing about how it was made" in capsys.readouterr().err


@pytest.mark.parametrize("depth", [400, 5000])
def test_what_is_nested_without_end_is_refused(tmp_path, depth, capfd, monkeypatch):
    nested = "[" * depth + "]" * depth
    text = PngInfo()
    parts = '"content": "a", "style": {"s": 1}, "encoder": "e", "key": "k", "program": "p"'
    text.add_text("style-pipeline", f'{{{parts}, "recipe": {{"steps": {nested}}}}}')
    path = tmp_path / "odd.png"
    Image.fromarray(DOTS).save(path, pnginfo=text)
    monkeypatch.setattr("sys.argv", ["style-pipeline", "inspect", str(path)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert f"Error: {path}: " in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match=r"pipe\.png"):
        read_origin(tmp_path / "pipe.png")


def test_a_removed_field_is_shown_and_refused_with_advice_when_the_picture_is_made_again(tmp_path):
    path, _ = make_result(tmp_path, {"s.png": 1.0})
    found = read_origin(path)
    manifest = tmp_path / "again.yaml"
    text = manifest_text(path, {**found, "recipe": {**found["recipe"], "match_when": "before"}})
    manifest.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"yaml:\d+: recipe\.match_when: is no longer accepted: .*remove"):
        read_manifest(manifest, {}, {})
