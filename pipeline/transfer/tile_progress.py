"""Reports of tiles: a step of a large picture may take minutes, in which a run would look as if it hung."""

from __future__ import annotations

from collections.abc import Sequence

from .level_run import PictureRun
from .pyramid import Level
from .reports import Hooks, Progress
from .run_work import RunWork

# Seconds after which a tile is reported if nothing else was; quicker steps report none.
TILE_EVERY_S = 2.0


class TileReports:
    """Reports the tiles of the steps of one level, and of what is computed before the first of them.

    It knows nothing of what computes them, which would otherwise outlive the level.
    """

    def __init__(
        self, level: Level, pictures: Sequence[PictureRun], hooks: Hooks, steps_before: int, work: RunWork
    ) -> None:
        self.level = level
        self.pictures = pictures
        self.hooks = hooks
        self.steps_before, self.work = steps_before, work
        self._reported = hooks.clock()

    def __call__(self, tile: int, tiles: int) -> None:
        """Note that a tile of a step is computed."""
        now = self.hooks.clock()
        if tile == 1:  # the step began just before, after a report of its own
            self._reported = now
        if now - self._reported < TILE_EVERY_S:
            return
        self._reported = now
        for picture in self.pictures:
            if picture.is_running:
                self._report(picture, tile, tiles)

    def _report(self, picture: PictureRun, tile: int, tiles: int) -> None:
        row = picture.state.rows[-1] if picture.state.rows else None
        step = row.step if row else self.steps_before
        size = self.level.size
        self.hooks.on_progress(
            Progress(picture.index, step, self.work.steps, *size, self.work, row, tile=tile, tiles=tiles)
        )
