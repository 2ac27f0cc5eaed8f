from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from weight_files import everything_below, save_checkpoint, save_slim, tiny_state

from pipeline.errors import WeightsError
from pipeline.vgg.encoder import CONVOLUTIONS, Encoder
from pipeline.vgg.weightfile import open_weights, weights_digest
from pipeline.vgg.weights import (
    EncoderWeights,
    bundled_path,
    bundled_weights,
    import_weights,
    own_weights,
    read_weights,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def never_unpickle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a checkpoint was read again")

    return lambda: monkeypatch.setattr(torch, "load", refuse)


# --- what comes with the package


@pytest.mark.parametrize(("name", "convolutions"), [("vgg19", 16), ("vgg19-slim", 13)])
def test_a_bundled_network_is_whole_and_has_its_digest(name, convolutions: int) -> None:
    found = bundled_weights(name)
    assert (found.name, found.path) == (name, bundled_path(name))
    assert found.digest == weights_digest(load_file(found.path))
    with open_weights(found.path) as file:
        assert file.convolutions == list(CONVOLUTIONS[:convolutions])


@pytest.mark.parametrize("name", ["vgg19", "vgg19-slim"])
def test_a_bundled_network_has_a_card_beside_it(name) -> None:
    assert bundled_path(name).with_suffix(".md").is_file()


def test_the_card_names_the_bytes_of_the_bundled_network() -> None:
    digest = hashlib.sha256(bundled_path("vgg19").read_bytes()).hexdigest()
    assert digest in bundled_path("vgg19").with_suffix(".md").read_text(encoding="utf-8")


def test_the_digest_of_the_small_network_stays() -> None:
    """Every finished job's key depends on it."""
    digest = "540550a6537d5f3ef766a720ce2b5534eab823234121b3812c0c26238a6fd7b3"
    assert bundled_weights("vgg19-slim").digest == digest


def test_the_full_network_needs_little_more_memory_than_its_weights() -> None:
    weights = bundled_weights("vgg19")
    tracemalloc.start()
    try:
        tensors = read_weights(weights)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = sum(tensor.nbytes for tensor in tensors.values())
    assert {name: len(tensors[f"{name}.bias"]) for name in ("conv1_1", "conv5_4")} == {
        "conv1_1": 64, "conv5_4": 512,
    }  # fmt: skip
    assert size > 80_000_000
    assert peak < 1.1 * size


def test_a_damaged_bundled_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"is damaged, or was replaced.*Install style-pipeline again"):
        read_weights(EncoderWeights("vgg19-slim", bundled_path("vgg19-slim"), "0" * 64))


# --- a network of the user's own


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_is_converted_once(
    zipped: bool, converted: Path, tmp_path: Path, never_unpickle: Callable[[], None]
) -> None:
    own = save_checkpoint(tmp_path / "own.pth", zipped=zipped)
    first = own_weights(own, converted)
    never_unpickle()
    assert own_weights(own, converted) == first
    assert (first.name, first.digest) == ("vgg19", weights_digest(load_file(first.path)))
    assert everything_below(converted) == [first.path]


def test_a_changed_checkpoint_is_never_stale(converted: Path, tmp_path: Path) -> None:
    own = save_checkpoint(tmp_path / "own.pth", tiny_state(1))
    first = own_weights(own, converted)
    other = save_checkpoint(tmp_path / "other" / "own.pth", tiny_state(2))
    assert other.stat().st_size == own.stat().st_size
    shutil.copystat(own, other)
    other.replace(own)
    second = own_weights(own, converted)
    assert second.digest != first.digest
    assert second.digest == weights_digest(load_file(second.path))
    assert everything_below(converted) == [second.path]
    with pytest.raises(WeightsError, match="replaced"):
        read_weights(first)


def test_the_digest_does_not_depend_on_path_or_format(converted: Path, tmp_path: Path) -> None:
    first = own_weights(save_checkpoint(tmp_path / "new.pth"), converted)
    elsewhere = Path(shutil.copy(first.path, tmp_path / "elsewhere.safetensors"))
    legacy = save_checkpoint(tmp_path / "legacy.pth", zipped=False)
    found = [own_weights(path, converted) for path in (legacy, elsewhere)]
    assert {one.digest for one in found} == {first.digest}
    assert found[1].path == elsewhere


def test_a_safetensors_file_is_believed_for_its_contents(converted: Path, tmp_path: Path) -> None:
    first = own_weights(save_checkpoint(tmp_path / "own.pth"), converted)
    tuned = {key: array + 1 for key, array in load_file(first.path).items()}
    save_file(tuned, tmp_path / "tuned.safetensors", {"digest": first.digest, "source": ""})
    assert own_weights(tmp_path / "tuned.safetensors", converted).digest == weights_digest(tuned)


@pytest.mark.parametrize("name", ["own.pth", "own.safetensors"])
def test_a_missing_file_is_named(name: str, converted: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"own\..* cannot be read"):
        own_weights(tmp_path / name, converted)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign", "no digest", "folder"])
def test_a_damaged_conversion_is_made_again(damage: str, converted: Path, tmp_path: Path) -> None:
    own = save_checkpoint(tmp_path / "own.pth")
    first = own_weights(own, converted)
    good = first.path.read_bytes()
    if damage == "cut":
        first.path.write_bytes(good[:-1])
    elif damage == "noise":
        first.path.write_bytes(b"\xff" * 300)
    elif damage == "empty":
        first.path.write_bytes(b"")
    elif damage == "foreign":
        save_file({"other": np.zeros(3, np.float32)}, first.path, {"digest": "0", "source": ""})
    elif damage == "no digest":
        save_file(load_file(first.path), first.path)
    elif damage == "folder":
        first.path.unlink()
        first.path.mkdir()
        with pytest.raises(WeightsError, match="cannot be written"):
            own_weights(own, converted)
        assert everything_below(converted) == [first.path]
        return
    assert own_weights(own, converted) == first
    assert weights_digest(load_file(first.path)) == first.digest
    assert everything_below(converted) == [first.path]


def test_a_folder_for_conversions_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be written"):
        own_weights(save_checkpoint(tmp_path / "own.pth"), tmp_path / "file")


# --- importing


def test_importing_makes_one_file_of_a_checkpoint_or_of_safetensors(tmp_path: Path) -> None:
    target = tmp_path / "state" / "vgg19.safetensors"
    first = import_weights(save_checkpoint(tmp_path / "a.pth", tiny_state(1)), target)
    second = import_weights(save_checkpoint(tmp_path / "b.pth", tiny_state(2)), target)
    assert first.digest != second.digest == weights_digest(load_file(target))
    assert everything_below(target.parent) == [target]
    assert import_weights(target, target) == second == EncoderWeights("vgg19", target, second.digest)


def test_importing_writes_float32(tmp_path: Path) -> None:
    imported = import_weights(save_slim(tmp_path / "a.safetensors", convolutions=16), tmp_path / "b")
    assert {array.dtype for array in load_file(imported.path).values()} == {np.dtype(np.float32)}


def test_the_bundled_network_can_be_imported_and_keeps_its_normalisation(tmp_path: Path) -> None:
    imported = import_weights(bundled_path("vgg19"), tmp_path / "a.safetensors")
    ours, theirs = read_weights(imported), read_weights(bundled_weights("vgg19"))
    assert ours.keys() == theirs.keys() > {"mean", "std"}
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_importing_wants_all_sixteen_convolutions(tmp_path: Path) -> None:
    source = save_slim(tmp_path / "part.safetensors", convolutions=15)
    with pytest.raises(WeightsError, match=r"conv5_4\.weight is missing"):
        import_weights(source, tmp_path / "state" / "vgg19.safetensors")
    assert not (tmp_path / "state").exists()


# --- reading


def test_reading_stops_at_the_deepest_layer(converted: Path, tmp_path: Path) -> None:
    found = own_weights(save_checkpoint(tmp_path / "own.pth"), converted)
    tensors = read_weights(found, ["relu2_1", "conv1_2"])
    assert list(tensors) == [
        f"{name}.{part}" for name in ("conv1_1", "conv1_2", "conv2_1") for part in ("weight", "bias")
    ]
    expected = tiny_state()["features.5.weight"]
    torch.testing.assert_close(tensors["conv2_1.weight"], expected, rtol=0, atol=0)
    assert len(read_weights(found)) == 32


def test_float16_is_read_as_float32_and_builds_an_encoder(converted: Path, tmp_path: Path) -> None:
    tensors = read_weights(own_weights(save_slim(tmp_path / "a.safetensors"), converted))
    assert len(tensors) == 26
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    encoder = Encoder(tensors, ["relu5_1"])
    assert encoder(torch.zeros(1, 3, 16, 16))["relu5_1"].shape == (1, 2, 1, 1)


def test_a_layer_beyond_the_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"conv5_2\.weight is missing"):
        read_weights(bundled_weights("vgg19-slim"), ["conv5_2"])


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_weights_damaged_after_they_were_found_are_not_read(
    damage: str, converted: Path, tmp_path: Path
) -> None:
    found = own_weights(save_checkpoint(tmp_path / "own.pth"), converted)
    body = bytearray(found.path.read_bytes())
    if damage == "bit":
        body[-1] ^= 1
    found.path.write_bytes(body[:-5] if damage == "cut" else body)
    if damage == "gone":
        found.path.unlink()
    with pytest.raises(WeightsError, match=re.escape(str(found.path))) as caught:
        read_weights(found, ["relu1_1"])
    assert "run again" in caught.value.next_step


def test_finding_weights_does_not_import_torch(converted: Path, tmp_path: Path) -> None:
    own = save_checkpoint(tmp_path / "own.pth")
    first = own_weights(own, converted)
    program = f"""
import sys
from pathlib import Path
from pipeline.vgg.weights import bundled_weights, own_weights
print(bundled_weights("vgg19-slim").digest)
print(bundled_weights("vgg19").digest)
print(own_weights(Path({str(own)!r}), Path({str(converted)!r})).digest)
print(own_weights(Path({str(first.path)!r}), Path("nowhere")).digest)
print("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    bundled = [bundled_weights(name).digest for name in ("vgg19-slim", "vgg19")]
    assert result.stdout.split() == [*bundled, first.digest, first.digest, "False"], result.stderr
