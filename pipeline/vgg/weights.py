"""Where the encoder's weights come from, and what they are.

Every file that this module hands out is safetensors with keys `conv1_1.weight`, `conv1_1.bias`, ...
Finding weights and naming their digest never imports torch; converting a checkpoint and
`read_weights` do.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from ..errors import WeightsError
from ..storage.files import make_private, published
from .download import Progress, download, sha256_prefix

if TYPE_CHECKING:
    from torch import Tensor

EncoderName = Literal["vgg19", "vgg19-slim"]
Tensors = Mapping[str, NDArray[Any]]

SLIM_PATH = Path(__file__).with_name("vgg19-slim.safetensors")
CHECKPOINT_NAME = "vgg19-dcbb9e9d.pth"
COPY_STEM = "vgg19-features"

IMPORT = f"run `style-pipeline weights import PATH` with a {CHECKPOINT_NAME} downloaded elsewhere"
HOW_TO_GET = f"Run `style-pipeline weights fetch`, or {IMPORT}."

# What torch.load was seen to raise on damaged bytes (OSError: a seek to nowhere) and refused pickles.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)

_safe_open: Any = safe_open  # Its stub has no types.


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder's weights on disk.

    `path` is a safetensors file with `convX_Y.weight` and `.bias`; `digest` is `weights_digest` of
    what it holds. `note` is empty, or one line that says why `auto` did not take VGG-19.
    """

    name: EncoderName
    path: Path
    digest: str
    note: str = ""


def weights_digest(tensors: Tensors) -> str:
    """SHA-256 (hex) of names, dtypes, shapes and bytes: the same in any file, order or format."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        array = np.ascontiguousarray(tensors[key])
        digest.update(f"{key} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def resolve_encoder(
    name: Literal["auto", "vgg19", "vgg19-slim"],
    weights_dir: Path,
    explicit: Path | None = None,
    allow_download: bool = True,
    on_progress: Progress | None = None,
    url: str | None = None,
) -> EncoderWeights:
    """Find, convert or download the weights of the encoder called `name`.

    `explicit` is the user's own VGG-19, a torchvision checkpoint or a safetensors file of ours; a
    fault in it is an error under `auto` too, and `vgg19-slim` has no use for it. `url` replaces
    torchvision's address. Raises WeightsError when there is nothing to be had.
    """
    if name == "vgg19-slim":
        return _bundled()
    if explicit is not None:
        return _explicit(explicit, weights_dir)
    try:
        return _vgg19(weights_dir, allow_download, on_progress, url)
    except WeightsError as error:
        if name == "vgg19":
            raise
        return replace(_bundled(), note=_fallback_note(error.message))


def find_vgg19(weights_dir: Path, explicit: Path | None = None) -> Path | None:
    """Return the VGG-19 file that would be used without a download, or None.

    In this order: `explicit`, our own copy in `weights_dir`, torch hub's cache.
    """
    copy = weights_dir / f"{COPY_STEM}.safetensors"
    if explicit is not None:
        return explicit
    if _copy_digest(copy) is not None:
        return copy
    hub = _hub_checkpoint()
    return hub if os.path.isfile(hub) else None


def import_weights(source: Path, weights_dir: Path) -> EncoderWeights:
    """Make `source` this machine's VGG-19 by converting it into our copy in `weights_dir`.

    `source` is a torchvision checkpoint or a safetensors file of ours with all sixteen convolutions.
    Raises WeightsError when it is neither, or when the copy cannot be written.
    """
    copy = weights_dir / f"{COPY_STEM}.safetensors"
    tensors = _read_full(source) if _is_ours(source) else _read_checkpoint(source)
    return EncoderWeights("vgg19", copy, _write_copy(tensors, copy))


def read_weights(weights: EncoderWeights, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Read the convolutions up to the deepest of `layers` (all by default) as float32 tensors.

    Raises WeightsError when the file is damaged, lacks a convolution, or is no longer what
    `weights.digest` says.
    """
    import torch

    from .encoder import CONVOLUTIONS, convolutions_up_to

    tensors = _read_tensors(weights.path)
    # 80 MB take 0.1 s, and a record must not name a digest that was not used.
    if weights_digest(tensors) != weights.digest:
        raise WeightsError(
            f"{weights.path} is damaged, or was replaced since it was found.", _next_step(weights.path)
        )
    names = CONVOLUTIONS[: len(tensors) // 2] if layers is None else convolutions_up_to(layers)
    keys = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    for key in keys:
        if key not in tensors:
            raise _not_vgg19(weights.path, f"{key} is missing")
    return {key: torch.from_numpy(np.array(tensors[key], dtype=np.float32)) for key in keys}


def read_convolutions(path: Path, layers: Sequence[str]) -> dict[str, Tensor]:
    """Read the convolutions up to the deepest of `layers` as float32 from any file that holds them.

    A checkpoint or safetensors, under torchvision's names or ours; whatever else is in it does not matter.
    Raises WeightsError when it cannot be read, or one is missing or does not fit the one before it.
    """
    from .encoder import TORCHVISION_INDEX, convolutions_up_to

    state = _load_safetensors(path) if _is_ours(path) else _load_state(path)
    sources = {name: name for name in convolutions_up_to(layers)}
    if "conv1_1.weight" not in state:
        sources = {name: f"features.{TORCHVISION_INDEX[name]}" for name in sources}
    _check_chain(path, {key: tuple(value.shape) for key, value in state.items()}, tuple(sources.values()))
    return {
        f"{name}.{part}": state[f"{source}.{part}"].float()
        for name, source in sources.items()
        for part in ("weight", "bias")
    }


def _bundled() -> EncoderWeights:
    return EncoderWeights("vgg19-slim", SLIM_PATH, weights_digest(_read_tensors(SLIM_PATH)))


def _explicit(source: Path, weights_dir: Path) -> EncoderWeights:
    if _is_ours(source):
        return EncoderWeights("vgg19", source, weights_digest(_read_tensors(source)))
    try:
        status = source.stat()
    except OSError as error:
        raise _unreadable(source, error) from error
    # One copy per source, and a stamp inside it: neither stale nor left behind when the source changes.
    stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    key = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    return _converted(source, weights_dir / f"{COPY_STEM}-{key}.safetensors", stamp)


def _vgg19(
    weights_dir: Path, allow_download: bool, on_progress: Progress | None, url: str | None
) -> EncoderWeights:
    copy = weights_dir / f"{COPY_STEM}.safetensors"
    found = find_vgg19(weights_dir)
    if found is not None:
        return _converted(found, copy)
    if not allow_download:
        raise WeightsError(
            f"There are no VGG-19 weights in {weights_dir} or {_hub_checkpoint().parent}, "
            "and downloads are switched off.",
            HOW_TO_GET,
        )
    return _downloaded(url or _official_url(), copy, on_progress)


def _converted(source: Path, copy: Path, stamp: str = "") -> EncoderWeights:
    digest = _copy_digest(copy, stamp) or _write_copy(_read_checkpoint(source), copy, stamp)
    return EncoderWeights("vgg19", copy, digest)


def _downloaded(url: str, copy: Path, on_progress: Progress | None) -> EncoderWeights:
    try:
        make_private(copy.parent)
        # A folder of its own: another process may be downloading the same file.
        folder = tempfile.TemporaryDirectory(prefix=".download-", dir=copy.parent)
    except OSError as error:
        raise _unwritable(copy.parent, error) from error
    with folder as name:
        checkpoint = Path(name) / CHECKPOINT_NAME
        download(url, checkpoint, sha256_prefix(url), on_progress=on_progress)
        return EncoderWeights("vgg19", copy, _write_copy(_read_checkpoint(checkpoint), copy))


def _official_url() -> str:
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        # RuntimeError: a torchvision built for another torch.
        raise WeightsError(
            f"torchvision, which knows where VGG-19 is, fails: {error}.", HOW_TO_GET
        ) from error
    return str(models.VGG19_Weights.IMAGENET1K_V1.url)


def _hub_checkpoint() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(os.path.expanduser(home), "hub", "checkpoints", CHECKPOINT_NAME)


def _is_ours(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _copy_digest(copy: Path, stamp: str = "") -> str | None:
    """Read the digest from a copy's header; None when the copy is absent, damaged, foreign or stale."""
    try:
        with _opened(copy) as file:
            metadata: dict[str, str] = file.metadata() or {}
    except WeightsError:
        return None
    return metadata.get("digest") if metadata.get("source") == stamp else None


def _write_copy(tensors: Tensors, copy: Path, stamp: str = "") -> str:
    digest = weights_digest(tensors)
    try:
        make_private(copy.parent)
        with published(copy) as file:
            file.write(safetensors_bytes(dict(tensors), {"digest": digest, "source": stamp}))
    except OSError as error:
        raise _unwritable(copy, error) from error
    return digest


def _read_tensors(path: Path) -> Tensors:
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def _read_full(path: Path) -> Tensors:
    from .encoder import CONVOLUTIONS

    tensors = _read_tensors(path)
    _check_chain(path, {key: array.shape for key, array in tensors.items()}, CONVOLUTIONS)
    return {key: array.astype(np.float32) for key, array in tensors.items()}


def _read_checkpoint(path: Path) -> Tensors:
    """Read a torchvision checkpoint's sixteen convolutions as float32, under our names."""
    from .encoder import TORCHVISION_INDEX

    state = _load_state(path)
    sources = {name: f"features.{index}" for name, index in TORCHVISION_INDEX.items()}
    _check_chain(path, {key: tuple(value.shape) for key, value in state.items()}, tuple(sources.values()))
    return {
        f"{name}.{part}": state[f"{source}.{part}"].detach().float().contiguous().numpy()
        for name, source in sources.items()
        for part in ("weight", "bias")
    }


def _load_state(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        open(path, "rb").close()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        state = _torch_load(path)
    except UNREADABLE as error:
        # torch's own text advises to switch weights_only off, so it is not passed on.
        raise WeightsError(
            f"{path} is no checkpoint that can be read: damaged, cut short, or holding more than tensors.",
            _next_step(path),
        ) from error
    if not isinstance(state, Mapping):
        raise _not_vgg19(path, f"it holds a {type(state).__name__}, not tensors by name")
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with _safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _torch_load(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except RuntimeError:
        # Checkpoints from before torch 1.6, and files on some file systems, cannot be mapped.
        return torch.load(path, weights_only=True, map_location="cpu")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file of ours, its header checked; its data is read only on demand."""
    try:
        with _safe_open(path, framework="numpy") as file:
            _check_header(path, {key: file.get_slice(key) for key in file.keys()})  # noqa: SIM118
            yield file
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _check_header(path: Path, slices: Mapping[str, Any]) -> None:
    for key, tensor in slices.items():
        if not re.fullmatch(r"conv[1-5]_[1-4]\.(weight|bias)", key):
            raise _not_vgg19(path, f"{key} is no part of it")
        if tensor.get_dtype() not in ("F16", "F32"):
            raise _not_vgg19(path, f"{key} is {tensor.get_dtype()}, not F16 or F32")
    shapes = {key: tuple(tensor.get_shape()) for key, tensor in slices.items()}
    # Alphabetical order is the network's order. A file may end before conv5_4.
    _check_chain(path, shapes, sorted({"conv1_1", *(key.partition(".")[0] for key in shapes)}))


def _check_chain(path: Path, shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> None:
    """Raise WeightsError unless every convolution is 3x3 and takes what the one before it gives."""
    channels = 3
    for name in names:
        for key in (f"{name}.weight", f"{name}.bias"):
            if key not in shapes:
                raise _not_vgg19(path, f"{key} is missing")
        weight, bias = shapes[f"{name}.weight"], shapes[f"{name}.bias"]
        if len(weight) != 4 or weight[0] == 0 or weight[1:] != (channels, 3, 3):
            raise _not_vgg19(path, f"{name}.weight has the shape {weight}, not (N, {channels}, 3, 3)")
        channels = weight[0]
        if bias != (channels,):
            raise _not_vgg19(path, f"{name}.bias has the shape {bias}, not ({channels},)")


def _fallback_note(reason: str) -> str:
    return (
        f"Using vgg19-slim, because: {' '.join(reason.split())} "
        "It is a smaller network: softer detail and looser style than VGG-19, but quicker. "
        f"For the full weights: {HOW_TO_GET[0].lower()}{HOW_TO_GET[1:]}"
    )


def _next_step(path: Path) -> str:
    if path == SLIM_PATH:
        return "Install style-pipeline again."
    if path.name.startswith(COPY_STEM):
        return "Delete it and run again; it will be made anew from its source."
    if path == _hub_checkpoint():
        return f"Delete or replace it and run again, or {IMPORT}."
    return f"Give a VGG-19 checkpoint in torchvision's format, such as {CHECKPOINT_NAME}, or {IMPORT}."


def _not_vgg19(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path} is not a VGG-19: {reason}.", _next_step(path))


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path} cannot be read: {error.strerror or error}.", _next_step(path))


def _damaged(path: Path, error: SafetensorError) -> WeightsError:
    return WeightsError(f"{path} is damaged or no safetensors file: {error}.", _next_step(path))


def _unwritable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{path} cannot be written: {error.strerror or error}.",
        "Make room there, or name another folder for the weights.",
    )
