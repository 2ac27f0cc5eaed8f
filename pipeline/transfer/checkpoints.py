"""The state of a running job, and its file: with it a job resumes as if it had never been stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..errors import DiskError
from ..storage.temporary import CAN_RENAME_OPEN_FILES
from .headers import CHECKPOINT_FORMAT
from .stored import FileTensor, Stored, loaded, parts_of
from .tensor_files import DamagedError, open_tensor_file, read_tensor_file, write_tensor_file

# Begins the names of the optimiser's tensors in a file.
OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class LossRow:
    """One line of the loss log. Losses are weighted, so content + style + tv (+ range) = total."""

    step: int
    size: int
    total: float
    content: float
    style: float
    tv: float
    layers: dict[str, float]
    seconds: float


@dataclass
class RunState:
    """Where a job stands: the level, the steps taken in it, the pixels and the optimiser.

    `canvas` is in the recipe's parametrisation; None is the start of the job.
    """

    level: int = 0
    step: int = 0
    canvas: Stored | None = None
    best: Stored | None = None
    best_loss: float = math.inf
    optimizer: dict[str, Stored] | None = None
    rows: list[LossRow] = field(default_factory=list)

    def detached(self) -> RunState:
        """Return the same state with copies of its tensors, in memory."""
        canvas, best = (None if each is None else loaded(each).clone() for each in (self.canvas, self.best))
        optimizer: dict[str, Stored] | None = self.optimizer and {
            name: loaded(stored).clone() for name, stored in self.optimizer.items()
        }
        return replace(self, canvas=canvas, best=best, optimizer=optimizer)

    def close(self) -> None:
        """Close the file that its tensors are in, if they are in one: they cannot be read any more."""
        for stored in (self.canvas, self.best, *(self.optimizer or {}).values()):
            if isinstance(stored, FileTensor):
                stored.close()

    def fits(self, shapes: Sequence[tuple[int, int]], steps: Sequence[int]) -> bool:
        """Return whether a job can have this state, given the (rows, columns) and the steps of its levels."""
        if not (0 <= self.level < len(steps) and 0 <= self.step <= steps[self.level]):
            return False
        if self.canvas is None:
            return self == RunState()
        shape = (1, 3, *shapes[self.level])
        pixels = [self.canvas] if self.best is None else [self.canvas, self.best]
        return (
            len(self.rows) <= sum(steps[: self.level]) + self.step
            and all(tensor.shape == shape and tensor.dtype == torch.float32 for tensor in pixels)
            and all(bool(part.isfinite().all()) for stored in pixels for part in parts_of(stored))
            and all(tensor.shape[:1] == (1,) for tensor in (self.optimizer or {}).values())
            and not math.isnan(self.best_loss)
        )

    def to_tensors(self) -> tuple[dict[str, Stored], dict[str, str]]:
        """Return the tensors themselves, and the rest as JSON under `state`."""
        named = {"canvas": self.canvas, "best": self.best}
        named |= {f"{OPTIMIZER}{name}": tensor for name, tensor in (self.optimizer or {}).items()}
        tensors = {name: tensor for name, tensor in named.items() if tensor is not None}
        plain = {
            "level": self.level,
            "step": self.step,
            "best_loss": self.best_loss,
            "rows": [asdict(row) for row in self.rows],
        }
        return tensors, {"state": json.dumps(plain)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> RunState:
        """Undo `to_tensors`."""
        plain = json.loads(metadata["state"])
        optimizer: dict[str, Stored] = {
            name.removeprefix(OPTIMIZER): tensor
            for name, tensor in tensors.items()
            if name.startswith(OPTIMIZER)
        }
        return cls(
            level=plain["level"],
            step=plain["step"],
            canvas=tensors.get("canvas"),
            best=tensors.get("best"),
            best_loss=plain["best_loss"],
            optimizer=optimizer or None,
            rows=[LossRow(**row) for row in plain["rows"]],
        )


def write_checkpoint(path: Path, state: RunState) -> None:
    """Write a state as safetensors, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    tensors, metadata = state.to_tensors()
    metadata |= {"format": CHECKPOINT_FORMAT, "key": path.stem}
    write_tensor_file(path, tensors, metadata)


def read_checkpoint(path: Path) -> RunState | None:
    """Return the state in a file, or None where there is no file. Its tensors stay in the file.

    Raises:
        DamagedError: it is not as it was written, or not a checkpoint of this name and version.
    """
    # Where an open file cannot be replaced, by the next checkpoint, it is read at once.
    read = open_tensor_file if CAN_RENAME_OPEN_FILES else read_tensor_file
    try:
        tensors, metadata = read(path)
        if metadata.get("format") != CHECKPOINT_FORMAT:
            raise DamagedError("is of another version")
        if metadata.get("key") != path.stem:
            raise DamagedError("is of another job")
        return RunState.from_tensors(tensors, metadata)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror or error})") from error
    except DiskError as error:
        raise DamagedError("cannot be read to its end") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError("is damaged") from error
