from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from weight_files import save_checkpoint, tiny_state

from pipeline.errors import WeightsError
from pipeline.execution import encoders
from pipeline.execution.encoders import choose_encoder, imported_path, resolve_encoder
from pipeline.execution.executors import InProcessExecutor
from pipeline.spec.config import Config, read_config
from pipeline.transfer import devices
from pipeline.transfer.devices import DevicePlan
from pipeline.vgg.weights import bundled_weights, import_weights

CPU, CUDA, MPS = (DevicePlan(name, name, "float32", 1 << 30) for name in ("cpu", "cuda:0", "mps"))


@pytest.fixture
def config(environment: Path) -> Config:
    folders = {"state_dir": environment / "state", "cache_dir": environment / "cache"}
    return read_config(None).model_copy(update={"device": "cpu", **folders})


def on(config: Config, device: str, **more: object) -> Config:
    return config.model_copy(update={"device": device, **more})


# --- what `auto` takes


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", "vgg19-slim"), ("cuda", "vgg19"), ("cuda:1", "vgg19"), ("mps", "vgg19")],
)
def test_auto_depends_on_the_device(device: str, expected: str, config: Config) -> None:
    assert choose_encoder(device) == expected
    weights, note = resolve_encoder(on(config, device), "auto")
    assert weights == bundled_weights(expected)  # type: ignore[arg-type]
    other = {"vgg19": "vgg19-slim", "vgg19-slim": "vgg19"}[expected]
    assert note.startswith(f"Using {expected}, as `auto` does on a ")
    assert note.count(f"`encoder: {other}`") == 1
    assert "\n" not in note


@pytest.mark.parametrize(
    ("plans", "expected"), [([CPU], "vgg19-slim"), ([CUDA, CPU], "vgg19"), ([MPS, CPU], "vgg19")]
)
def test_an_automatic_device_is_the_best_that_torch_finds(plans, expected, monkeypatch) -> None:
    monkeypatch.setattr(encoders, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(devices, "list_devices", lambda: plans)
    assert choose_encoder("auto") == expected


def test_torch_is_asked_only_where_there_may_be_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(devices, "list_devices", lambda: pytest.fail("torch was asked"))
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", absent)
        patch.setattr(Path, "exists", lambda path: False)
        assert choose_encoder("auto") == "vgg19-slim"
        patch.setattr(Path, "exists", lambda path: path == Path("/dev/kfd"))
        assert encoders._may_have_gpu()
        patch.setattr(ctypes, "CDLL", lambda name: None)
        patch.setattr(Path, "exists", lambda path: False)
        assert encoders._may_have_gpu()
        patch.setattr("sys.platform", "darwin")
        patch.setattr(ctypes, "CDLL", absent)
        assert encoders._may_have_gpu()


def test_files_elsewhere_do_not_change_what_auto_takes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a checkpoint that torch downloaded, nor one that is configured, nor an imported one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    save_checkpoint(tmp_path / "torch" / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth")
    own = save_checkpoint(tmp_path / "own.pth")
    assert resolve_encoder(config, "vgg19")[0] == bundled_weights("vgg19")
    configured = on(config, "cpu", weights=own)
    import_weights(own, imported_path(config))
    for each in (config, configured):
        weights, note = resolve_encoder(each, "auto")
        assert weights == bundled_weights("vgg19-slim")
        assert (str(own) in note) == (each is configured)


# --- which VGG-19


def test_a_configured_network_comes_before_an_imported_one_before_the_bundled_one(
    config: Config, tmp_path: Path
) -> None:
    assert resolve_encoder(config, "vgg19") == (bundled_weights("vgg19"), "")
    imported = import_weights(save_checkpoint(tmp_path / "a.pth", tiny_state(1)), imported_path(config))
    assert resolve_encoder(config, "vgg19") == (imported, "")
    own = save_checkpoint(tmp_path / "b.pth", tiny_state(2))
    weights, _ = resolve_encoder(on(config, "cpu", weights=own), "vgg19")
    assert weights.name == "vgg19"
    assert weights.digest not in {imported.digest, bundled_weights("vgg19").digest}
    assert weights.path.parent == config.cache_dir / "weights"
    weights, _ = resolve_encoder(on(config, "cuda", weights=own), "auto")
    assert weights.path.parent == config.cache_dir / "weights"
    imported.path.unlink()
    assert resolve_encoder(config, "vgg19")[0] == bundled_weights("vgg19")


def test_a_fault_in_the_users_network_is_an_error_where_it_is_used(config: Config, tmp_path: Path) -> None:
    broken = on(config, "cpu", weights=tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"absent.pth cannot be read"):
        resolve_encoder(broken, "vgg19")
    assert resolve_encoder(broken, "vgg19-slim")[0] == bundled_weights("vgg19-slim")
    imported_path(config).parent.mkdir(parents=True)
    imported_path(config).write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"Delete it to use the network that comes with the package"):
        resolve_encoder(config, "vgg19")


def test_an_encoder_is_resolved_once_per_process(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = InProcessExecutor(config)
    first = executor.encoder_info("auto")
    assert (first.name, first.digest) == ("vgg19-slim", bundled_weights("vgg19-slim").digest)
    monkeypatch.setattr(encoders, "choose_encoder", lambda device: pytest.fail("resolved again"))
    assert executor.encoder_info("auto") == first
    assert executor.resolve("auto")[0] == bundled_weights("vgg19-slim")
