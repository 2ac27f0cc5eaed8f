from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from weight_files import PARTS, State, ours, save_checkpoint, tiny_state

from pipeline.errors import WeightsError
from pipeline.vgg.conversion import read_convolutions
from pipeline.vgg.encoder import CONVOLUTIONS, TORCHVISION_INDEX, Encoder

LAST = CONVOLUTIONS[-1:]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("names", ["torchvision's", "ours"])
def test_convolutions_are_read_from_any_file_that_holds_them(tmp_path: Path, suffix: str, names: str) -> None:
    state = {key: value.half() for key, value in tiny_state().items()}
    source = tmp_path / f"network{suffix}"
    kept = state if names == "torchvision's" else ours(state)
    if suffix == ".pth":
        torch.save(kept, source)
    else:
        save_file({key: value.numpy() for key, value in kept.items()}, source)
    found = read_convolutions(source, ["relu2_1", "relu3_1"])
    assert list(found) == [f"{name}.{part}" for name in CONVOLUTIONS[:5] for part in PARTS]
    for key, value in found.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, ours(state)[key].float())


def test_a_checkpoint_is_read_bit_by_bit(tmp_path: Path) -> None:
    found = read_convolutions(save_checkpoint(tmp_path / "a.pth"), LAST)
    assert set(found) == {f"{name}.{part}" for name in CONVOLUTIONS for part in PARTS}
    for name, index in TORCHVISION_INDEX.items():
        for part in PARTS:
            assert torch.equal(found[f"{name}.{part}"], tiny_state()[f"features.{index}.{part}"])


def test_a_normalisation_of_the_networks_own_is_folded_into_its_first_convolution(tmp_path: Path) -> None:
    """Reflected borders: zeros stand for the mean, and are those of another one after the fold."""
    state = {key: value for key, value in ours(tiny_state()).items() if not key.startswith("lift")}
    state["conv1_1.weight"] /= 100
    state |= {"mean": torch.tensor([0.4, 0.5, 0.6]), "std": torch.tensor([1 / 255, 0.01, 0.02])}
    save_file({key: value.numpy() for key, value in state.items()}, tmp_path / "own.safetensors")
    folded = read_convolutions(tmp_path / "own.safetensors", ["relu5_1"])
    assert not {"mean", "std"} & set(folded)
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    layers = ["conv1_1", "relu3_1", "relu5_1"]
    expected = Encoder(state, layers, padding="reflect")(image)
    for layer, features in Encoder(folded, layers, padding="reflect")(image).items():
        torch.testing.assert_close(features, expected[layer], rtol=1e-4, atol=1e-4)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "torch legacy", "plain pickle"])
def test_a_pickle_that_runs_code_is_refused(how: str, tmp_path: Path) -> None:
    trap, source = tmp_path / "trap", tmp_path / "evil.pth"
    payload = {**tiny_state(), "evil": Evil(trap)}
    if how == "plain pickle":
        source.write_bytes(pickle.dumps({"evil": Evil(trap)}, protocol=2))
    else:
        torch.save(payload, source, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(WeightsError, match=re.escape(str(source))) as caught:
        read_convolutions(source, LAST)
    assert "weights_only" not in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(zipped: bool, share: float, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "own.pth", zipped=zipped)
    body = source.read_bytes()
    source.write_bytes(body[: int(len(body) * share)])
    with pytest.raises(WeightsError, match="cut short") as caught:
        read_convolutions(source, LAST)
    assert str(source) in caught.value.message
    assert "Delete" not in caught.value.next_step  # it may be anything, a picture that was typed by mistake
    assert "Give a VGG-19 in torchvision's format" in caught.value.next_step


def without(key: str) -> State:
    state = tiny_state()
    del state[key]
    return state


@pytest.mark.parametrize(
    ("state", "key"),
    [
        (without("features.34.weight"), "features.34.weight is missing"),
        (without("features.0.bias"), "features.0.bias is missing"),
        ({**tiny_state(), "features.5.weight": torch.zeros(4, 9, 3, 3)}, "features.5.weight"),
        ({**tiny_state(), "features.5.weight": torch.zeros(4, 3, 5, 5)}, "features.5.weight"),
        ({**tiny_state(), "features.0.weight": torch.zeros(2, 1, 3, 3)}, "features.0.weight"),
        ({**tiny_state(), "features.0.weight": torch.zeros(6)}, "features.0.weight"),
        ({**tiny_state(), "features.7.bias": torch.zeros(9)}, "features.7.bias"),
        ({**tiny_state(), "features.0.weight": "words"}, "features.0.weight is missing"),
    ],
)
def test_a_wrong_checkpoint_is_named_with_the_key(state: State, key: str, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "own.pth", state)
    with pytest.raises(WeightsError, match=re.escape(key)) as caught:
        read_convolutions(source, LAST)
    assert str(source) in caught.value.message


def test_a_checkpoint_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="it holds a list"):
        read_convolutions(tmp_path / "list.pth", LAST)


def test_convolutions_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    part = {key: value.numpy() for key, value in ours(tiny_state()).items() if key < "conv3"}
    save_file(part, tmp_path / "part.safetensors")
    assert len(read_convolutions(tmp_path / "part.safetensors", ["relu2_2"])) == 8
    with pytest.raises(WeightsError, match=r"part.safetensors is not a VGG-19: conv3_1.weight is missing"):
        read_convolutions(tmp_path / "part.safetensors", ["relu3_1"])
    save_file({**part, "conv2_1.weight": np.zeros((2, 7, 3, 3))}, tmp_path / "mixed.safetensors")
    with pytest.raises(WeightsError, match=r"conv2_1.weight has the shape"):
        read_convolutions(tmp_path / "mixed.safetensors", ["relu2_1"])
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"junk.safetensors is damaged or not a safetensors file"):
        read_convolutions(tmp_path / "junk.safetensors", ["relu1_1"])
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(WeightsError, match=rf"{name} cannot be read: No such file"):
            read_convolutions(tmp_path / name, ["relu1_1"])
