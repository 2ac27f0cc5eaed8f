"""What two well-known programs minimise, against a direct transcription in float64; then whole runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tiny import random_image, tiny_weights
from torch import Tensor

from benchmarks import anchors
from benchmarks.anchors import CONTENT_LAYER, STYLE_LAYERS, Gaussian
from pipeline.vgg.encoder import IMAGENET_MEAN, IMAGENET_STD, TORCHVISION_INDEX, Encoder


def layer(seed: int, channels: int = 5, height: int = 6, width: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, height, width, generator=generator, dtype=torch.float64).relu()


def rows(features_1CHW: Tensor) -> np.ndarray:
    """Channels by positions."""
    return features_1CHW[0].flatten(1).numpy()


def double_features(image_BCHW: Tensor) -> Mapping[str, Tensor]:
    encoder = Encoder(tiny_weights(), [*STYLE_LAYERS, CONTENT_LAYER], "max", "zeros").double()
    return encoder(image_BCHW.double())


def gaussian_by_hand(f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = f.mean(1)
    centred = f - mean[:, None]
    return mean, centred @ centred.T / f.shape[1] + 1e-4 * np.eye(len(f))


def wasserstein_by_hand(f: np.ndarray, s: np.ndarray) -> float:
    """The trace of the root by the eigenvalues of the plain product ΣΣ̂, which has the same."""
    (mean, covariance), (style_mean, style_covariance) = gaussian_by_hand(f), gaussian_by_hand(s)
    cross = np.sqrt(np.linalg.eigvals(covariance @ style_covariance).real).sum()
    spread = np.trace(covariance) + np.trace(style_covariance) - 2 * cross
    return ((mean - style_mean) ** 2).sum() / len(f) + spread / len(f)


def test_a_layer_is_its_mean_and_its_covariance() -> None:
    mean, covariance = gaussian_by_hand(rows(layer(0)))
    assert np.allclose(Gaussian.of(layer(0)).mean.numpy(), mean, atol=1e-14)
    assert np.allclose(Gaussian.of(layer(0)).covariance.numpy(), covariance, atol=1e-14)


def test_a_matrix_root_squared_is_the_matrix() -> None:
    covariance = Gaussian.of(layer(0)).covariance
    root = anchors.matrix_root(covariance)
    assert torch.allclose(root, root.T, atol=1e-12)
    assert torch.allclose(root @ root, covariance, atol=1e-12)
    assert torch.linalg.eigvalsh(root).min() > 0


def test_the_wasserstein_distance() -> None:
    style = Gaussian.of(layer(1, height=4))
    root = anchors.matrix_root(style.covariance)
    distance = anchors.wasserstein_distance(Gaussian.of(layer(0)), style, root)
    assert distance.item() == pytest.approx(wasserstein_by_hand(rows(layer(0)), rows(layer(1, height=4))))
    assert anchors.wasserstein_distance(style, style, root).item() == pytest.approx(0, abs=1e-12)
    current = layer(0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: anchors.wasserstein_distance(Gaussian.of(x), style, root), current
    )


def test_squared_variation() -> None:
    image = random_image(5, 4).double()
    x, total = image[0].numpy(), 0.0
    for channel in range(3):
        for row in range(5):
            for column in range(4):
                across = x[channel, row, min(column + 1, 3)] - x[channel, row, column]
                down = x[channel, min(row + 1, 4), column] - x[channel, row, column]
                total += across**2 + down**2
    assert anchors.squared_variation(image).item() == pytest.approx(total / (3 * 5 * 4))


def test_absolute_variation() -> None:
    image = random_image(5, 4).double()
    expected = np.abs(np.diff(image.numpy(), axis=2)).sum() + np.abs(np.diff(image.numpy(), axis=3)).sum()
    assert anchors.absolute_variation(image).item() == pytest.approx(expected)


def test_the_gram_matrix_is_divided_by_all_features() -> None:
    f = rows(layer(0))
    by_hand = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in f] for one in f]
    assert np.allclose(anchors.mean_gram(layer(0)).numpy(), np.array(by_hand) / f.size, atol=1e-14)


def three_images() -> tuple[Tensor, Tensor, Tensor]:
    """A canvas, a content of its size and a style of another, float64."""
    return (
        random_image(32, 48, 0).double(),
        random_image(32, 48, 1).double(),
        random_image(40, 32, 2).double(),
    )


def test_what_crowsonkbs_program_minimises() -> None:
    canvas, content, style = three_images()
    mine, theirs, wanted = (double_features(image) for image in (canvas, style, content))
    weights = np.array([256, 64, 16, 4, 1]) / 341
    distances = [wasserstein_by_hand(rows(mine[name]), rows(theirs[name])) for name in STYLE_LAYERS]
    expected = 0.015 * ((mine[CONTENT_LAYER] - wanted[CONTENT_LAYER]) ** 2).mean().item()
    expected += (weights * distances).sum() + 2 * anchors.squared_variation(canvas).item()
    loss = anchors._wasserstein_objective(double_features, content, style, 1)
    assert loss(canvas).item() == pytest.approx(expected, rel=1e-9)


def test_what_neural_style_pt_minimises() -> None:
    """With features as large as pixels in [0, 255] that are not divided by ImageNet's spread make them."""
    canvas, content, style = three_images()
    scale = 255 * np.mean(IMAGENET_STD)
    mine, theirs, wanted = (double_features(image) for image in (canvas, style, content))
    expected = 5 * scale**2 * ((mine[CONTENT_LAYER] - wanted[CONTENT_LAYER]) ** 2).mean().item()
    for name in STYLE_LAYERS:
        grams = [f @ f.T / f.size for f in (scale * rows(mine[name]), scale * rows(theirs[name]))]
        expected += 100 * ((grams[0] - grams[1]) ** 2).mean()
    expected += 1e-3 * 255 * anchors.absolute_variation(canvas).item()
    loss = anchors._gram_objective(double_features, content, style, 1)
    assert loss(255 * canvas).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("make", [anchors._wasserstein_objective, anchors._gram_objective])
def test_a_network_of_repeated_channels_is_computed_at_its_old_width(make) -> None:
    canvas, content, style = three_images()

    def repeated(image_BCHW: Tensor) -> Mapping[str, Tensor]:
        return {name: each.repeat(1, 3, 1, 1) for name, each in double_features(image_BCHW).items()}

    expected = make(repeated, content, style, 1)(canvas).item()
    assert make(double_features, content, style, 3)(canvas).item() == pytest.approx(expected, rel=1e-6)
    assert make(double_features, content, style, 1)(canvas).item() != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("replicate", [False, True])
def test_only_the_first_convolution_repeats_the_border(replicate: bool) -> None:
    weights, image = tiny_weights(), random_image(16, 24)
    x = (image - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    for name in ("conv1_1", "conv1_2", "conv2_1"):
        mode = "replicate" if replicate and name == "conv1_1" else "constant"
        x = F.max_pool2d(x, 2) if name == "conv2_1" else x
        padded = F.pad(x, (1, 1, 1, 1), mode=mode)
        x = F.conv2d(padded, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()
    found = anchors.features_of(weights, replicate=replicate)(image)
    assert torch.allclose(found["relu2_1"], x, atol=1e-5)
    rounded = anchors.features_of(weights, bfloat16=True, replicate=replicate)(image)["relu2_1"]
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - x).abs().max() < 0.1


def fake_pictures(size: int) -> tuple[Tensor, Tensor]:
    return random_image(size // 2, size, 1), random_image(size // 2, size, 2)


def test_crowsonkbs_levels_and_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """The average starts with the picture before the first step, and forgets one part in a hundred a step."""
    monkeypatch.setattr(anchors, "COARSEST_STEPS", 3)
    monkeypatch.setattr(anchors, "LEVEL_STEPS", 2)
    seen: list[tuple[int, ...]] = []
    values = iter([0.1, 0.9, 0.4, 0.2, 0.8, 0.3, 0.6])

    def move(optimizer: object, canvas: Tensor, loss: object) -> None:
        seen.append((canvas.shape[3], canvas.shape[2]))
        canvas.data.fill_(next(values))

    monkeypatch.setattr(anchors, "_move", move)
    monkeypatch.setattr(anchors, "_adam_like", lambda before, canvas: None)
    monkeypatch.setattr(anchors, "_wasserstein_objective", lambda *_: None)
    image = anchors.crowsonkb(double_features, fake_pictures, 256)
    assert seen == [(128, 64)] * 3 + [(181, 90)] * 2 + [(256, 128)] * 2

    def averaged(*pictures: float) -> float:
        shares = [0.01 * 0.99**age for age in reversed(range(len(pictures)))]
        return sum(share * each for share, each in zip(shares, pictures, strict=True)) / sum(shares)

    first = fake_pictures(128)[0].mean().item()
    second = averaged(averaged(first, 0.1, 0.9, 0.4), 0.2, 0.8)
    assert image.shape == (1, 3, 128, 256)
    assert image.mean().item() == pytest.approx(averaged(second, 0.3, 0.6), abs=1e-4)


def test_adams_state_goes_up_a_level() -> None:
    small = random_image(10, 12).requires_grad_()
    before = anchors._adam_like(None, small)
    anchors._move(before, small, lambda image: (image * random_image(10, 12, 1)).square().sum())
    large = torch.zeros(1, 3, 20, 24, requires_grad=True)
    after = anchors._adam_like(before, large)
    (old,), (new,) = before.state.values(), after.state.values()
    assert new["step"] == old["step"] == 1
    assert new["exp_avg"].shape == new["exp_avg_sq"].shape == large.shape
    assert new["exp_avg"].mean().item() == pytest.approx(old["exp_avg"].mean().item(), rel=0.05)
    assert new["exp_avg_sq"].min() >= 0
    assert (after.param_groups[0]["lr"], after.param_groups[0]["betas"]) == (0.02, (0.9, 0.99))


def test_where_neural_style_pt_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing moves the canvas: from grey with hardly any noise in it, or from the content."""
    monkeypatch.setattr(anchors, "_gram_objective", lambda *_: lambda canvas: 0 * canvas.sum())
    grey = torch.tensor(IMAGENET_MEAN)[:, None, None].expand(1, 3, 32, 64)
    image = anchors.neural_style_pt(double_features, fake_pictures, 64)
    assert 255 * (image - grey).std().item() == pytest.approx(0.001, rel=0.1)
    image = anchors.neural_style_pt(double_features, fake_pictures, 64, init="content")
    assert torch.allclose(image, fake_pictures(64)[0], atol=1e-6)


@pytest.fixture
def tiny_files(monkeypatch: pytest.MonkeyPatch, make_picture) -> None:
    """Two pictures, a tiny network as safetensors and in torchvision's format, runs of three steps."""
    for name in ("COARSEST_STEPS", "LEVEL_STEPS", "LBFGS_STEPS"):
        monkeypatch.setattr(anchors, name, 3)
    make_picture("photo.png", 0, (40, 32))
    make_picture("painting.png", 1, (32, 32))
    save_file(tiny_weights(), "tiny.safetensors")
    state = {
        f"features.{index}.{part}": tiny_weights()[f"{name}.{part}"]
        for name, index in TORCHVISION_INDEX.items()
        for part in ("weight", "bias")
    }
    torch.save(state, "tiny.pth")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["anchors.py", *arguments])
    anchors.main()


@pytest.mark.parametrize("program", anchors.PROGRAMS)
def test_the_command_writes_a_picture(tiny_files, monkeypatch, capsys, program: str) -> None:
    files = (program, "photo.png", "painting.png")
    run(monkeypatch, *files, "one.png", "--weights=tiny.safetensors", "--size=64")
    run(monkeypatch, *files, "two.png", "--weights=tiny.pth", "--size=64")
    run(monkeypatch, *files, "three.png", "--weights=tiny.pth", "--size=64", "--bfloat16")
    one, two, three = (Image.open(f"{name}.png") for name in ("one", "two", "three"))
    assert one.size == (64, 51)
    assert one.tobytes() == two.tobytes() != three.tobytes()
    assert "one.png: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"content": "none.png"}, r"none.png: cannot be read"),
        ({"style": "junk.png"}, r"junk.png: not a picture"),
        ({"weights": "none.pth"}, r"none.pth cannot be read"),
        ({"weights": "junk.png"}, r"junk.png cannot be read as a checkpoint"),
        ({"weights": "part.safetensors"}, r"part.safetensors is not a VGG-19: conv5_1.weight is missing"),
        ({"out": "out.xyz"}, r"out.xyz: no picture can be written"),
        ({"out": "out.psd"}, r"out.psd: no picture can be written"),
        ({"out": "none/out.png"}, r"there is no folder none"),
        ({"size": "19"}, r"photo.png would be 19 x 15 pixels, and 16 are needed. Use a larger --size"),
    ],
)
def test_what_cannot_be_used_is_refused(tiny_files, monkeypatch, changed: dict[str, str], said: str) -> None:
    Path("junk.png").write_bytes(b"junk")
    save_file({key: each for key, each in tiny_weights().items() if key < "conv5"}, "part.safetensors")
    given = {"content": "photo.png", "style": "painting.png", "out": "out.png"}
    given |= {"weights": "tiny.pth", "size": "64", **changed}
    files = [given[name] for name in ("content", "style", "out")]
    with pytest.raises(SystemExit, match=said):
        run(monkeypatch, "crowsonkb", *files, f"--weights={given['weights']}", f"--size={given['size']}")
    assert not Path(given["out"]).exists()


def test_a_run_that_diverges_makes_no_picture(tiny_files, monkeypatch) -> None:
    nothing = torch.full((1, 3, 51, 64), torch.nan)
    monkeypatch.setitem(anchors.PROGRAMS, "neural-style-pt", lambda *_: nothing)
    with pytest.raises(SystemExit, match=r"neural-style-pt diverged: out.png is not made"):
        run(monkeypatch, "neural-style-pt", "photo.png", "painting.png", "out.png", "--weights=tiny.pth")
    assert not Path("out.png").exists()
