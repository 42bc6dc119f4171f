"""Recording a function over static tensors as a CUDA graph with one branch a model.

Everything but the capture itself runs on a CPU too, in the same order: tests there reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

Job = Callable[[], None]
# Runs before a capture: cuDNN, cuBLAS and the allocator set up what may not be set up within one.
WARM_UP = 3


class Counted(Protocol):
    """A step over static tensors.

    ``counter`` (int64 [1], on the device) says which slot it takes; each call moves it on by one.
    """

    counter: Tensor

    def __call__(self) -> None: ...


class Recorder:
    """Turns a step into what repeats it.

    All graphs of one Recorder share a memory pool, so they must be replayed on one stream, never at
    once; what they hand on has to lie in tensors made outside.

    Args:
        device: where the steps run. On a CPU a "capture" is a rehearsal: it warms up and puts
            everything back, and then repeats by calling.
        capture: False gives the step itself back.
    """

    def __init__(self, device: torch.device, capture: bool) -> None:
        self.device, self.capture = device, capture
        self.pool = torch.cuda.graph_pool_handle() if capture and device.type == "cuda" else None

    @staticmethod
    def side_by_side(jobs: Sequence[Job], device: torch.device) -> None:
        """Run jobs, on a GPU each on its own stream; under capture these are the graph's branches.

        A tensor made before that a job reads must be held until this returns: only then may the
        allocator have it back.

        Args:
            jobs: what to run.
            device: where they run.
        """
        if device.type != "cuda" or len(jobs) == 1:
            for job in jobs:
                job()
            return
        here = torch.cuda.current_stream(device)
        branches = _streams(device, len(jobs) + 1)[1:]
        for job, stream in zip(jobs, branches, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                job()
        for stream in branches:
            here.wait_stream(stream)

    def record(self, step: Counted, state: Sequence[Tensor]) -> Job:
        """Record a step.

        Args:
            step: the step.
            state: every tensor that it changes and that outlasts it; it is left as it was.

        Returns:
            What repeats the step.
        """
        if not self.capture:
            return step
        with kept(state), current_stream_kept(self.device):
            self._warm_up(step)
            return step if self.pool is None else self._captured(step)

    def _warm_up(self, step: Counted) -> None:
        def run() -> None:
            for _ in range(WARM_UP):
                step.counter.zero_()
                step()

        if self.device.type == "cuda":
            _between(_streams(self.device, 1)[0], run, self.device)
        else:
            run()

    def _captured(self, step: Counted) -> Job:
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=_streams(self.device, 1)[0]):
            step()
        return graph.replay


def _between(stream: torch.cuda.Stream, job: Job, device: torch.device) -> None:
    """Run the job on ``stream``, between what the current stream did before and does after."""
    here = torch.cuda.current_stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        job()
    here.wait_stream(stream)


@cache
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    """The first ``count`` of this process's streams: the first records, the others are branches.

    Always the same ones, because cuBLAS keeps a workspace for each stream that it has seen, and it
    must have seen it before a capture.
    """
    return [_stream(device, number) for number in range(count)]


@contextmanager
def kept(state: Sequence[Tensor]) -> Iterator[None]:
    """A context after which tensors hold what they held before, in the same memory.

    Args:
        state: the tensors.
    """
    saved = [tensor.detach().clone() for tensor in state]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(state, saved, strict=True):
                tensor.copy_(before)


@contextmanager
def current_stream_kept(device: torch.device) -> Iterator[None]:
    """A context after which the current stream is the one of before.

    torch.cuda.graph leaves its own stream current when the end of a capture raises.

    Args:
        device: on a CPU this does nothing.
    """
    if device.type != "cuda":
        yield
        return
    here = torch.cuda.current_stream(device)
    try:
        yield
    finally:
        torch.cuda.set_stream(here)
