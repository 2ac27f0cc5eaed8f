"""The training script runs from end to end on a tiny teacher, and what it writes is an encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import distill_encoder
import pruning
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import random_image, tiny_weights

from pipeline.errors import DiskError
from pipeline.transfer.tensors import to_image
from pipeline.vgg.encoder import TORCHVISION_INDEX, Encoder
from pipeline.vgg.weights import bundled_path

NARROW = ",".join(["3"] * 13)


@pytest.fixture
def distill(monkeypatch):
    """Return a function that trains a narrow student for four steps: (weights, reports)."""
    monkeypatch.setattr(distill_encoder, "LOOKS", (1, 2))
    Path("pictures").mkdir()
    for seed in range(3):
        to_image(random_image(40, 48, seed)).save(f"pictures/{seed}.png")

    def run(
        teacher: str, *flags: str, out: str = "slim"
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        small = {"side": 32, "batch": 3, "steps": 4, "report-every": 2, "hold-out": 3, "calibration": 4}
        small |= {"refresh-every": 3}
        sizes = [f"--{key}={value}" for key, value in small.items()]
        arguments = [f"--teacher={teacher}", "--images=pictures", f"--out={out}.safetensors"]
        monkeypatch.setattr(sys, "argv", ["distill_encoder.py", *arguments, *sizes, *flags])
        distill_encoder.main()
        return load_file(f"{out}.safetensors"), json.loads(Path(f"{out}.training.json").read_text())

    return run


def repeated(weights: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """Widen a network without changing what it computes (Net2WiderNet, Chen et al. 2016)."""
    wide = {}
    for key, value in weights.items():
        value = value.repeat_interleave(times, 0)
        if value.ndim == 4 and not key.startswith("conv1_1"):
            value = value.repeat_interleave(times, 1) / times
        wide[key] = value
    return wide


def test_learns_from_a_torchvision_checkpoint(distill, capsys):
    weights = tiny_weights(width=6)
    features = {
        f"features.{index}.{part}": weights[f"{name}.{part}"]
        for name, index in TORCHVISION_INDEX.items()
        for part in ("weight", "bias")
    }
    torch.save(features, "teacher.pth")
    student, reports = distill("teacher.pth", f"--widths={NARROW}", "--style-factor=1.25")
    assert [report["step"] for report in reports] == [0, 2, 4]
    assert all(report["features, canvases"] > 0 and report["style, photographs"] > 0 for report in reports)
    assert student.pop("style_factor") == 1.25
    assert {tensor.dtype for tensor in student.values()} == {torch.float16}
    encoder = Encoder({key: value.float() for key, value in student.items()}, ["relu5_1"])
    assert encoder(torch.rand(1, 3, 32, 32))["relu5_1"].shape[1] == 3
    out = capsys.readouterr().out
    assert "2 pictures to learn from; for validation: 0.png" in out
    assert "| relu5_1 | 3 |" in out
    assert not Path("slim.checkpoint").exists()


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(distill, monkeypatch):
    save_file(tiny_weights(width=6), "teacher.safetensors")
    options = ("teacher.safetensors", f"--widths={NARROW}")
    whole, reports = distill(*options, out="whole")

    def interrupted(run: object, path: Path, settings: dict[str, str]) -> None:
        save(run, path, settings)
        if run.step == 2:
            raise KeyboardInterrupt

    save = distill_encoder.Run.save
    monkeypatch.setattr(distill_encoder.Run, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill(*options)
    monkeypatch.setattr(distill_encoder.Run, "save", save)
    with pytest.raises(SystemExit, match="another widths, seed"):
        distill("teacher.safetensors", "--widths=2,3,3,3,3,3,3,3,3,3,3,3,3", "--seed=1", "--resume")
    resumed, again = distill(*options, "--resume")
    assert [report["loss"] for report in again] == [report["loss"] for report in reports]
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_a_repeated_network_is_pruned_to_itself(distill, capsys):
    """A silent channel goes as well, and a student that is its teacher is not trained."""
    original = tiny_weights(width=4)
    original["conv3_2.bias"][1] = -1000
    save_file(repeated(original, 3), "teacher.safetensors")
    student, reports = distill("teacher.safetensors", "--widths=4,4,4,4,4,3,4,4,4,4,4,4,4")
    assert "nothing to learn" in capsys.readouterr().out
    assert [report["step"] for report in reports] == [0]
    small = Encoder({key: value.float() for key, value in student.items()}, ["relu5_1"], padding="reflect")
    image = random_image()
    expected = Encoder(original, ["relu5_1"], padding="reflect")(image)["relu5_1"]
    apart = (small(image)["relu5_1"][0, :, None] - expected[0, None]).abs().amax((2, 3))
    # Each channel of the teacher's is there; features have deviations of about 1, the file is in float16.
    assert apart.amin(0).max() < 0.02


def test_deep_layers_are_trained_on_top_of_an_earlier_student(distill):
    save_file(tiny_weights(width=6), "teacher.safetensors")
    first, _ = distill("teacher.safetensors", f"--widths={NARROW}", out="first")
    wider = ",".join(["3"] * 9 + ["4"] * 4)
    options = ("teacher.safetensors", f"--widths={wider}", "--start=first.safetensors", "--seed=1")
    second, reports = distill(*options, "--train-from=conv4_2")
    for name in pruning.NETWORK:
        same = [torch.equal(first[f"{name}.{part}"], second[f"{name}.{part}"]) for part in ("weight", "bias")]
        assert all(same) == (name < "conv4_2"), name
    assert reports[0]["layers"]["features, photographs"]["conv1_1"] < 0.01
    with pytest.raises(SystemExit, match=r"first.safetensors has 3 channels in conv4_2, --widths says 4"):
        distill(*options, "--train-from=conv4_3")
    with pytest.raises(SystemExit, match=r"--start and --train-from go together"):
        distill(*options)


def test_the_channels_of_a_student_are_found():
    teacher = tiny_weights(width=6)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    student, kept = pruning.prune(teacher, images, dict.fromkeys(pruning.NETWORK, 4))
    found = pruning.matching_channels({k: v for k, v in student.items() if k < "conv2"}, teacher, images)
    assert found == {name: kept[name] for name in ("conv1_1", "conv1_2")}


def test_channels_are_chosen_by_what_they_explain():
    rows = torch.randn(3, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.stack([0.1 * rows[0], rows[1], 2 * rows[1], 0 * rows[0], rows[2] + rows[1]])
    covariance = rows @ rows.T / 200
    chosen = pruning.choose_channels(covariance, 3, torch.eye(5, dtype=torch.float64))
    assert chosen in ([0, 1, 4], [0, 2, 4])
    rebuilt = pruning.rebuilding(covariance, chosen) @ rows[chosen]
    assert torch.allclose(rebuilt, rows, atol=1e-6)
    # What does not reach the layer above is not worth a channel.
    deaf = torch.diag(torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64))
    assert pruning.choose_channels(covariance, 1, deaf)[0] in (1, 2)


def test_what_cannot_be_used_is_refused(distill):
    save_file(tiny_weights(width=2), "narrow.safetensors")
    with pytest.raises(SystemExit, match="conv1_1 is narrower"):
        distill("narrow.safetensors", f"--widths={NARROW}")
    save_file({"conv1_1.weight": torch.zeros(4, 3, 3, 3)}, "part.safetensors")
    with pytest.raises(SystemExit, match=r"part.safetensors is not a VGG-19: conv1_1.bias is missing"):
        distill("part.safetensors")
    mixed = {**tiny_weights(width=4), "conv3_1.weight": torch.zeros(4, 5, 3, 3)}
    save_file(mixed, "mixed.safetensors")
    with pytest.raises(SystemExit, match=r"mixed.safetensors is not a VGG-19: conv3_1.weight has the shape"):
        distill("mixed.safetensors")
    Path("junk.pth").write_bytes(b"junk")
    with pytest.raises(SystemExit, match=r"junk.pth cannot be read as a checkpoint"):
        distill("junk.pth")
    torch.save({"classifier.0.weight": torch.zeros(1)}, "other.pth")
    with pytest.raises(SystemExit, match=r"other.pth is not a VGG-19: features.0.weight is missing"):
        distill("other.pth")
    with pytest.raises(SystemExit, match=r"none is left to learn from.*raise --hold-out"):
        distill("narrow.safetensors", "--hold-out=1")
    with pytest.raises(SystemExit, match=r"nowhere is not a folder"):
        distill("narrow.safetensors", "--images=nowhere")
    Path("empty").mkdir()
    with pytest.raises(SystemExit, match=r"empty: 0 pictures"):
        distill("narrow.safetensors", "--images=empty")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--widths=3,3", "expected 13 widths, got 2"),
        (f"--widths={NARROW[:-1]}0", "expected a whole number above 0, got '0'"),
        ("--hold-out=0", "expected a whole number above 0, got '0'"),
        ("--steps=many", "expected a whole number above 0, got 'many'"),
        ("--side=16", "expected 32 pixels or more, got 16"),
        ("--out=slim.pth", "expected a name that ends in .safetensors, got 'slim.pth'"),
    ],
)
def test_options_out_of_range_are_usage_errors(distill, capsys, flag, said):
    with pytest.raises(SystemExit) as caught:
        distill("never-read.pth", flag)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_not_resumed(distill, monkeypatch):
    save_file(tiny_weights(width=6), "teacher.safetensors")
    options = ("teacher.safetensors", f"--widths={NARROW}", "--resume")
    with pytest.raises(SystemExit, match=r"slim.checkpoint cannot be resumed: No such file"):
        distill(*options)
    for foreign in ({"conv1_1.weight": torch.zeros(1)}, {"settings": {}, "weights": {}}, [1]):
        torch.save(foreign, "slim.checkpoint")
        with pytest.raises(SystemExit, match=r"slim.checkpoint cannot be resumed: it is damaged, or no"):
            distill(*options)
    Path("slim.checkpoint").write_bytes(b"junk")
    with pytest.raises(SystemExit, match=r"slim.checkpoint cannot be resumed: it is damaged, or no"):
        distill(*options)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    distill(*options[:-1])
    # Other files under the same names.
    save_file(tiny_weights(width=6, seed=1), "teacher.safetensors")
    to_image(random_image(40, 48, 9)).save("pictures/1.png")
    with pytest.raises(SystemExit, match=r"slim.checkpoint has another teacher, pictures"):
        distill(*options)


def test_a_full_disk_is_reported(distill, monkeypatch):
    def full(path: Path, data: bytes) -> None:
        raise DiskError(f"{path}: cannot be written (No space left on device).")

    save_file(tiny_weights(width=3), "teacher.safetensors")
    monkeypatch.setattr(distill_encoder, "write_file", full)
    with pytest.raises(
        SystemExit, match=r"slim.safetensors: cannot be written \(No space left on device\). The last report"
    ):
        distill("teacher.safetensors", f"--widths={NARROW}")


def test_an_unreadable_picture_is_left_out(distill, capsys):
    Path("pictures/broken.png").write_bytes(b"broken")
    save_file(tiny_weights(width=3), "teacher.safetensors")
    distill("teacher.safetensors", f"--widths={NARROW}")
    out = capsys.readouterr().out
    assert "Left out: " in out
    assert "broken.png" in out


def test_the_bundled_network_has_the_widths_of_the_script():
    bundled = load_file(bundled_path("vgg19-slim"))
    widths = tuple(len(bundled[f"{name}.bias"]) for name in pruning.NETWORK)
    assert widths == distill_encoder.WIDTHS
