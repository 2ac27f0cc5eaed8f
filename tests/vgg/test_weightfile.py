from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from weight_files import Arrays, everything_below, save_slim

from pipeline.errors import WeightsError
from pipeline.vgg.encoder import CONVOLUTIONS
from pipeline.vgg.weightfile import decode, open_weights, weights_digest, write_weights

TABLE = np.linspace(-1, 1, 256, dtype=np.float32)


def save_packed(path: Path, convolutions: int = 16, **changes: object) -> Path:
    """A network of two channels at 8 bits a weight."""
    tensors: Arrays = {
        "mean": np.array([0.4, 0.5, 0.6], np.float32),
        "std": np.array([0.1, 0.2, 0.3], np.float32),
    }
    channels = 3
    for seed, name in enumerate(CONVOLUTIONS[:convolutions]):
        shape = (2, channels, 3, 3)
        tensors[f"{name}.codes"] = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        tensors[f"{name}.table"] = TABLE * (seed + 1)
        tensors[f"{name}.bias"] = np.full(2, seed, np.float32)
        channels = 2
    tensors |= changes  # type: ignore[arg-type]
    save_file({key: array for key, array in tensors.items() if array is not None}, path)
    return path


# --- digest


def test_the_digest_is_the_documented_one(tmp_path: Path) -> None:
    tensors: Arrays = {"b": np.arange(2, dtype=np.float16), "a": np.ones((1, 2), np.float32)}
    transcript = b"a float32 (1, 2)\n" + tensors["a"].tobytes() + b"b float16 (2,)\n" + tensors["b"].tobytes()
    expected = hashlib.sha256(transcript).hexdigest()
    assert weights_digest(tensors) == expected
    assert weights_digest(dict(reversed(tensors.items()))) == expected


def test_the_digest_depends_on_names_dtypes_shapes_and_bytes() -> None:
    zeros = np.zeros((2, 3), np.float32)
    others: list[Arrays] = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.astype(np.float16)},
        {"a": zeros.reshape(3, 2)},
        {"a": zeros + 1},
    ]
    assert len({weights_digest(other) for other in others}) == len(others)


@pytest.mark.parametrize("save", [save_slim, save_packed])
def test_the_digest_of_a_file_is_that_of_its_tensors(save, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors")
    with open_weights(path) as file:
        assert file.digest() == weights_digest(load_file(path))


# --- 8 bits a weight


def test_codes_are_read_as_the_weights_that_they_stand_for(tmp_path: Path) -> None:
    path = save_packed(tmp_path / "a.safetensors")
    stored = load_file(path)
    with open_weights(path) as file:
        assert file.convolutions == list(CONVOLUTIONS)
        found = dict(file.read(["conv1_1", "conv1_2"]))
    assert [*found] == ["conv1_1.weight", "conv1_1.bias", "conv1_2.weight", "conv1_2.bias", "mean", "std"]
    for name in ("conv1_1", "conv1_2"):
        expected = np.vectorize(stored[f"{name}.table"].__getitem__)(stored[f"{name}.codes"])
        np.testing.assert_array_equal(found[f"{name}.weight"], expected.astype(np.float32), strict=True)
        np.testing.assert_array_equal(found[f"{name}.bias"], stored[f"{name}.bias"], strict=True)
    np.testing.assert_array_equal(found["std"], stored["std"], strict=True)


def test_every_code_has_its_value() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    np.testing.assert_array_equal(decode(codes, TABLE).ravel(), TABLE)


def test_a_file_may_end_before_the_last_convolution(tmp_path: Path) -> None:
    with open_weights(save_packed(tmp_path / "a.safetensors", convolutions=3)) as file:
        assert file.convolutions == ["conv1_1", "conv1_2", "conv2_1"]
        with pytest.raises(WeightsError, match=r"a.safetensors is not a VGG-19: conv2_2.weight is missing"):
            list(file.read(["conv2_2"]))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"conv1_2.table": None}, "conv1_2.table is missing"),
        ({"conv1_2.table": TABLE[:9].copy()}, "conv1_2.table has the shape (9,), not (256,)"),
        ({"conv1_2.table": TABLE.astype(np.float64)}, "conv1_2.table is F64, not F32"),
        ({"conv1_2.codes": np.zeros((2, 2, 3, 3), np.int8)}, "conv1_2.codes is I8, not U8"),
        ({"conv1_2.codes": np.zeros((2, 5, 3, 3), np.uint8)}, "conv1_2.weight has the shape"),
        ({"conv1_2.codes": None}, "conv1_2.weight is missing"),
        ({"std": None}, "std is missing"),
        ({"mean": np.zeros(4, np.float32)}, "mean has the shape (4,), not (3,)"),
        ({"mean": np.zeros(3, np.float16)}, "mean is F16, not F32"),
        ({"style_factor": np.zeros(1, np.float32)}, "style_factor has the shape (1,), not ()"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_codes_is_named(changes: dict[str, object], text: str, tmp_path: Path) -> None:
    path = save_packed(tmp_path / "a.safetensors", **changes)
    with pytest.raises(WeightsError, match=re.escape(f"a.safetensors is not a VGG-19: {text}")):
        open_weights(path).__enter__()


# --- plain weights


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"conv1_1.weight": np.zeros((2, 4, 3, 3), np.float16)}, "conv1_1.weight"),
        ({"conv3_2.weight": np.zeros((2, 2, 1, 1), np.float16)}, "conv3_2.weight"),
        ({"conv3_2.bias": np.zeros(3, np.float16)}, "conv3_2.bias"),
        ({"conv3_2.bias": np.zeros(2, np.int32)}, "conv3_2.bias is I32, not F16 or F32"),
        ({"fc.weight": np.zeros(2, np.float32)}, "fc.weight does not belong to it"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(change: Arrays, key: str, tmp_path: Path) -> None:
    source = save_slim(tmp_path / "own.safetensors")
    save_file({**load_file(source), **change}, source)
    with pytest.raises(WeightsError, match=re.escape(key)) as caught:
        open_weights(source).__enter__()
    assert str(source) in caught.value.message
    assert "Give a VGG-19" in caught.value.next_step


def test_a_gap_in_the_file_is_named(tmp_path: Path) -> None:
    source = save_slim(tmp_path / "gap.safetensors")
    tensors = load_file(source)
    save_file({key: array for key, array in tensors.items() if not key.startswith("conv2_2")}, source)
    with open_weights(source) as file, pytest.raises(WeightsError, match=r"conv2_2\.weight is missing"):
        list(file.read(CONVOLUTIONS[:4]))


# --- writing


def test_what_is_written_is_read_and_has_its_digest_in_the_header(tmp_path: Path) -> None:
    tensors = load_file(save_slim(tmp_path / "slim.safetensors"))
    path = tmp_path / "below" / "a.safetensors"
    digest = write_weights(tensors, path, "a stamp")
    assert everything_below(path.parent) == [path]
    with open_weights(path) as file:
        assert file.metadata == {"digest": digest, "source": "a stamp"}
        assert file.digest() == digest


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    tensors = load_file(save_slim(tmp_path / "slim.safetensors"))
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WeightsError, match="cannot be written: No space left on device"):
        write_weights(tensors, tmp_path / "below" / "a.safetensors")
    assert everything_below(tmp_path / "below") == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be written"):
        write_weights(tensors, tmp_path / "file" / "a.safetensors")
