"""CUDA graphs: a step is captured once and replayed, so that the GPU never waits for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class CudaGraph:
    """Runs a function that reads and writes the same tensors at every call.

    The first calls run it as it is, so that the libraries can choose their kernels. Then it is captured, and
    from there on replayed. The function must neither read a number from the device nor copy one to it.
    """

    WARM_UP = 3

    def __init__(self) -> None:
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, function: Callable[[], Tensor]) -> Tensor:
        self._calls += 1
        if self._calls <= self.WARM_UP:
            return self._warm_up(function)
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):  # captures, and runs nothing
                self._result = function()
            self._graph = graph  # a capture that failed is tried again
        self._graph.replay()
        assert self._result is not None  # captured
        return self._result.clone()

    def _warm_up(self, function: Callable[[], Tensor]) -> Tensor:
        """Run on the side stream that captures later, so that it owns the memory allocated now."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result
