"""Shows the running jobs of this process to whoever looks: a small picture, steps and losses."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..storage.live import COLUMNS, Live, LiveFolder, is_looked_at
from .inputs import Prepared

if TYPE_CHECKING:
    from ..transfer.checkpoints import LossRow
    from ..transfer.reports import Progress
    from ..transfer.request import Request

logger = logging.getLogger(__name__)

# Seconds between two pictures of a job, and between two questions whether someone looks.
PICTURE_S, ASK_S = 2.0, 0.5
# Pictures take at most this fraction of the time, as its reciprocal.
SHARE = 150
# Long edge of a picture, and quality of its JPEG.
LONG_EDGE, QUALITY = 256, 80
# Points of a loss curve, at most.
POINTS = 300


@dataclass
class _Shown:
    """A running job: its losses so far, and when its picture was last written."""

    prepared: Prepared
    losses: list[tuple[float, ...]]
    written: float = -math.inf
    _small: Request | None = field(default=None, init=False)

    @property
    def small_request(self) -> Request:
        """The job's request, with a content of the size of the pictures: scaling a large one takes long."""
        if self._small is None:
            from ..transfer.request import Picture

            request = self.prepared.request
            content = request.content.image.copy()
            content.thumbnail((LONG_EDGE, LONG_EDGE))
            self._small = replace(request, content=Picture.from_image(content))
        return self._small


class LivePictures:
    """Writes what running jobs look like, for as long as someone looks and never for long.

    A job costs nothing but a row of numbers per step while nobody looks.
    """

    def __init__(self, state_dir: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self.state_dir = state_dir
        self.clock = clock
        self._folder = LiveFolder(state_dir)
        self._shown: dict[str, _Shown] = {}  # by key
        self._ask_at = self._next_at = -math.inf
        self._is_looked_at = False
        self._fault = ""

    def step(self, prepared: Prepared, progress: Progress, left_s: float | None) -> None:
        """Note a step or a tile, and write how the job looks if that is due."""
        shown = self._shown.get(prepared.task.key)
        if shown is None:
            earlier = [_losses(row) for row in prepared.state.rows]
            shown = self._shown[prepared.task.key] = _Shown(prepared, earlier)
        if progress.row is not None and not progress.tiles:
            shown.losses.append(_losses(progress.row))
        if not self._is_due(shown):
            return
        began = self.clock()
        self._try(lambda: self._folder.write(_live(shown, progress, left_s), _picture(shown, progress)))
        shown.written = self.clock()
        self._next_at = shown.written + SHARE * (shown.written - began)

    def end(self, prepared: Prepared) -> None:
        """Remove what was written of a job."""
        if self._shown.pop(prepared.task.key, None) is not None:
            self._try(lambda: self._folder.remove(prepared.task.key))

    def close(self) -> None:
        self._folder.close()

    def _is_due(self, shown: _Shown) -> bool:
        """Tell whether someone looks, and this job is the one whose picture is oldest, and old enough."""
        now = self.clock()
        if now >= self._ask_at:
            self._is_looked_at = is_looked_at(self.state_dir)
            self._ask_at = now + ASK_S
        if not self._is_looked_at or now < max(self._next_at, shown.written + PICTURE_S):
            return False
        return shown.written <= min(each.written for each in list(self._shown.values()))

    def _try(self, write: Callable[[], None]) -> None:
        """Write something. Whatever goes wrong is logged, once: a job does not depend on its being shown."""
        try:
            write()
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            if fault != self._fault:
                logger.warning("live pictures cannot be written: %s", fault)
            self._fault = fault


def seconds_left(prepared: Prepared, progress: Progress) -> float | None:
    """Return about how many seconds a job still takes; nothing is known before the first step of a run."""
    rows, row, work = prepared.state.rows, progress.row, progress.work
    made = work.until(progress.step) - work.until(rows[-1].step if rows else 0)
    if row is None or not made:
        return None
    took_s = row.seconds - (rows[-1].seconds if rows else 0.0)
    begun = progress.tile / progress.tiles if progress.tiles else 0.0
    return took_s * (work.until(progress.steps) - work.until(progress.step + begun)) / made


def _losses(row: LossRow) -> tuple[float, ...]:
    return row.step, row.size, row.total, row.content, row.style


def _live(shown: _Shown, progress: Progress, left_s: float | None) -> Live:
    prepared = shown.prepared
    task, job = prepared.task, prepared.task.job
    sizes = list(dict.fromkeys(level.size for level in prepared.levels))
    rows = thinned(shown.losses)
    return Live(
        key=task.key,
        batch=job.batch,
        name=job.name,
        drop=job.drop,
        content=job.content,
        style=job.style.name,
        styles=job.style.images,
        level=sizes.index((progress.width, progress.height)) + 1,
        levels=len(sizes),
        width=progress.width,
        height=progress.height,
        step=progress.step,
        steps=progress.steps,
        seconds=progress.row.seconds if progress.row else 0.0,
        left_s=left_s,
        losses={name: tuple(row[i] for row in rows) for i, name in enumerate(COLUMNS)},
        tile=progress.tile,
        tiles=progress.tiles,
    )


def thinned(rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Return at most POINTS rows, evenly spaced, the first and the last among them."""
    if len(rows) <= POINTS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (POINTS - 1))] for i in range(POINTS)]


def _picture(shown: _Shown, progress: Progress) -> bytes | None:
    """Return the canvas as a JPEG, in the colours of the result; None within a step: it has not changed."""
    if progress.read_image is None:
        return None
    from ..transfer.color_policy import final_colors
    from ..transfer.tensors import shrunk, to_image

    file = io.BytesIO()
    image_BCHW = shrunk(progress.read_image(), LONG_EDGE).clamp(0, 1)
    to_image(final_colors(shown.small_request, image_BCHW)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
