from __future__ import annotations

import pytest
import torch
from tiny import random_image, tiny_weights

from pipeline.transfer.segments import Segment, segments
from pipeline.vgg.encoder import CONVOLUTIONS, Encoder

UP_TO_RELU5_1 = CONVOLUTIONS[: CONVOLUTIONS.index("conv5_1") + 1]


def test_a_network_is_cut_before_its_deep_blocks() -> None:
    found = segments(UP_TO_RELU5_1)
    assert [each.convolutions[0] for each in found] == ["conv1_1", "conv3_1", "conv4_1", "conv5_1"]
    assert [each.following for each in found] == ["conv3_1", "conv4_1", "conv5_1", ""]
    assert tuple(name for each in found for name in each.convolutions) == UP_TO_RELU5_1
    assert segments(CONVOLUTIONS[:3]) == (Segment(CONVOLUTIONS[:3]),)


def test_borders_in_pixels() -> None:
    """A whole VGG-19 up to conv5_1 would need 160; in segments it is half as much, and less work."""
    uncut = Segment(UP_TO_RELU5_1)
    assert (uncut.reach, uncut.forward_border, uncut.gradient_border) == (70, 80, 160)
    borders = [each.gradient_border << each.depth for each in segments(UP_TO_RELU5_1)]
    assert borders == [16, 40, 80, 32]


@pytest.mark.parametrize(
    "segment",
    [
        Segment(("conv1_1",)),
        Segment(("conv1_1", "conv1_2"), "conv2_1"),
        Segment(("conv1_1", "conv1_2", "conv2_1")),
        Segment(CONVOLUTIONS[:4], "conv3_1"),
        Segment(CONVOLUTIONS[:5]),
    ],
    ids=str,
)
def test_a_value_depends_on_what_its_segment_reaches_and_no_more(segment: Segment) -> None:
    encoder = Encoder(tiny_weights(), [segment.convolutions[-1]], "average", "zeros").double()
    x = encoder.normalised(random_image(96, 96).double()).requires_grad_()
    _, output = encoder.run(x, segment.convolutions, segment.following)
    place = 40 // segment.stride
    (gradient,) = torch.autograd.grad(output[:, :, place, place].sum(), x)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()[:, 0]
    first, last = place * segment.stride, (place + 1) * segment.stride - 1
    # A silent ReLU may hide the outermost position, but nothing lies beyond it.
    assert first - segment.reach <= int(rows.min()) <= first
    assert last <= int(rows.max()) <= last + segment.reach
    assert segment.reach <= segment.forward_border < segment.gradient_border
    assert segment.forward_border % segment.stride == segment.gradient_border % segment.stride == 0
