from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from tiny import random_image, tiny_encoder
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.spec.recipe import Recipe
from pipeline.transfer.checkpoints import RunState
from pipeline.transfer.losses import Moments
from pipeline.transfer.stepper import MicroBatch, Stepper, StepperCache
from pipeline.transfer.targets import StyleTargets, gram_targets, stack_targets

RECIPES = {
    "lbfgs": Recipe(history=4, margin=0),
    "adam": Recipe(margin=0, optimizer="adam", learning_rate=0.01, canvas="imagenet"),
}


def arguments(recipe: Recipe, seeds: tuple[int, ...] = (1, 2), device: str = "cpu") -> tuple:
    """An encoder, the recipe, and a micro-batch of as many pictures as seeds."""
    encoder = tiny_encoder(recipe)
    content_BCHW = torch.cat([random_image(seed=10 + seed) for seed in seeds])
    style = stack_targets(
        [gram_targets(encoder, random_image(seed=20 + seed), list(recipe.style_layers)) for seed in seeds]
    )
    states = [RunState(canvas=random_image(seed=30 + seed)) for seed in seeds]
    batch = MicroBatch(content_BCHW.to(device), style.to(torch.device(device)), states)
    return encoder.to(device), recipe, batch


def masked(arguments: tuple, edge: int = 24) -> tuple:
    """The same pictures, each with its style on the left and the other's on the right."""
    encoder, recipe, batch = arguments
    style = batch.style
    both = stack_targets([style, StyleTargets({n: flipped(m) for n, m in style.layers.items()})])
    order = [0, 2, 1, 3]
    layers = {n: Moments(m.mean[order], m.second[order]) for n, m in both.layers.items()}
    masks = batch.content_BCHW.new_zeros(2, 2, *batch.content_BCHW.shape[2:])
    masks[:, 0, :, :edge], masks[:, 1, :, edge:] = 1, 1
    return encoder, recipe, replace(batch, style=StyleTargets(layers, masks))


def flipped(moments: Moments) -> Moments:
    return Moments(moments.mean.flip(0), moments.second.flip(0))


def take(stepper: Stepper, steps: int) -> torch.Tensor:
    return torch.stack([stepper.step() for _ in range(steps)])


@pytest.mark.parametrize("name", RECIPES)
def test_everything_stays_in_place(name):
    """A CUDA graph reads and writes the same memory at every replay."""
    stepper = Stepper(*arguments(RECIPES[name]), torch.float32)
    before = [tensor.data_ptr() for tensor in tensors_of(stepper)]
    take(stepper, 6)
    assert [tensor.data_ptr() for tensor in tensors_of(stepper)] == before


def test_load_replaces_masks_and_copies_nothing_to_the_device_in_a_step():
    recipe = RECIPES["lbfgs"]
    used = Stepper(*masked(arguments(recipe)), torch.float32)
    take(used, 5)
    encoder, _, second = masked(arguments(recipe, (3, 4)), edge=20)
    expected = take(Stepper(encoder, recipe, second, torch.float32), 5)
    used.load(second)
    with Operators() as seen:
        first = used.step()
    assert not {"aten.lift_fresh", "aten.lift_fresh_copy", "aten._local_scalar_dense"} & seen.names
    assert torch.equal(torch.stack([first, *take(used, 4)]), expected)


def tensors_of(stepper: Stepper) -> list[torch.Tensor]:
    own = [stepper.canvas_BCHW, stepper.best_BCHW, stepper.best_loss_B]
    return [*own, *stepper.optimizer.state_dict().values()]


@pytest.mark.parametrize("name", RECIPES)
def test_a_reused_stepper_steps_like_a_new_one(name):
    encoder, recipe, first = arguments(RECIPES[name])
    _, _, second = arguments(RECIPES[name], (3, 4))
    expected = take(Stepper(encoder, recipe, second, torch.float32), 5)
    used = Stepper(encoder, recipe, first, torch.float32)
    take(used, 5)
    used.load(second)
    assert torch.equal(take(used, 5), expected)


def test_the_best_canvas_of_each_picture_is_kept():
    stepper = Stepper(*arguments(RECIPES["lbfgs"]), torch.float32)
    totals = take(stepper, 12)[:, 0]
    assert torch.equal(stepper.best_loss_B, totals.amin(0))
    bests_BCHW = torch.cat([each["best"] for each in stepper.best()])
    losses, _ = stepper.objective.evaluate(stepper.parametrisation.to_image(bests_BCHW))
    assert torch.allclose(losses.total, stepper.best_loss_B, rtol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_copies_nothing_to_the_device(name):
    """A copy from the host would make a GPU wait, and cannot be captured."""
    stepper = Stepper(*arguments(RECIPES[name]), torch.float32)
    stepper.step()
    with Operators() as seen:
        stepper.step()
    assert "aten.add" in seen.names
    assert not {"aten.lift_fresh", "aten.lift_fresh_copy", "aten._local_scalar_dense"} & seen.names


class Operators(TorchDispatchMode):
    """Records the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function.overloadpacket))
        return function(*args, **(kwargs or {}))


def test_a_stepper_is_freed_with_its_last_reference():
    """It must not wait for the garbage collector, as it holds most of a job's memory."""
    stepper = Stepper(*arguments(RECIPES["lbfgs"]), torch.float32)
    stepper.step()
    gone = weakref.ref(stepper)
    gc.disable()
    try:
        del stepper
        assert gone() is None
    finally:
        gc.enable()


def test_an_optimizer_of_another_history_starts_anew():
    encoder, recipe, batch = arguments(Recipe(history=3, margin=0))
    short = Stepper(encoder, recipe, batch, torch.float32)
    take(short, 4)
    resumed = [replace(state, **held) for state, held in zip(batch.states, short.current(), strict=True)]
    longer = Stepper(encoder, Recipe(history=6, margin=0), replace(batch, states=resumed), torch.float32)
    assert not longer.optimizer.state_dict()["valid"].any()
    take(longer, 3)


def test_steppers_are_kept_on_a_gpu_only():
    steppers, recipe = StepperCache(), RECIPES["adam"]
    one = steppers.fetch(*arguments(recipe), torch.float32)
    assert steppers.fetch(*arguments(recipe), torch.float32) is not one


@pytest.mark.gpu
@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_a_captured_step_is_the_step_and_never_waits(name, with_masks):
    recipe = RECIPES[name]
    shaped = masked if with_masks else tuple
    expected = take(Stepper(*shaped(arguments(recipe)), torch.float32), 12)
    steppers = StepperCache()
    encoder, *rest = shaped(arguments(recipe, device="cuda"))
    stepper = steppers.fetch(encoder, *rest, torch.float32)
    take(stepper, 5)
    assert steppers.fetch(encoder, *rest, torch.float32) is stepper
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = take(stepper, 12)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(losses.cpu()[:6], expected[:6], rtol=1e-2)
