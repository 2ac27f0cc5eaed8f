from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from web import Server, closed_port_url, sha256

from pipeline.errors import WeightsError
from pipeline.vgg import weights
from pipeline.vgg.encoder import CONVOLUTIONS, TORCHVISION_INDEX, Encoder
from pipeline.vgg.weights import (
    EncoderWeights,
    find_vgg19,
    import_weights,
    read_convolutions,
    read_weights,
    resolve_encoder,
    weights_digest,
)

pytestmark = pytest.mark.filterwarnings("error")

State = dict[str, Tensor]
Arrays = dict[str, NDArray[Any]]


def tiny_state(seed: int = 0) -> State:
    """A VGG-19 of widths 2, 3 and 4, as torchvision would save it, its classifier included."""
    generator = torch.Generator().manual_seed(seed)
    state, channels = {}, 3
    for position, index in enumerate(TORCHVISION_INDEX.values()):
        width = 2 + position % 3
        state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=generator)
        state[f"features.{index}.bias"] = torch.randn(width, generator=generator)
        channels = width
    state["classifier.0.weight"] = torch.randn(5, 4, generator=generator)
    return state


def save_checkpoint(path: Path, state: State | None = None, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state or tiny_state(), path, _use_new_zipfile_serialization=zipped)
    return path


def save_slim(path: Path, convolutions: int = 13, width: int = 2) -> Path:
    tensors: Arrays = {}
    channels = 3
    for name in CONVOLUTIONS[:convolutions]:
        tensors[f"{name}.weight"] = np.full((width, channels, 3, 3), 0.25, np.float16)
        tensors[f"{name}.bias"] = np.ones(width, np.float16)
        channels = width
    save_file(tensors, path, {"format": "vgg19-slim"})
    return path


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture
def weights_dir(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's place for the checkpoint; nothing is there yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"


@pytest.fixture
def slim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = save_slim(tmp_path / "bundled.safetensors")
    monkeypatch.setattr(weights, "SLIM_PATH", path)
    return path


@pytest.fixture(autouse=True)
def no_way_out(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    """Keep the tests off the network, the proxy and the user's own cache."""

    def refuse() -> str:
        raise AssertionError("the test asked for torchvision's address")

    monkeypatch.setattr(weights, "_official_url", refuse)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def never_unpickle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a checkpoint was read again")

    return lambda: monkeypatch.setattr(torch, "load", refuse)


# --- digest


def test_the_digest_is_the_documented_one() -> None:
    tensors: Arrays = {"b": np.arange(2, dtype=np.float16), "a": np.ones((1, 2), np.float32)}
    transcript = b"a float32 (1, 2)\n" + tensors["a"].tobytes() + b"b float16 (2,)\n" + tensors["b"].tobytes()
    assert weights_digest(tensors) == sha256(transcript)
    assert weights_digest(dict(reversed(tensors.items()))) == sha256(transcript)


def test_the_digest_hears_names_dtypes_shapes_and_bytes() -> None:
    zeros = np.zeros((2, 3), np.float32)
    others: list[Arrays] = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.astype(np.float16)},
        {"a": zeros.reshape(3, 2)},
        {"a": zeros + 1},
    ]
    assert len({weights_digest(other) for other in others}) == len(others)


# --- resolving


def test_a_hub_checkpoint_becomes_a_copy_that_outlives_it(hub: Path, weights_dir: Path) -> None:
    save_checkpoint(hub)
    first = resolve_encoder("vgg19", weights_dir, allow_download=False)
    hub.unlink()
    assert resolve_encoder("vgg19", weights_dir, allow_download=False) == first
    assert (first.name, first.note) == ("vgg19", "")
    assert everything_below(weights_dir) == [first.path]
    copied = load_file(first.path)
    assert first.digest == weights_digest(copied)
    assert set(copied) == {f"{name}.{part}" for name in CONVOLUTIONS for part in ("weight", "bias")}
    for name, index in TORCHVISION_INDEX.items():
        for part in ("weight", "bias"):
            expected = tiny_state()[f"features.{index}.{part}"].numpy()
            np.testing.assert_array_equal(copied[f"{name}.{part}"], expected, strict=True)


def test_the_cache_of_torch_is_where_torch_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variables in ({"TORCH_HOME": "~/t"}, {"XDG_CACHE_HOME": str(tmp_path / "x")}, {}):
        with monkeypatch.context() as patch:
            patch.setenv("HOME", str(tmp_path))
            patch.delenv("TORCH_HOME")
            patch.delenv("XDG_CACHE_HOME", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            expected = save_checkpoint(Path(torch.hub.get_dir()) / "checkpoints" / "vgg19-dcbb9e9d.pth")
            assert find_vgg19(tmp_path / "weights") == expected


def test_lookup_prefers_explicit_then_copy_then_hub_then_download(
    hub: Path, weights_dir: Path, tmp_path: Path, server: Server
) -> None:
    body = save_checkpoint(tmp_path / "remote.pth", tiny_state(1)).read_bytes()
    server.send(body)
    url = server.url(f"vgg19-{sha256(body)[:8]}.pth")

    save_checkpoint(hub, tiny_state(2))
    assert find_vgg19(weights_dir) == hub
    from_hub = resolve_encoder("vgg19", weights_dir, url=url)
    assert server.requests == 0

    save_checkpoint(hub, tiny_state(3))
    assert find_vgg19(weights_dir) == from_hub.path
    assert resolve_encoder("vgg19", weights_dir, url=url) == from_hub

    own = save_checkpoint(tmp_path / "own.pth", tiny_state(4))
    assert find_vgg19(weights_dir, own) == own
    explicit = resolve_encoder("vgg19", weights_dir, explicit=own, url=url)
    assert explicit.digest != from_hub.digest
    assert resolve_encoder("vgg19", weights_dir, url=url) == from_hub

    hub.unlink()
    from_hub.path.unlink()
    assert find_vgg19(weights_dir) is None
    downloaded = resolve_encoder("vgg19", weights_dir, url=url)
    assert server.requests == 1
    assert downloaded.digest not in (from_hub.digest, explicit.digest)
    assert resolve_encoder("auto", weights_dir, url=url) == downloaded
    assert server.requests == 1


def test_a_download_leaves_only_the_copy(weights_dir: Path, tmp_path: Path, server: Server) -> None:
    checkpoint = save_checkpoint(tmp_path / "remote.pth")
    server.send(checkpoint.read_bytes())
    url = server.url(f"vgg19-{sha256(checkpoint.read_bytes())[:8]}.pth")
    steps: list[tuple[int, int | None]] = []
    found = resolve_encoder("auto", weights_dir, on_progress=lambda *step: steps.append(step), url=url)
    assert everything_below(weights_dir) == [found.path]
    assert steps[-1] == (checkpoint.stat().st_size, checkpoint.stat().st_size)
    assert found == import_weights(checkpoint, weights_dir)


def test_a_url_without_a_digest_is_refused(weights_dir: Path, server: Server) -> None:
    with pytest.raises(WeightsError, match="SHA-256"):
        resolve_encoder("vgg19", weights_dir, url=server.url("vgg19.pth"))
    assert server.requests == 0
    assert everything_below(weights_dir) == []


def test_vgg19_never_falls_back(weights_dir: Path, slim: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_encoder("vgg19", weights_dir, allow_download=False)
    assert "style-pipeline weights fetch" in caught.value.next_step
    assert "style-pipeline weights import PATH" in caught.value.next_step
    with pytest.raises(WeightsError) as caught:
        resolve_encoder("vgg19", weights_dir, url=closed_port_url())
    assert "style-pipeline weights import PATH" in caught.value.next_step
    assert everything_below(weights_dir) == []


@pytest.mark.parametrize("allow_download", [True, False])
def test_auto_falls_back_with_a_note(weights_dir: Path, slim: Path, allow_download: bool) -> None:
    found = resolve_encoder("auto", weights_dir, allow_download=allow_download, url=closed_port_url())
    assert (found.name, found.path) == ("vgg19-slim", slim)
    assert found.digest == weights_digest(load_file(slim))
    assert "\n" not in found.note
    for words in ("vgg19-slim", "because", "softer", "style-pipeline weights fetch", "weights import PATH"):
        assert words in found.note


def test_auto_without_any_weights_fails(
    weights_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SLIM_PATH", tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="Install style-pipeline again"):
        resolve_encoder("auto", weights_dir, allow_download=False)


def test_slim_is_the_bundled_file(weights_dir: Path, slim: Path, hub: Path) -> None:
    save_checkpoint(hub)
    found = resolve_encoder("vgg19-slim", weights_dir)
    assert found == EncoderWeights("vgg19-slim", slim, weights_digest(load_file(slim)))
    assert not weights_dir.exists()


def test_a_damaged_hub_checkpoint_is_named(weights_dir: Path, hub: Path, slim: Path) -> None:
    save_checkpoint(hub).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(WeightsError) as caught:
        resolve_encoder("vgg19", weights_dir)
    assert str(hub) in caught.value.message
    assert "import" in caught.value.next_step
    assert str(hub) in resolve_encoder("auto", weights_dir).note


# --- the copy


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign", "no digest", "folder"])
def test_a_damaged_copy_is_made_again(damage: str, hub: Path, weights_dir: Path) -> None:
    save_checkpoint(hub)
    first = resolve_encoder("vgg19", weights_dir)
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
    if damage == "folder":
        with pytest.raises(WeightsError, match="cannot be written"):
            resolve_encoder("vgg19", weights_dir)
        assert everything_below(weights_dir) == [first.path]
        return
    assert resolve_encoder("vgg19", weights_dir) == first
    assert weights_digest(load_file(first.path)) == first.digest
    assert everything_below(weights_dir) == [first.path]


def test_a_damaged_copy_without_a_source_is_no_weights(hub: Path, weights_dir: Path) -> None:
    save_checkpoint(hub)
    first = resolve_encoder("vgg19", weights_dir)
    hub.unlink()
    first.path.write_bytes(first.path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="no VGG-19 weights"):
        resolve_encoder("vgg19", weights_dir, allow_download=False)


def test_an_interrupted_copy_leaves_nothing(
    hub: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    save_checkpoint(hub)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WeightsError, match="No space left on device"):
        resolve_encoder("vgg19", weights_dir)
    assert everything_below(weights_dir) == []


def test_weights_dir_that_is_a_file_is_a_weights_error(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be written"):
        resolve_encoder("vgg19", tmp_path / "file", url=closed_port_url())
    save_checkpoint(hub)
    with pytest.raises(WeightsError, match="cannot be written"):
        resolve_encoder("vgg19", tmp_path / "file")


# --- explicit paths


@pytest.mark.parametrize("zipped", [True, False])
def test_an_explicit_checkpoint_is_read_once(
    zipped: bool, weights_dir: Path, tmp_path: Path, never_unpickle: Callable[[], None]
) -> None:
    own = save_checkpoint(tmp_path / "own.pth", zipped=zipped)
    first = resolve_encoder("auto", weights_dir, explicit=own)
    never_unpickle()
    assert resolve_encoder("vgg19", weights_dir, explicit=own) == first
    assert (first.name, first.digest) == ("vgg19", weights_digest(load_file(first.path)))


def test_a_changed_explicit_checkpoint_is_never_stale(weights_dir: Path, tmp_path: Path) -> None:
    own = save_checkpoint(tmp_path / "own.pth", tiny_state(1))
    first = resolve_encoder("vgg19", weights_dir, explicit=own)
    other = save_checkpoint(tmp_path / "other" / "own.pth", tiny_state(2))
    assert other.stat().st_size == own.stat().st_size
    shutil.copystat(own, other)
    other.replace(own)
    second = resolve_encoder("vgg19", weights_dir, explicit=own)
    assert second.digest != first.digest
    assert second.digest == weights_digest(load_file(second.path))
    assert everything_below(weights_dir) == [second.path]
    with pytest.raises(WeightsError, match="replaced"):
        read_weights(first)


def test_the_digest_does_not_depend_on_path_or_format(weights_dir: Path, tmp_path: Path, hub: Path) -> None:
    save_checkpoint(hub)
    from_hub = resolve_encoder("vgg19", weights_dir)
    elsewhere = Path(shutil.copy(from_hub.path, tmp_path / "elsewhere.safetensors"))
    legacy = save_checkpoint(tmp_path / "legacy.pth", zipped=False)
    found = [resolve_encoder("vgg19", weights_dir, explicit=path) for path in (hub, legacy, elsewhere)]
    assert {one.digest for one in found} == {from_hub.digest}
    assert found[2].path == elsewhere


def test_an_explicit_safetensors_file_is_believed_for_its_contents(
    weights_dir: Path, tmp_path: Path, hub: Path
) -> None:
    save_checkpoint(hub)
    copy = resolve_encoder("vgg19", weights_dir)
    tuned = {key: array + 1 for key, array in load_file(copy.path).items()}
    save_file(tuned, tmp_path / "tuned.safetensors", {"digest": copy.digest, "source": ""})
    found = resolve_encoder("vgg19", weights_dir, explicit=tmp_path / "tuned.safetensors")
    assert found.digest == weights_digest(tuned)


@pytest.mark.parametrize("name", ["own.pth", "own.safetensors"])
@pytest.mark.parametrize("encoder", ["auto", "vgg19"])
def test_a_missing_explicit_file_is_an_error_even_for_auto(
    name: str, encoder: str, weights_dir: Path, tmp_path: Path, hub: Path, slim: Path
) -> None:
    save_checkpoint(hub)
    with pytest.raises(WeightsError, match=r"own\..* cannot be read"):
        resolve_encoder(encoder, weights_dir, explicit=tmp_path / name)  # type: ignore[arg-type]


# --- files that are no VGG-19


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "torch legacy", "plain pickle"])
def test_a_pickle_that_runs_code_is_refused(how: str, weights_dir: Path, tmp_path: Path) -> None:
    trap, source = tmp_path / "trap", tmp_path / "evil.pth"
    payload = {**tiny_state(), "evil": Evil(trap)}
    if how == "plain pickle":
        source.write_bytes(pickle.dumps({"evil": Evil(trap)}, protocol=2))
    else:
        torch.save(payload, source, _use_new_zipfile_serialization=how == "torch")
    for load in (import_weights, lambda path, folder: resolve_encoder("auto", folder, explicit=path)):
        with pytest.raises(WeightsError, match=re.escape(str(source))) as caught:
            load(source, weights_dir)
        assert "weights_only" not in str(caught.value)
    assert not trap.exists()
    assert not weights_dir.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(
    zipped: bool, share: float, weights_dir: Path, tmp_path: Path
) -> None:
    source = save_checkpoint(tmp_path / "own.pth", zipped=zipped)
    body = source.read_bytes()
    source.write_bytes(body[: int(len(body) * share)])
    with pytest.raises(WeightsError, match="cut short") as caught:
        import_weights(source, weights_dir)
    assert str(source) in caught.value.message
    assert "Delete" not in caught.value.next_step  # it may be anything, a picture that was typed by mistake
    assert "Give a VGG-19 checkpoint" in caught.value.next_step
    assert not weights_dir.exists()


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
def test_a_wrong_checkpoint_is_named_with_the_key(
    state: State, key: str, weights_dir: Path, tmp_path: Path
) -> None:
    source = save_checkpoint(tmp_path / "own.pth", state)
    with pytest.raises(WeightsError, match=re.escape(key)) as caught:
        import_weights(source, weights_dir)
    assert str(source) in caught.value.message
    assert "weights import PATH" in caught.value.next_step


def test_a_checkpoint_that_is_no_mapping_is_refused(weights_dir: Path, tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="it holds a list"):
        import_weights(tmp_path / "list.pth", weights_dir)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"conv1_1.weight": np.zeros((2, 4, 3, 3), np.float16)}, "conv1_1.weight"),
        ({"conv3_2.weight": np.zeros((2, 2, 1, 1), np.float16)}, "conv3_2.weight"),
        ({"conv3_2.bias": np.zeros(3, np.float16)}, "conv3_2.bias"),
        ({"conv3_2.bias": np.zeros(2, np.int32)}, "conv3_2.bias is I32"),
        ({"fc.weight": np.zeros(2, np.float32)}, "fc.weight"),
    ],
)
def test_a_wrong_safetensors_file_is_named_with_the_key(
    change: Arrays, key: str, weights_dir: Path, tmp_path: Path
) -> None:
    source = save_slim(tmp_path / "own.safetensors")
    save_file({**load_file(source), **change}, source)
    with pytest.raises(WeightsError, match=re.escape(key)) as caught:
        resolve_encoder("vgg19", weights_dir, explicit=source)
    assert str(source) in caught.value.message


# --- importing


def test_import_makes_a_checkpoint_the_machines_vgg19(hub: Path, weights_dir: Path, tmp_path: Path) -> None:
    save_checkpoint(hub, tiny_state(1))
    before = resolve_encoder("vgg19", weights_dir)
    # The name's digest is not the contents': people fine-tune.
    imported = import_weights(save_checkpoint(tmp_path / "vgg19-dcbb9e9d.pth", tiny_state(2)), weights_dir)
    assert imported.digest != before.digest
    assert resolve_encoder("auto", weights_dir) == imported
    assert everything_below(weights_dir) == [imported.path]


def test_import_takes_safetensors_as_float32(weights_dir: Path, tmp_path: Path) -> None:
    source = save_slim(tmp_path / "whole.safetensors", convolutions=16)
    imported = import_weights(source, weights_dir)
    copied = load_file(imported.path)
    assert {array.dtype for array in copied.values()} == {np.dtype(np.float32)}
    assert resolve_encoder("vgg19", weights_dir) == imported
    assert import_weights(imported.path, weights_dir) == imported


def test_import_wants_all_sixteen_convolutions(weights_dir: Path, tmp_path: Path) -> None:
    source = save_slim(tmp_path / "part.safetensors", convolutions=15)
    with pytest.raises(WeightsError, match=r"conv5_4\.weight is missing"):
        import_weights(source, weights_dir)
    assert not weights_dir.exists()


# --- reading


def test_reading_stops_at_the_deepest_layer(weights_dir: Path, hub: Path) -> None:
    save_checkpoint(hub)
    found = resolve_encoder("vgg19", weights_dir)
    tensors = read_weights(found, ["relu2_1", "conv1_2"])
    assert list(tensors) == [
        f"{name}.{part}" for name in ("conv1_1", "conv1_2", "conv2_1") for part in ("weight", "bias")
    ]
    expected = tiny_state()["features.5.weight"]
    torch.testing.assert_close(tensors["conv2_1.weight"], expected, rtol=0, atol=0)
    assert len(read_weights(found)) == 32


def test_float16_is_read_as_float32_and_builds_an_encoder(weights_dir: Path, slim: Path) -> None:
    tensors = read_weights(resolve_encoder("vgg19-slim", weights_dir))
    assert len(tensors) == 26
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    encoder = Encoder(tensors, ["relu5_1"])
    assert encoder(torch.zeros(1, 3, 16, 16))["relu5_1"].shape == (1, 2, 1, 1)


def test_a_layer_beyond_the_file_is_named(weights_dir: Path, slim: Path) -> None:
    with pytest.raises(WeightsError, match=r"conv5_2\.weight is missing"):
        read_weights(resolve_encoder("vgg19-slim", weights_dir), ["conv5_2"])


def test_a_gap_in_the_file_is_named(weights_dir: Path, tmp_path: Path) -> None:
    source = save_slim(tmp_path / "gap.safetensors")
    tensors = load_file(source)
    save_file({key: array for key, array in tensors.items() if not key.startswith("conv2_2")}, source)
    with pytest.raises(WeightsError, match=r"conv2_2\.weight is missing"):
        read_weights(resolve_encoder("vgg19", weights_dir, explicit=source))


PARTS = ("weight", "bias")


def ours(state: State) -> State:
    """The same under our names, up to conv5_1, and with something else in it."""
    found = {"lift1_1.weight": torch.zeros(1)}
    for name in CONVOLUTIONS[: CONVOLUTIONS.index("conv5_1") + 1]:
        for part in PARTS:
            found[f"{name}.{part}"] = state[f"features.{TORCHVISION_INDEX[name]}.{part}"]
    return found


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
    with pytest.raises(WeightsError, match=r"junk.safetensors is damaged or no safetensors file"):
        read_convolutions(tmp_path / "junk.safetensors", ["relu1_1"])
    for name in ("none.pth", "none.safetensors"):
        with pytest.raises(WeightsError, match=rf"{name} cannot be read: No such file"):
            read_convolutions(tmp_path / name, ["relu1_1"])


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_weights_damaged_after_they_were_found_are_not_read(
    damage: str, weights_dir: Path, hub: Path
) -> None:
    save_checkpoint(hub)
    found = resolve_encoder("vgg19", weights_dir)
    body = bytearray(found.path.read_bytes())
    if damage == "bit":
        body[-1] ^= 1
    found.path.write_bytes(body[:-5] if damage == "cut" else body)
    if damage == "gone":
        found.path.unlink()
    with pytest.raises(WeightsError, match=re.escape(str(found.path))) as caught:
        read_weights(found, ["relu1_1"])
    assert "run again" in caught.value.next_step


# --- torch stays out


def test_finding_weights_does_not_import_torch(weights_dir: Path, hub: Path, slim: Path) -> None:
    save_checkpoint(hub)
    first = resolve_encoder("vgg19", weights_dir)
    program = f"""
import sys
from pathlib import Path
from pipeline.vgg import weights
weights.SLIM_PATH = Path({str(slim)!r})
folder = Path({str(weights_dir)!r})
print(weights.resolve_encoder("vgg19-slim", folder).digest)
print(weights.resolve_encoder("vgg19", folder).digest)
print(weights.resolve_encoder("auto", folder, explicit=Path({str(first.path)!r})).digest)
print(weights.resolve_encoder("auto", folder / "none", allow_download=False).digest)
print("torch" in sys.modules)
"""
    hub.unlink()
    root = Path(weights.__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    slim_digest = weights_digest(load_file(slim))
    expected = [slim_digest, first.digest, first.digest, slim_digest, "False"]
    assert result.stdout.split() == expected, result.stderr
