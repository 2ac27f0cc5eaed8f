"""CUDA graphs without a GPU: what torch does is recorded."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from pipeline.transfer.graphs import CudaGraph


class FakeCUDA:
    """Stands for torch.cuda: a capture runs the function, and a graph that was captured can be replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captured: set[Any] = set()
        self.replayed = 0
        cuda = self

        class Stream:
            def wait_stream(self, other: object) -> None: ...

        class Graph:
            def replay(self) -> None:
                assert self in cuda.captured
                cuda.replayed += 1

        class Capture:
            def __init__(self, graph: Graph, stream: object) -> None:
                self.graph = graph

            def __enter__(self) -> None: ...

            def __exit__(self, kind: object, error: object, traceback: object) -> None:
                if error is None:
                    cuda.captured.add(self.graph)

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)


def test_a_function_is_captured_after_it_warmed_up_and_replayed_from_there_on(monkeypatch) -> None:
    cuda, graph, calls = FakeCUDA(monkeypatch), CudaGraph(), []

    def function() -> torch.Tensor:
        calls.append(1)
        return torch.ones(1)

    results = [graph(function) for _ in range(CudaGraph.WARM_UP + 3)]
    assert all(torch.equal(result, torch.ones(1)) for result in results)
    assert (len(calls), cuda.replayed) == (CudaGraph.WARM_UP + 1, 3)


def test_a_capture_that_failed_is_tried_again(monkeypatch) -> None:
    cuda, graph = FakeCUDA(monkeypatch), CudaGraph()
    for _ in range(CudaGraph.WARM_UP):
        graph(lambda: torch.ones(1))

    def failing() -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        graph(failing)
    assert torch.equal(graph(lambda: torch.ones(1)), torch.ones(1))
    assert cuda.replayed == 1
