"""What tests share. Every test runs in an empty folder, with caches and state of its own."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from fakes import MakeManifest, MakePicture, Workshop
from hypothesis import settings
from PIL import Image
from reliability import Results
from small_jobs import small_task

from pipeline.execution.executors import InProcessExecutor
from pipeline.spec.config import read_config
from pipeline.spec.jobs import Task

if TYPE_CHECKING:
    from pipeline.transfer.session import Session
    from pipeline.vgg.weights import EncoderWeights

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=100)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def numbered_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders for tests, with numbers of our own: pytest reads the names of all others for a new one."""
    folder = tmp_path_factory.mktemp("tests")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture
def numbered_folder(numbered_folders: Iterator[Path]) -> Path:
    folder = next(numbered_folders)
    folder.mkdir()
    return folder


@pytest.fixture
def tmp_path(numbered_folder: Path) -> Path:
    folder = numbered_folder / "tmp"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def environment(numbered_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the real machine out: its caches, its state, its weights and its config.yaml."""
    for name in (
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "TORCH_HOME",
        "HOME",
    ):
        monkeypatch.setenv(name, str(numbered_folder / "home" / name.lower()))
    folder = numbered_folder / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    """Load what every test needs, and keep the garbage collector from looking through it time and again."""
    importlib.import_module("torch")
    gc.freeze()


@pytest.fixture(autouse=True)
def arithmetic(pytestconfig: pytest.Config) -> Iterator[None]:
    """Compute alike on every machine and in any order of tests: threads, default dtype, bfloat16 or not."""
    import torch

    torch.set_num_threads(pytestconfig.getoption("--threads"))
    torch.set_default_dtype(torch.float32)
    torch.backends.mkldnn.matmul.fp32_precision = "none"  # its default
    flags = "avx512_bf16" if pytestconfig.getoption("--bfloat16") == "taken" else ""
    # Of its own: tests undo theirs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.transfer.devices._cpuinfo", lambda: flags)
        yield


@pytest.fixture
def make_picture(environment: Path) -> MakePicture:
    """Return a function that writes a small picture, `name` below the current folder."""

    def make(name: str | Path, seed: int = 0, size: tuple[int, int] = (24, 16)) -> Path:
        path = environment / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        return path

    return make


@pytest.fixture
def make_manifest(environment: Path) -> MakeManifest:
    """Return a function that writes a manifest from data, or as it stands from text."""

    def make(content: str | dict[str, Any], name: str | Path = "night.yaml") -> Path:
        path = environment / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return make


@pytest.fixture
def executor(environment: Path) -> InProcessExecutor:
    """One that runs jobs in this process, on the CPU."""
    paths = {"cache_dir": environment / "cache", "state_dir": environment / "state"}
    return InProcessExecutor(read_config(None).model_copy(update={"device": "cpu", **paths}))


@pytest.fixture
def make_task(make_picture: MakePicture) -> Callable[..., Task]:
    """Return a function that makes a small task from the number of a picture; number 3 is upright."""
    style = make_picture("style.png", 99, (48, 48))

    def make(number: int, **fields: Any) -> Task:
        content = make_picture(f"{number}.png", number, (36, 48) if number == 3 else (48, 36))
        return small_task(content, style, number, **fields)

    return make


@pytest.fixture
def workshop(
    environment: Path,
    make_picture: MakePicture,
    make_manifest: MakeManifest,
    monkeypatch: pytest.MonkeyPatch,
) -> Workshop:
    """Two contents times two styles, four jobs: a--s, b--s, a--t, b--t. Nothing waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for seed, name in enumerate(("photos/a.png", "photos/b.png", "styles/s.png", "styles/t.png")):
        make_picture(name, seed)
    make_manifest({"contents": ["photos/*.png"], "styles": ["styles/*.png"]})
    return Workshop(environment)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", metavar="FILE", help="write the table of fault cases into this file")
    # One thread: such small tensors gain nothing by more, and lose much on a busy machine.
    parser.addoption("--threads", type=int, default=1, help="threads of torch in every test")
    parser.addoption(
        "--bfloat16",
        choices=("taken", "refused"),
        default="refused",
        help="whether the CPU is taken to have instructions for it",
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(signal, "SIGHUP"):  # which `nohup` has child processes ignore
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Of processes that tests start, and of libraries that ask once.
    os.environ["OMP_NUM_THREADS"] = str(config.getoption("--threads"))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin starve each other where cores are few
    if path := config.getoption("--reliability"):
        config.pluginmanager.register(Results(config.rootpath / path))


@pytest.fixture
def weights(tmp_path: Path) -> EncoderWeights:
    """Those of an encoder with few channels."""
    from safetensors.numpy import save_file
    from tiny import tiny_weights

    from pipeline.vgg.weightfile import weights_digest
    from pipeline.vgg.weights import EncoderWeights

    arrays = {name: tensor.numpy() for name, tensor in tiny_weights().items()}
    save_file(arrays, tmp_path / "tiny.safetensors")
    return EncoderWeights("vgg19-slim", tmp_path / "tiny.safetensors", weights_digest(arrays))


@pytest.fixture
def session(tmp_path: Path) -> Session:
    from pipeline.transfer.devices import plan_device
    from pipeline.transfer.session import Session
    from pipeline.transfer.target_cache import TargetCache

    return Session(plan_device("cpu"), TargetCache(tmp_path / "targets"))
