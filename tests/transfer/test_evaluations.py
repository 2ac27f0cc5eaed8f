from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from small_transfers import Level, recipe_for, transfer_for
from test_explicit import masked_targets, soft_masks
from test_tiled import Counting, plan_of
from tiny import random_image, tiny_encoder
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.transfer import evaluations
from pipeline.transfer.checkpoints import RunState
from pipeline.transfer.evaluations import PART_S, SHARE, WHOLE_S, EvaluationFiles, Stopped
from pipeline.transfer.headers import steps_since_checkpoint
from pipeline.transfer.objective import Losses
from pipeline.transfer.tile_planning import Tiling
from pipeline.transfer.tiled import TiledObjective
from pipeline.transfer.tiles import TilePlan

SIZE, TILES = (48, 70), (32, 32)
# A content layer whose features are recomputed, and one whose are kept.
RECIPE = Recipe(margin=8, content_layers={"relu1_2": 1.0, "relu4_1": 2.0})
ENCODER = tiny_encoder(RECIPE)
PLAN = plan_of(ENCODER, *TILES)
TARGETS = masked_targets(ENCODER, RECIPE, soft_masks(1, 2, *SIZE))


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Made:
    """An objective with files, and how many tiles of its last evaluation are computed."""

    objective: TiledObjective
    network: Counting
    files: EvaluationFiles | None
    tile: int = 0
    tiles: int = 0


def made(
    files: EvaluationFiles | None = None,
    plan: TilePlan = PLAN,
    dtype: torch.dtype = torch.float32,
    after_tile: Callable[[int], None] = lambda tile: None,
    scratch: Path | None = None,
) -> Made:
    network = Counting(ENCODER, dtype)
    ready: list[Made] = []  # empty while the content is analysed

    def on_tile(tile: int, tiles: int) -> None:
        for each in ready:
            each.tile, each.tiles = tile, tiles
            after_tile(tile)

    content = random_image(*SIZE, seed=1)
    objective = TiledObjective(network, RECIPE, content, TARGETS, plan, on_tile, files, scratch)
    result = Made(objective, network, files)
    ready.append(result)
    network.kept = network.dropped = 0
    return result


def canvas(seed: int = 3) -> Tensor:
    return random_image(*SIZE, seed=seed)


def stopping(path: Path, after: int) -> Made:
    """Return an objective that is stopped after a tile of its evaluation."""
    files = EvaluationFiles(path, lambda: stopped.tile == after, Clock())
    stopped = made(files)
    return stopped


def assert_equal(one: tuple[Losses, Tensor], other: tuple[Losses, Tensor]) -> None:
    for name, loss in one[0].by_name().items():
        assert torch.equal(loss, other[0].by_name()[name]), name
    assert torch.equal(one[1], other[1])


def stop(path: Path, after: int) -> Path:
    """Stop an evaluation after a tile; return its file."""
    with pytest.raises(Stopped):
        stopping(path, after).objective.evaluate(canvas())
    (file,) = path.parent.glob("*")
    return file


WHOLE = made()
EXPECTED = WHOLE.objective.evaluate(canvas())


SOME_KEPT = replace(PLAN, kept={0: 2, 2: 99, 3: 1, 4: 99})
SOME_FILED = replace(
    PLAN, kept={0: 1}, filed={0: 2, 2: 99, 3: 2}, file_bytes=10**7, filed_content=frozenset({0})
)


@pytest.mark.parametrize("plan", [PLAN, SOME_KEPT, SOME_FILED], ids=["", "kept", "filed"])
def test_stopped_after_any_tile_it_continues_to_the_same_bits(plan: TilePlan, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    expected = made(plan=plan, scratch=scratch).objective.evaluate(canvas())
    for after in range(1, WHOLE.tiles):
        path = tmp_path / str(after) / "key.safetensors"
        stop(path, after)
        again = made(EvaluationFiles(path, clock=Clock()), plan, scratch=scratch)
        assert_equal(again.objective.evaluate(canvas()), expected)
    assert WHOLE.tiles > 20


def test_tiles_that_are_done_are_not_computed_again(tmp_path: Path) -> None:
    stop(tmp_path / "key.safetensors", WHOLE.tiles - 2)
    again = made(EvaluationFiles(tmp_path / "key.safetensors", clock=Clock()))
    again.objective.evaluate(canvas())
    assert (again.network.kept, again.tile) == (2, WHOLE.tiles)


def test_what_is_kept_counts_as_steps(tmp_path: Path) -> None:
    path = tmp_path / "key.safetensors"
    assert steps_since_checkpoint(path) == 0
    stop(path, 5)
    assert steps_since_checkpoint(path) == 5 / WHOLE.tiles
    again = stopping(path, 6)
    with pytest.raises(Stopped):
        again.objective.evaluate(canvas())
    assert steps_since_checkpoint(path) == 6 / WHOLE.tiles
    with pytest.raises(Stopped):
        again.objective.evaluate(canvas(4))  # the next step
    assert steps_since_checkpoint(path) == 1 + 6 / WHOLE.tiles
    assert again.files is not None
    again.files.remove()  # as of a checkpoint that has these steps
    stop_again = stopping(path, 2)
    with pytest.raises(Stopped):
        stop_again.objective.evaluate(canvas())
    assert steps_since_checkpoint(path) == 2 / WHOLE.tiles


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "torn": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "a bit": flip_a_bit,
    "missing": Path.unlink,
    "another's": lambda file: file.rename(file.with_name(file.name.replace("key", "other"))),
    "renamed": lambda file: file.rename(file.with_name(file.name[:-20] + "0123.safetensors")),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_cannot_be_used_is_ignored(damage: Callable[[Path], object], tmp_path: Path) -> None:
    damage(stop(tmp_path / "key.safetensors", 5))
    again = made(EvaluationFiles(tmp_path / "key.safetensors", clock=Clock()))
    assert_equal(again.objective.evaluate(canvas()), EXPECTED)
    assert again.network.kept == WHOLE.network.kept


def test_a_file_of_another_key_is_ignored_under_this_name(tmp_path: Path) -> None:
    file = stop(tmp_path / "key.safetensors", 5)
    file.rename(file.with_name(file.name.replace("key", "foreign")))
    (tmp_path / "foreign.safetensors").touch()
    again = made(EvaluationFiles(tmp_path / "foreign.safetensors", clock=Clock()))
    again.objective.evaluate(canvas())
    assert again.network.kept == WHOLE.network.kept


def test_another_canvas_or_another_type_begins_anew(tmp_path: Path) -> None:
    stop(tmp_path / "key.safetensors", 5)
    other = made(EvaluationFiles(tmp_path / "key.safetensors", clock=Clock()))
    assert_equal(other.objective.evaluate(canvas(4)), made().objective.evaluate(canvas(4)))
    rounded = made(EvaluationFiles(tmp_path / "key.safetensors", clock=Clock()), dtype=torch.bfloat16)
    rounded.objective.evaluate(canvas())
    assert other.network.kept == rounded.network.kept == WHOLE.network.kept


@pytest.mark.parametrize(("ours", "continues"), [((64, 32), True), ((32, 16), False)], ids=str)
def test_it_continues_with_its_own_tiles_unless_they_are_much_larger(
    ours: tuple[int, int], continues: bool, tmp_path: Path
) -> None:
    stop(tmp_path / "key.safetensors", WHOLE.tiles - 2)
    other = made(EvaluationFiles(tmp_path / "key.safetensors", clock=Clock()), plan_of(ENCODER, *ours))
    _, gradient = other.objective.evaluate(canvas())
    # The content was analysed in other tiles, which round differently.
    assert torch.allclose(gradient, EXPECTED[1], atol=1e-4)
    if continues:
        assert other.network.kept == 2
    else:
        assert other.tiles > WHOLE.tiles


def test_a_whole_one_needs_no_tiles(tmp_path: Path) -> None:
    clock = Clock()

    def wait(tile: int) -> None:
        clock.now += WHOLE_S / WHOLE.tiles + 1e-3

    slow = made(EvaluationFiles(tmp_path / "key.safetensors", clock=clock), after_tile=wait)
    slow.objective.evaluate(canvas())
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 5 * canvas().nbytes  # with the moments of a tiny picture
    files = EvaluationFiles(tmp_path / "key.safetensors", clock=Clock())
    again = made(files, plan_of(ENCODER, 16, 16))
    assert_equal(again.objective.evaluate(canvas()), EXPECTED)
    assert again.network.kept == 0
    assert files.earlier_s == pytest.approx(WHOLE_S, rel=0.01)
    files.remove()
    assert list(tmp_path.iterdir()) == []


def written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile_s: float, write_s: Callable[[int], float]
) -> list[float]:
    """Return when an evaluation is written, given the seconds of a tile and of writing so many bytes."""
    clock, times = Clock(), []

    def write(path: Path, tensors: dict[str, Tensor], metadata: object) -> None:
        times.append(clock.now)
        clock.now += write_s(sum(each.nbytes for each in tensors.values()))

    def wait(tile: int) -> None:
        clock.now += tile_s

    monkeypatch.setattr(evaluations, "write_tensor_file", write)
    made(EvaluationFiles(tmp_path / "key", clock=clock), after_tile=wait).objective.evaluate(canvas())
    return times


def test_a_quick_evaluation_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(tmp_path, monkeypatch, 0.99 * WHOLE_S / WHOLE.tiles, lambda size: 0.0) == []


def test_it_is_written_every_minute_and_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = written(tmp_path, monkeypatch, PART_S / 4, lambda size: 0.0)
    assert times[:3] == [PART_S, 2 * PART_S, 3 * PART_S]
    assert times[-1] == WHOLE.tiles * PART_S / 4


def test_writing_takes_a_tenth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def write_s(size: int) -> float:
        sizes.append(size)
        return size / sizes[0] * PART_S / 4

    first, second, *_ = written(tmp_path, monkeypatch, PART_S / 4, write_s)
    assert first == PART_S
    assert second - first >= SHARE * PART_S / 4 * sizes[1] / sizes[0]


def test_a_full_disk_costs_the_parts_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clock = Clock()

    def wait(tile: int) -> None:
        clock.now += PART_S

    monkeypatch.setattr(evaluations, "write_tensor_file", fail)
    files = EvaluationFiles(tmp_path / "key.safetensors", clock=clock)
    with caplog.at_level(logging.WARNING):
        assert_equal(made(files, after_tile=wait).objective.evaluate(canvas()), EXPECTED)
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()


def test_a_run_that_is_stopped_at_a_tile_makes_the_same_picture(tmp_path: Path) -> None:
    """Also at the first step of a level, whose start is then the checkpoint."""
    levels, recipe = [Level(32, 32, 2), Level(46, 40, 2)], recipe_for()

    def run(stop_at: int, state: RunState) -> tuple[object, list[RunState]]:
        polls, states = 0, [state]

        def should_stop() -> bool:
            nonlocal polls
            polls += 1
            return polls == stop_at

        files = EvaluationFiles(tmp_path / "key.safetensors", should_stop)
        hooks = {"evaluations": files, "on_checkpoint": lambda index, state: states.append(state.detached())}
        transfer = transfer_for(recipe, levels, indices=[0], **hooks)
        transfer.tiling = Tiling(edge=32)
        (outcome,) = transfer.run([state])
        if outcome.status == "stopped":
            states.append(outcome.state.detached())
        return outcome, states

    expected, _ = run(0, RunState())
    starts = [state for state in run(0, RunState())[1] if state.level == 1]
    assert [(state.step, state.optimizer) for state in starts] == [(0, None)]
    state, stops = RunState(), 0
    outcome, states = run(7, state)
    while outcome.status == "stopped":
        stops += 1
        outcome, states = run(7, states[-1])
    assert stops > 5
    assert torch.equal(outcome.image_BCHW, expected.image_BCHW)
    assert [row.total for row in outcome.rows] == [row.total for row in expected.rows]
