"""CUDA graphs: a step recorded once and replayed, so that the GPU never waits for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Recorded:
    """Runs a function once at each call; the function reads and writes the same tensors every time.

    The first calls run it as it is, which lets the libraries choose their kernels; then it is recorded, and
    from there on replayed. It must not ask the device for a number, nor bring any there.
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
            return self._run_aside(function)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):  # records, and runs nothing
                self._result = function()
        self._graph.replay()
        assert self._result is not None  # recorded
        return self._result.clone()

    def _run_aside(self, function: Callable[[], Tensor]) -> Tensor:
        """Run on another stream, as recording later does: what that allocates now is its own."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result
