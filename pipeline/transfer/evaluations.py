"""Evaluations of large pictures on the disk, so that whoever resumes a job does not compute them again.

A checkpoint of a large picture takes too long to be written every minute, or after every step. Nearly all of
a step is the evaluation of its canvas, and the result is small. So the steps since the checkpoint are taken
again with evaluations that are on the disk, and one that was interrupted continues after its last tile there.

A file is named by a digest of the canvas that was evaluated, so it is never taken for that of another.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DiskError
from ..storage.files import disk_errors
from .headers import evaluation_paths
from .large_maps import empty_map
from .losses import Moments
from .stored import FileTensor, bytes_of, copy_stored, loaded, parts_of
from .tensor_files import DamagedError, open_tensor_file, write_tensor_file
from .tiles import TileSize

logger = logging.getLogger(__name__)

EVALUATION_FORMAT = "1"
# An evaluation is written every minute, and at its end if all of it took so long: quicker steps lose little,
# as their checkpoints are quick, too.
PART_S, WHOLE_S = 60.0, 10.0
# Writing takes at most this fraction of the time, as its reciprocal.
SHARE = 10


class Stopped(Exception):
    """A stop was asked for within an evaluation."""


@dataclass
class Evaluation:
    """What is computed of an evaluation: `tile` tiles of these sizes, those of both passes counted.

    By layer it has the moments of the tiles, and the content losses (B). By the depths of segments it has
    their inputs, without that of the first, and the gradients with respect to their inputs (BCHW, channels
    last), as far as further tiles need them. `seconds` is how long an earlier process computed.
    """

    sizes: dict[int, TileSize]
    tile: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)
    content: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors, by names from which `from_tensors` knows what they are; maps are BHWC."""
        return {
            **{f"mean/{layer}": each.mean for layer, each in self.moments.items()},
            **{f"second/{layer}": each.second for layer, each in self.moments.items()},
            **{f"content/{layer}": loss_B for layer, loss_B in self.content.items()},
            **{f"input/{depth}": each.permute(0, 2, 3, 1) for depth, each in self.inputs.items()},
            **{f"gradient/{depth}": each.permute(0, 2, 3, 1) for depth, each in self.gradients.items()},
        }

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, FileTensor], plain: Mapping[str, str], device: torch.device
    ) -> Evaluation:
        """Undo `to_tensors`, given the rest as JSON."""
        sizes = {int(depth): TileSize(*size) for depth, size in json.loads(plain["sizes"]).items()}
        found = cls(sizes, json.loads(plain["tile"]), seconds=json.loads(plain["seconds"]))
        for name, stored in tensors.items():
            kind, _, key = name.partition("/")
            match kind:
                case "mean":
                    second = loaded(tensors[f"second/{key}"])
                    found.moments[key] = Moments(loaded(stored).to(device), second.to(device))
                case "content":
                    found.content[key] = loaded(stored).to(device)
                case "input":
                    found.inputs[int(key)] = _map(stored, device)
                case "gradient":
                    found.gradients[int(key)] = _map(stored, device)
        return found

    def metadata(self, seconds: float) -> dict[str, str]:
        """Return the rest as JSON, given how long it was computed."""
        sizes = {depth: (size.rows, size.columns) for depth, size in self.sizes.items()}
        return {"sizes": json.dumps(sizes), "tile": json.dumps(self.tile), "seconds": json.dumps(seconds)}


def _map(stored: FileTensor, device: torch.device) -> Tensor:
    """Return a map (BCHW, channels last) from a file (BHWC)."""
    B, H, W, C = stored.shape
    map_BCHW = empty_map((B, C, H, W), stored.dtype, device, channels_last=True)
    copy_stored(stored, map_BCHW.permute(0, 2, 3, 1))
    return map_BCHW


class EvaluationFiles:
    """The files of a job's evaluations since its checkpoint, which they lie beside.

    They are removed when a new checkpoint is written. `should_stop` is asked after every tile.
    """

    def __init__(
        self,
        checkpoint: Path,
        should_stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.earlier_s = 0.0  # how long earlier processes computed the last evaluation
        self._checkpoint = checkpoint
        self._should_stop = should_stop
        self._clock = clock
        self._path: Path | None = None
        self._number = 0  # of the evaluation, counted from 1 after the checkpoint
        self._began = self._written = clock()
        self._s_per_byte = 0.0
        self._is_full = False  # the disk

    def begin(
        self, image_BCHW: Tensor, dtype: torch.dtype, fits: Callable[[Evaluation], bool]
    ) -> Evaluation | None:
        """Begin an evaluation in a type; return what is on the disk of it and `fits`, or None."""
        self._path = None
        self._number += 1
        found = self._read(image_BCHW, dtype) if evaluation_paths(self._checkpoint) else None
        found = found if found and fits(found) else None
        self.earlier_s = found.seconds if found else 0.0
        self._began = self._written = self._clock()
        return found

    def after_tile(self, image_BCHW: Tensor, dtype: torch.dtype, evaluation: Evaluation, tiles: int) -> None:
        """Write an evaluation if it is time to, or to stop; `tiles` are those of both passes.

        Raises:
            Stopped: a stop was asked for, and there are more tiles.
        """
        stops = evaluation.tile < tiles and self._should_stop()
        if stops or self._is_due(evaluation, tiles):
            self._write(image_BCHW, dtype, evaluation, tiles)
        if stops:
            raise Stopped

    def remove(self) -> None:
        """Remove all files.

        Raises:
            DiskError: one cannot be removed.
        """
        for path in evaluation_paths(self._checkpoint):
            with disk_errors(path, "cannot be deleted"):
                path.unlink(missing_ok=True)
        self._number = 0

    def _is_due(self, evaluation: Evaluation, tiles: int) -> bool:
        now = self._clock()
        if evaluation.tile == tiles:
            since_s, least_s = self.earlier_s + now - self._began, WHOLE_S
        else:
            since_s, least_s = now - self._written, PART_S
        if since_s < least_s or self._is_full:
            return False
        size = sum(each.nbytes for each in evaluation.to_tensors().values())
        return since_s >= SHARE * self._s_per_byte * size

    def _write(self, image_BCHW: Tensor, dtype: torch.dtype, evaluation: Evaluation, tiles: int) -> None:
        started = self._clock()
        path = self._path = self._path or self._path_of(image_BCHW, dtype)
        tensors = evaluation.to_tensors()
        metadata = evaluation.metadata(self.earlier_s + started - self._began)
        steps = self._number - 1 + evaluation.tile / tiles
        try:
            write_tensor_file(path, tensors, {**metadata, "steps": json.dumps(steps), "key": path.stem})
        except OSError as error:
            self._is_full = True
            logger.warning(
                "%s: the step being made cannot be kept there (%s); if the job is interrupted, "
                "it resumes from its last checkpoint",
                path.parent,
                error.strerror or error,
            )
        self._written = self._clock()
        self._s_per_byte = (self._written - started) / sum(each.nbytes for each in tensors.values())

    def _read(self, image_BCHW: Tensor, dtype: torch.dtype) -> Evaluation | None:
        path = self._path = self._path_of(image_BCHW, dtype)
        try:
            tensors, metadata = open_tensor_file(path)
            if metadata.get("key") == path.stem:
                return Evaluation.from_tensors(tensors, metadata, image_BCHW.device)
        except FileNotFoundError:
            pass
        except (OSError, DiskError, DamagedError, ValueError, KeyError) as error:
            logger.debug("%s cannot be used (%s): it is computed again", path.name, error)
        return None

    def _path_of(self, image_BCHW: Tensor, dtype: torch.dtype) -> Path:
        """Return the file of an evaluation; its name depends on all numbers of the image."""
        digest = hashlib.sha256(f"{EVALUATION_FORMAT} {dtype} {tuple(image_BCHW.shape)}\n".encode())
        for part in parts_of(image_BCHW):
            digest.update(bytes_of(part))
        return self._checkpoint.with_name(f"{self._checkpoint.stem}-{digest.hexdigest()}.safetensors")
