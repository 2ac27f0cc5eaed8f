from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pipeline.transfer import convolutions
from pipeline.transfer.convolutions import FrozenConvolution
from pipeline.vgg.encoder import Padding


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("size", [(2, 2), (2, 5), (7, 3), (1, 4)])
@pytest.mark.parametrize("bound", [0, 10**9], ids=["separate border", "padded copy"])
def test_a_convolution_and_its_backward(
    padding: Padding, size: tuple[int, int], bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if padding == "reflect" and 1 in size:
        pytest.skip("there is nothing to reflect")
    monkeypatch.setattr(convolutions, "SEPARATE_BORDER", bound)
    monkeypatch.setattr(convolutions, "SEPARATE_BORDER_BACKWARD", bound)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, gradient = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 3, *size), (5, 3, 3, 3), (5,), (2, 5, *size))
    )
    x.requires_grad_()
    mode = "constant" if padding == "zeros" else padding
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode), weight, bias)
    (by_x,) = torch.autograd.grad(expected, x, gradient)
    convolution = FrozenConvolution(weight, bias, padding, torch.float64)
    x, gradient = (t.detach().contiguous(memory_format=torch.channels_last) for t in (x, gradient))
    assert torch.allclose(convolution.forward(x), expected)
    assert torch.allclose(convolution.backward(gradient), by_x)
