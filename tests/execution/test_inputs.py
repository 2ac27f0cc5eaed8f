from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import ImageError, JobError
from pipeline.execution.inputs import prepare, read_picture, read_request, request_notes
from pipeline.images.writing import encode_image
from pipeline.spec.jobs import Job, Masks, Style, Task
from pipeline.spec.recipe import Recipe
from pipeline.transfer.checkpoints import RunState, write_checkpoint
from pipeline.transfer.pyramid import plan_levels
from pipeline.vgg.weights import EncoderWeights, bundled_path

SLIM = EncoderWeights("vgg19-slim", bundled_path("vgg19-slim"), "1" * 64)


def make_task(make_picture, digests=None, **fields) -> Task:
    content, style = make_picture("a.png", 0, (48, 36)), make_picture("s.png", 1)
    recipe = Recipe(**{"size": 48, "pyramid": 0, **fields})
    job = Job("night", content, Style("s", ((style, 1.0),)), recipe, "a--s")
    return Task(job, "1" * 64, digests or {path: read_picture(path).sha256 for path in job.input_paths})


def test_a_job_is_prepared_with_its_levels_and_starts_anew_without_a_checkpoint(make_picture, environment):
    task = make_task(make_picture)
    prepared = prepare(task, SLIM, environment / "absent.safetensors", 89)
    assert prepared.request.content.image.size == (48, 36)
    assert {level.size for level in prepared.levels} == {(48, 36)}
    assert (prepared.state.level, prepared.state.rows, prepared.notes) == (0, [], ())


@pytest.mark.parametrize(
    ("damage", "said"),
    [(False, "its checkpoint does not fit the job"), (True, "its checkpoint is damaged")],
)
def test_a_checkpoint_that_cannot_be_used_is_noted_and_the_job_starts_over(
    make_picture, environment, damage, said
):
    path = environment / "key.safetensors"
    write_checkpoint(path, RunState(step=3, canvas=torch.zeros(1, 3, 4, 4)))
    if damage:
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    prepared = prepare(make_task(make_picture), SLIM, path, 89)
    assert (prepared.state, prepared.notes) == (RunState(), (f"a.png: {said}; the job starts over.",))


def test_a_layer_that_the_encoder_lacks_is_refused(make_picture, environment):
    task = make_task(make_picture, style_layers={"relu5_4": 1.0})
    with pytest.raises(JobError, match="the layer relu5_4 is not in vgg19-slim"):
        prepare(task, SLIM, environment / "absent.safetensors", 89)


@pytest.mark.parametrize(
    ("fields", "most", "said"),
    [
        ({"size": 2000}, 2, "the result would have 2,000 x 1,500 pixels, more than 2 million"),
        ({"size": 2000}, 3, None),
        ({"size": 1600, "square": True}, 2, "1,600 x 1,600 pixels, more than 2 million"),
        ({"upscale_to_content": True, "format": "webp"}, 2, "webp holds at most 40 pixels on a side, not 48"),
        ({"upscale_to_content": True, "format": "jpeg"}, 2, None),
    ],
)
def test_a_result_that_is_too_large_is_refused_before_it_is_made(
    make_picture, environment, monkeypatch, fields, most, said
):
    monkeypatch.setattr("pipeline.images.writing.LONGEST", {"webp": 40})
    task = make_task(make_picture, **fields)
    if said is None:
        prepare(task, SLIM, environment / "absent.safetensors", most)
        return
    with pytest.raises(ImageError, match=said) as caught:
        prepare(task, SLIM, environment / "absent.safetensors", most)
    assert caught.value.message.startswith(str(task.job.content))
    assert "size" in caught.value.next_step


def test_a_picture_that_changed_is_refused(make_picture, environment):
    task = make_task(make_picture)
    make_picture("s.png", 2)
    with pytest.raises(JobError, match=r"s\.png: the file changed while it was waiting"):
        prepare(task, SLIM, environment / "absent.safetensors", 89)


def test_a_picture_that_is_none_is_refused(environment):
    (environment / "a.png").write_bytes(b"none")
    with pytest.raises(ImageError, match=r"a\.png"):
        read_picture(environment / "a.png")


@pytest.mark.parametrize("name", ["a.png", "s.png"])
def test_a_picture_that_is_fully_transparent_is_refused(make_picture, environment, name):
    make_task(make_picture)
    Image.new("RGBA", (48, 36), (200, 30, 20, 0)).save(environment / name)
    job = Job("b", environment / "a.png", Style("s", ((environment / "s.png", 1.0),)), Recipe(), "n")
    with pytest.raises(ImageError, match=rf"{name}: the picture is fully transparent"):
        read_request(job)


def test_what_is_no_path_is_refused():
    with pytest.raises(ImageError, match=r"'a\\x00\.png': not a path"):
        read_picture(Path("a\0.png"))


def test_a_note_is_made_once(environment) -> None:
    """One file is content, mask and both styles."""
    path, frame = environment / "a.gif", Image.new("L", (48, 36))
    frame.paste(255, (24, 0, 48, 36))
    frame.save(path, save_all=True, append_images=[Image.new("L", (48, 36))])
    masks = Masks(path, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    recipe = Recipe(size=48, style_layers=["relu1_1"])
    request = read_request(Job("", path, Style("s", ((path, 1.0), (path, 1.0))), recipe, "a", masks=masks))
    assert request_notes(request, plan_levels(recipe, (48, 36))) == (
        "a.gif: it has several frames or pages; only the first is used.",
    )


def test_a_16_bit_content_reaches_the_network_whole(make_picture, environment) -> None:
    ramp_HWC = np.linspace(30_000, 30_200, 48 * 36 * 3).round().astype(np.uint16).reshape(36, 48, 3)
    (environment / "deep.png").write_bytes(encode_image(ramp_HWC, "png", 95, {}))
    tensor = read_picture(environment / "deep.png").tensor((48, 36))
    assert len(tensor.unique()) > 200
