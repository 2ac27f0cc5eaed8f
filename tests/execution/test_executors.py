"""Jobs that run together, with the bundled encoder on very small pictures."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icc_profiles import LOOKUP, PROFILES, formula, make_profile
from PIL import ExifTags, Image, PngImagePlugin
from small_jobs import WHOLE, pixels, run
from xmp_packets import xmp_packet

from pipeline.errors import DiskError
from pipeline.execution.checkpoints import checkpoint_path
from pipeline.execution.executors import InProcessExecutor
from pipeline.images import writing
from pipeline.images.profiles import srgb_profile
from pipeline.images.reading import decode_picture
from pipeline.spec.config import Config
from pipeline.spec.jobs import Masks, StepProgress, Style, Task
from pipeline.spec.recipe import Recipe


def test_pictures_of_one_size_share_a_tensor_and_come_out_as_alone(executor, make_task) -> None:
    tasks = [make_task(number, **WHOLE) for number in (1, 2, 3, 4)]
    seen: list[StepProgress] = []
    results = executor.run(tasks, seen.append, lambda: False)
    assert [(result.status, result.micro_batch) for result in results] == [
        ("done", 3), ("done", 3), ("done", 1), ("done", 3),
    ]  # fmt: skip
    assert {(progress.key, progress.step) for progress in seen} == {
        (task.key, step) for task in tasks for step in (1, 2, 3)
    }
    for task, result in zip(tasks, results, strict=True):
        (alone,) = run(executor, [task])
        assert (alone.width, alone.height) == (result.width, result.height)
        assert np.abs(pixels(alone) - pixels(result)).max() <= 2


def test_another_recipe_does_not_share_but_another_seed_or_format_does(executor, make_task) -> None:
    tasks = [make_task(1), make_task(2, tv_weight=1.0), make_task(4, init="noise", seed=5, format="jpeg")]
    assert [result.micro_batch for result in run(executor, tasks)] == [2, 1, 2]


@pytest.mark.parametrize(
    "fields",
    [
        {"color": "content"},
        {"color": "luminance"},
    ],
    ids=str,
)
def test_snapshots_and_results_have_the_contents_colours(executor, make_task, fields) -> None:
    """A grey content gives a grey result, where the style alone would give a coloured one."""
    fields = {**fields, "init": "style", "snapshot_every": 1, "margin": 4}
    task = make_task(1, **fields)
    Image.open(task.job.content).convert("L").save(task.job.content)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.job.input_paths}
    seen: list[StepProgress] = []
    (result,) = executor.run([replace(task, digests=digests)], seen.append, lambda: False)
    shots = [np.asarray(Image.open(io.BytesIO(progress.snapshot or b"")), int) for progress in seen]
    assert all(np.ptp(shot, axis=2).max() == 0 for shot in (*shots, pixels(result)))
    assert len(shots) == 3
    (plain,) = run(executor, [make_task(2, init="style")])
    assert np.ptp(pixels(plain), axis=2).max() > 20


def test_a_picture_that_cannot_be_read_fails_its_own_job_only(executor, make_task) -> None:
    tasks = [make_task(number) for number in (1, 2)]
    changed, fine = tasks
    Image.new("RGB", (48, 36)).save(changed.job.content)
    broken, done = run(executor, [changed, fine])
    assert (broken.status, done.status, done.micro_batch) == ("failed", "done", 1)
    assert "changed while it was waiting" in broken.error


def test_exif_too_long_for_a_jpeg_is_left_out_with_a_note(executor, make_task) -> None:
    task = make_task(1, format="jpeg", exif="keep")
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70_000
    with Image.open(task.job.content) as image:
        image.save(task.job.content, exif=exif)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.job.input_paths}
    (result,) = run(executor, [replace(task, digests=digests)])
    assert result.status == "done"
    assert result.notes == ("1.png: its EXIF is too long for a JPEG and is left out.",)


def test_metadata_is_kept_only_where_that_is_asked_for(executor, make_task) -> None:
    for wanted in ("keep", "drop"):
        task = make_task(1, format="tiff", exif=wanted)
        with Image.open(task.job.content) as image:
            packet = PngImagePlugin.PngInfo()
            packet.add_itxt("XML:com.adobe.xmp", xmp_packet().decode().rstrip("\0"))
            image.save(task.job.content, pnginfo=packet, dpi=(300, 300))
        digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.job.input_paths}
        (result,) = run(executor, [replace(task, digests=digests)])
        assert result.notes == ()
        assert (b"harbour" in result.image) == (b"GPSLatitude" in result.image) == (wanted == "keep")
        assert Image.open(io.BytesIO(result.image)).info.get("dpi") == (
            (300, 300) if wanted == "keep" else (1, 1)
        )


def test_exif_that_cannot_be_read_is_noted_if_it_is_to_be_kept(executor, make_task) -> None:
    for wanted, notes in (
        ("keep", ("1.png: its EXIF cannot be read and is left out.",)),
        ("drop", ()),
    ):
        task = make_task(1, format="jpeg", exif=wanted)
        with Image.open(task.job.content) as image:
            image.save(task.job.content, exif=b"Exif\0\0XX*\0\0\0\0\x08")
        digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.job.input_paths}
        (result,) = run(executor, [replace(task, digests=digests)])
        assert result.status == "done"
        assert result.notes == notes


def test_provenance_too_long_for_a_jpeg_is_left_out_with_a_note(executor, make_task) -> None:
    for image_format, notes in (
        ("jpeg", ("1.png: its provenance is too long for a JPEG and is left out; PNG",)),
        ("png", ()),
    ):
        task = make_task(1, format=image_format)
        style = replace(task.job.style, name="x" * 66_000)
        (result,) = run(executor, [replace(task, job=replace(task.job, style=style))])
        assert result.status == "done"
        assert [note[: len(start)] for note, start in zip(result.notes, notes, strict=True)] == [*notes]
        found = writing.read_provenance(result.image, "result")
        assert found is not None
        assert ("recipe" in found, writing.LEFT_OUT in found) == (not notes, bool(notes))
        assert found["key"] == task.key


def test_a_result_that_its_file_cannot_hold_fails_its_own_job_only(executor, make_task, monkeypatch) -> None:
    encode, refused = writing.encode_image, []

    def encode_image(*arguments: Any) -> bytes:
        if not refused:
            refused.append(True)
            raise ValueError("it is too long")
        return encode(*arguments)

    monkeypatch.setattr(writing, "encode_image", encode_image)
    results = run(executor, [make_task(1), make_task(2)])
    assert sorted(result.status for result in results) == ["done", "failed"]


def masked(task: Task, styles: int = 2, **drawn: Any) -> Task:
    """The same task with its style, and copies of it, in stripes from left to right."""
    job = task.job
    width, height = drawn.get("size", (48, 36))
    levels = np.repeat(np.arange(styles), width // styles)[None].repeat(height, 0) * (255 // (styles - 1))
    mask = job.content.with_name(f"{job.content.stem}-mask.png")
    Image.fromarray(levels.astype(np.uint8)).save(mask)
    images = [job.style.images[0][0]]
    for number in range(1, styles):
        images.append(job.content.with_name(f"style{number}.png"))
        Image.open(images[0]).rotate(90 * number).save(images[-1])
    colors = tuple((255 // (styles - 1) * n / 255,) * 3 for n in range(styles))
    style = Style("s", tuple((path, 1.0) for path in images))
    job = replace(job, style=style, masks=Masks(mask, drawn.get("colors", colors)))
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in job.input_paths}
    return Task(job, task.key, digests)


def test_jobs_with_as_many_regions_share_a_tensor_and_come_out_as_alone(executor, make_task) -> None:
    tasks = [masked(make_task(number, margin=5)) for number in (1, 2)]
    tasks += [make_task(4, margin=5), masked(make_task(5, margin=5), styles=3)]
    results = run(executor, tasks)
    assert [(result.status, result.micro_batch, result.notes) for result in results] == [
        ("done", 2, ()), ("done", 2, ()), ("done", 1, ()), ("done", 1, ()),
    ]  # fmt: skip
    for task, result in zip(tasks, results, strict=True):
        (alone,) = run(executor, [task])
        assert np.abs(pixels(alone) - pixels(result)).max() <= 2


def test_a_masked_job_resumes_from_its_checkpoint(executor, make_task) -> None:
    task = masked(make_task(1, margin=5))
    (whole,) = run(executor, [task])
    looks = iter([False, False, True])
    (stopped,) = run(executor, [task], lambda: next(looks))
    (resumed,) = run(executor, [task])
    assert (stopped.status, resumed.status, resumed.resumed_from_step) == ("stopped", "done", 2)
    assert np.abs(pixels(whole) - pixels(resumed)).max() <= 1


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux tells what a process has open")
def test_a_resumed_job_does_not_keep_the_checkpoint_that_it_replaced(executor, make_task) -> None:
    def deleted() -> list[str]:
        opened = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [name for name in opened if name.endswith(".safetensors (deleted)")]

    task, looks = make_task(1, steps=5), iter([False, False, True])
    writing = InProcessExecutor(executor.config.model_copy(update={"checkpoint_s": 0.0}))
    assert run(writing, [task], lambda: next(looks))[0].status == "stopped"
    seen: dict[int, list[str]] = {}
    (resumed,) = writing.run([task], lambda step: seen.update({step.step: deleted()}), lambda: False)
    assert (resumed.status, resumed.resumed_from_step) == ("done", 2)
    assert seen[5] == []


def test_regions_too_small_are_noted(executor, make_task) -> None:
    (result,) = run(executor, [masked(make_task(1, steps=1, style_layers=WHOLE["style_layers"]), styles=3)])
    assert result.status == "done"
    assert [note.partition(" is too small for ")[0] for note in result.notes] == [
        "1-mask.png: the region of style.png (0)",
        "1-mask.png: the region of style1.png (0.498)",
        "1-mask.png: the region of style2.png (0.996)",
    ]
    assert all("relu5_1 at 48 pixels" in note for note in result.notes)


def test_masks_that_cannot_be_used_fail_their_own_job(executor, make_task) -> None:
    tall = masked(make_task(1, margin=5), size=(36, 48))
    unseen = masked(
        make_task(2, margin=5), colors=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0)), styles=3
    )
    results = run(executor, [tall, unseen, masked(make_task(4, margin=5))])
    assert [result.status for result in results] == ["failed", "failed", "done"]
    assert "1-mask.png: this mask has 36 x 48 pixels" in results[0].error
    assert "2-mask.png: the colour of style2.png (#ff0000) is nowhere in this mask" in results[1].error
    assert all(result.next_step for result in results[:2])


def test_stopped_together_they_resume_together_or_apart(executor, make_task) -> None:
    tasks = [make_task(number) for number in (1, 2)]
    expected = [pixels(result) for result in run(executor, tasks)]
    looks = iter([False, False, True])
    assert {result.status for result in run(executor, tasks, lambda: next(looks))} == {"stopped"}
    (first,) = run(executor, tasks[:1])
    assert (first.status, first.resumed_from_step, first.micro_batch) == ("done", 2, 1)
    executor.forget(tasks[0].key)
    # The first starts over now, so the two are no longer at one point.
    again, second = run(executor, tasks)
    assert (again.micro_batch, second.micro_batch, second.resumed_from_step) == (1, 1, 2)
    for result, wanted in ((first, expected[0]), (again, expected[0]), (second, expected[1])):
        assert np.abs(pixels(result) - wanted).max() <= 2


def test_a_checkpoint_that_cannot_be_deleted_is_a_fault_of_the_machine(executor) -> None:
    checkpoint_path(executor.config, "k").mkdir(parents=True)
    with pytest.raises(DiskError, match="the checkpoint cannot be deleted"):
        executor.forget("k")


def test_a_cpu_makes_one_picture_at_a_time_unless_told_otherwise(executor) -> None:
    assert executor.micro_batch(Recipe()) == 1
    told = InProcessExecutor(executor.config.model_copy(update={"micro_batch": 5}))
    assert told.micro_batch(Recipe()) == 5


def transparent_task(make_task: Callable[..., Task], **fields: Any) -> Task:
    """A content that is transparent on its left half, at 16 bits if asked for, and has EXIF."""
    task = make_task(1, **fields)
    pixels = np.array(Image.open(task.job.content))
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :24] = 0
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 1
    Image.fromarray(np.dstack([pixels, alpha])).save(task.job.content, exif=exif)
    digest = hashlib.sha256(task.job.content.read_bytes()).hexdigest()
    return Task(task.job, task.key, {**task.digests, task.job.content: digest})


@pytest.mark.parametrize("image_format", ["png", "webp", "tiff"])
def test_transparency_comes_out_at_the_size_of_the_result(executor, make_task, image_format) -> None:
    task = transparent_task(make_task, size=64, format=image_format)
    (result,) = run(executor, [task])
    picture = pixels(result)
    assert picture.shape == (48, 64, 4)
    assert picture[:, :28, 3].max() <= 8
    assert picture[:, 36:, 3].min() >= 247
    white = run(executor, [transparent_task(make_task, size=64, format=image_format, transparency="white")])
    assert pixels(white[0]).shape == (48, 64, 3)
    # What is beneath is the same picture.
    difference = np.abs(pixels(white[0])[:, 36:] - picture[:, 36:, :3])
    assert difference.max() <= (40 if image_format == "webp" else 0)


def test_jpeg_is_on_white(executor, make_task) -> None:
    (result,) = run(executor, [transparent_task(make_task, format="jpeg")])
    assert pixels(result).shape == (36, 48, 3)


def test_a_result_of_sixteen_bits_has_them(executor, make_task) -> None:
    tasks = [transparent_task(make_task, format="tiff", bit_depth=bits) for bits in (8, 16)]
    eight, sixteen = (
        decode_picture(result.image, "result") for task in tasks for result in run(executor, [task])
    )
    assert eight.rgb16_HWC is None
    assert sixteen.rgb16_HWC is not None
    assert len(np.unique(sixteen.rgb16_HWC & 255)) > 200
    assert np.abs(np.asarray(eight.image, int) - np.asarray(sixteen.image)).max() <= 1
    assert np.array_equal(np.unique(sixteen.alpha_HW), [0, 65535])


def with_profile(task: Task, profile: bytes, mode: str = "RGB") -> Task:
    """The same job with a content whose pixels are meant in another profile."""
    content = task.job.content
    Image.open(content).convert(mode).save(content, "TIFF", icc_profile=profile)
    return replace(task, digests={**task.digests, content: hashlib.sha256(content.read_bytes()).hexdigest()})


@pytest.mark.parametrize(
    ("image_format", "bits"), [("png", 8), ("png", 16), ("tiff", 16), ("jpeg", 8), ("webp", 8)]
)
def test_a_result_can_keep_the_contents_profile(executor, make_task, image_format, bits) -> None:
    """Read again, it is the picture that would have been in sRGB."""
    profile = PROFILES["Display P3"]
    fields = {"format": image_format, "bit_depth": bits, "quality": 100}
    tasks = [
        with_profile(make_task(number, profile=wanted, **fields), profile)
        for number, wanted in enumerate(("srgb", "keep"))
    ]
    tasks[1] = replace(
        tasks[1], job=replace(tasks[1].job, content=tasks[0].job.content), digests=tasks[0].digests
    )
    results = run(executor, tasks)
    assert [result.notes for result in results] == [(), ()]
    assert {result.micro_batch for result in results} == {2}
    files = [Image.open(io.BytesIO(result.image)) for result in results]
    assert [file.info["icc_profile"] == profile for file in files] == [False, True]
    assert np.abs(pixels(results[0]) - pixels(results[1])).max() > 10
    found = [decode_picture(result.image, "result") for result in results]
    assert [picture.rgb16_HWC is not None for picture in found] == [bits == 16] * 2
    plain, kept = (np.asarray(picture.image, int) for picture in found)
    if image_format in {"png", "tiff"}:
        assert np.abs(plain - kept).mean() < (0.5 if bits == 8 else 0.01)


def test_transparency_and_a_profile_go_together(executor, make_task) -> None:
    task = transparent_task(make_task, profile="keep")
    with Image.open(task.job.content) as image:
        image.load()
    image.save(task.job.content, icc_profile=PROFILES["Adobe RGB"])
    digest = hashlib.sha256(task.job.content.read_bytes()).hexdigest()
    (result,) = run(executor, [replace(task, digests={**task.digests, task.job.content: digest})])
    assert result.notes == ()
    assert np.array_equal(np.unique(pixels(result)[:, :, 3]), [0, 255])


@pytest.mark.parametrize(
    ("mode", "profile", "bits", "note"),
    [
        ("RGB", b"", 8, "it has no colour profile to keep; the result is sRGB"),
        ("L", make_profile(formula(0, 1.8), None), 8, "its colour profile is not an RGB profile"),
        (
            "CMYK",
            srgb_profile().replace(b"RGB XYZ", b"CMYKLab", 1),
            8,
            "its colour profile is not an RGB profile",
        ),
        ("RGB", LOOKUP, 16, "its colour profile has more than curves and a matrix; the result is"),
    ],
)
def test_a_profile_that_is_not_kept_as_it_is_is_noted(executor, make_task, mode, profile, bits, note) -> None:
    task = with_profile(make_task(1, profile="keep", bit_depth=bits), profile, mode)
    (result,) = run(executor, [task])
    assert result.status == "done"
    assert [said for said in result.notes if said.startswith(f"1.png: {note}")]
    found = Image.open(io.BytesIO(result.image)).info["icc_profile"]
    assert found == (LOOKUP if profile == LOOKUP else srgb_profile())


def test_exif_is_kept_if_asked_for(executor, make_task) -> None:
    for wanted, kept in (("keep", {0x010F: "Camera"}), ("drop", {})):
        (result,) = run(executor, [transparent_task(make_task, exif=wanted, format="jpeg")])
        assert dict(Image.open(io.BytesIO(result.image)).getexif()) == kept


def test_what_could_not_be_used_is_noted(executor, make_task) -> None:
    task = make_task(1)
    frames = [Image.fromarray(np.full((36, 48, 3), grey, np.uint8)) for grey in (90, 180)]
    frames[0].save(task.job.content, save_all=True, append_images=frames[1:])
    digest = hashlib.sha256(task.job.content.read_bytes()).hexdigest()
    (result,) = run(executor, [Task(task.job, task.key, {**task.digests, task.job.content: digest})])
    assert result.status == "done"
    assert result.notes == ("1.png: it has several frames or pages; only the first is used.",)
    assert run(executor, [make_task(2)])[0].notes == ()


def test_a_side_too_long_for_its_format_is_refused_before_the_work(executor, make_task, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.images.writing.LONGEST", {"webp": 40})
    (result,) = run(executor, [make_task(1, format="webp", upscale_to_content=True)])
    assert result.status == "failed"
    assert "1.png: webp holds at most 40 pixels on a side, not 48." in result.error


def test_folders_whose_names_no_disk_takes_are_not_swept() -> None:
    unusable = Path("x" * 300)
    assert InProcessExecutor(Config(state_dir=unusable, cache_dir=unusable)).device_name()


def test_what_a_killed_process_left_unfinished_is_swept_at_the_start(executor) -> None:
    config = executor.config
    folders = [config.state_dir, config.state_dir / "checkpoints", config.cache_dir / "targets"]
    folders.append(config.cache_dir / "weights")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".unfinished-0123456789abcdef").write_bytes(b"half")
    executor.session()
    assert [path for folder in folders for path in folder.glob(".unfinished-*")] == []


def test_an_old_checkpoint_that_cannot_be_removed_does_not_keep_the_rest(executor, monkeypatch) -> None:
    old = [checkpoint_path(executor.config, str(number) * 64) for number in (1, 2)]
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
        os.utime(path, (0, 0))
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == old[0]:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    executor.session()
    assert [path.exists() for path in old] == [True, False]
