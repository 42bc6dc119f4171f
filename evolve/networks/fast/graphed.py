"""The ancestor's trunk as CUDA graphs, one forward and one backward, in a loop that is not ours.

The ancestor learns under Avalanche: plugins add to the loss, copy the model and read gradients. So
only what takes the time is captured, the trunk from images to embedding; to autograd it is one
node, and head, loss, penalties and update stay as they are.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evolve.core.errors import first_line, lacks_memory
from evolve.networks.fast.graph_capture import current_stream_kept, kept
from evolve.networks.network import Network

Embed = Callable[..., Tensor]  # (images [B, 3, H, W], *parameters) -> [B, c]
Capture = Callable[[Embed, Tensor, Sequence[Tensor]], Embed]
OFTEN = 8  # batches of one size before it is captured
SIZES = 2  # sizes captured at most: the full batch and the tail
TOLERANCE = 1e-3  # relative, of embeddings and of all gradients together


def captured(embed: Embed, images: Tensor, parameters: Sequence[Tensor]) -> Embed:
    """Capture an embedding as a graph.

    Parameters are arguments: the graph reads their memory, and to autograd they are whatever is
    passed. New leaves stand for them in the capture, since a parameter's own autograd node may be
    alive in the last step's output and remembers another stream, which no capture may touch.

    Args:
        embed: (images, *parameters) -> [B, c].
        images: a batch like those that will come, [B, 3, H, W].
        parameters: in order.
    """
    leaves = [parameter.detach().requires_grad_() for parameter in parameters]
    with warnings.catch_warnings():
        # It warms up on one stream and captures on another; what comes of it is compared below.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
        graph = torch.cuda.make_graphed_callables(
            cast(Any, embed), (images.detach().clone(), *leaves)
        )
    return cast(Embed, graph)


class Graphed:
    """A model as the training loop may call it: on a GPU it trains by graphs.

    It computes what the model computes. The model stays as it is: no hooks, no new attributes,
    nothing in its state dict. On a CPU, in eval mode, without gradients, for batch sizes that are
    rare, while gradients of the last step are not None, and after a capture that failed or came out
    wrong (one warning), its own forward runs. Where the GPU's memory is full it raises. A graph's
    outputs and gradients lie in memory that its next run overwrites: one backward a forward, and
    ``zero_grad(set_to_none=True)`` between steps.

    Args:
        model: has a :class:`Network` as ``trunk`` or is one.
        capture: makes a graph.
        often: batches of one size before it is captured.
    """

    def __init__(self, model: nn.Module, capture: Capture = captured, often: int = OFTEN) -> None:
        self.model, self.often, self._capture = model, often, capture
        self.trunk = cast(Network, getattr(model, "trunk", model))
        self.enabled = capture is not captured or next(model.parameters()).is_cuda
        self._body = _Body(self.trunk)
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._graphs: dict[tuple[Any, ...], Embed] = {}

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        """The model's output.

        Args:
            x: images [B, 3, H, W].
            extra: whatever else the model takes.
        """
        graph = self._graph(x) if self.enabled else None
        if graph is None:
            return self.model(x, *extra)
        parameters = self._body.parameters_in_order()
        with _instead(self.trunk, lambda images: graph(images, *parameters)):
            return self.model(x, *extra)

    def _graph(self, x: Tensor) -> Embed | None:
        """What embeds a batch like ``x`` faster, where it may run now."""
        parameters = self._body.parameters_in_order()
        ready = self.model.training and torch.is_grad_enabled() and not x.requires_grad
        if not ready or any(p.grad is not None or not p.requires_grad for p in parameters):
            return None
        shape = tuple(x.shape)
        # Statistics that moved to other memory would go on being updated where they were.
        # Parameters are compared by the graph itself.
        key = (shape, x.stride(), x.dtype, *(buffer.data_ptr() for buffer in self.trunk.buffers()))
        if key not in self._graphs:
            self._seen[shape] += 1
            if self._seen[shape] < self.often or len(self._graphs) >= SIZES:
                return None
            self._add(key, x, parameters)
        return self._graphs.get(key)

    def _add(self, key: tuple[Any, ...], x: Tensor, parameters: Sequence[Tensor]) -> None:
        """Capture and compare with the plain trunk.

        The statistics that this disturbs are put back: a real step moves them once.
        """
        try:
            with kept(list(self.trunk.buffers())), current_stream_kept(x.device):
                graph = self._capture(self._body.embed, x, parameters)
                _compare(graph, self._body.embed, x, parameters)
            self._graphs[key] = graph
        except Exception as error:  # a fast path must not cost a result, whatever ails it
            if lacks_memory(error):  # which path is taken must not hang on who else computes there
                raise
            self.enabled = False
            warnings.warn(
                "the ancestor trains without CUDA graphs: "
                f"{type(error).__name__}: {first_line(error)}",
                RuntimeWarning,
                stacklevel=2,
            )


class _Body(nn.Module):
    """The trunk's layers without its head, as a function of their parameters.

    It holds the trunk and shares everything with it.
    """

    def __init__(self, trunk: Network) -> None:
        super().__init__()
        self.trunk = trunk
        self.names = [f"trunk.layers.{name}" for name, _ in trunk.layers.named_parameters()]

    def parameters_in_order(self) -> list[nn.Parameter]:
        return list(self.trunk.layers.parameters())

    def forward(self, images: Tensor) -> Tensor:
        return type(self.trunk).embed(
            self.trunk, images
        )  # not self.trunk.embed, which may be the graph just now

    def embed(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> [B, c], with these parameters in place of the trunk's own."""
        return functional_call(self, dict(zip(self.names, parameters, strict=True)), (images,))


@contextmanager
def _instead(trunk: Network, embed: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, ``trunk.embed`` is ``embed``."""
    trunk.__dict__["embed"] = embed
    try:
        yield
    finally:
        del trunk.__dict__["embed"]


def _compare(graph: Embed, plain: Embed, x: Tensor, parameters: Sequence[Tensor]) -> None:
    """Raise ArithmeticError unless embeddings of ``x`` and their gradients agree.

    The gradients are those of half the embeddings' squared sum.
    """
    ours, theirs = (_run(embed, x, parameters) for embed in (graph, plain))
    for what, own, reference in zip(("embeddings", "gradients"), ours, theirs, strict=True):
        difference = float((own - reference).norm() / reference.norm().clamp_min(1e-30))
        if not difference <= TOLERANCE and torch.isfinite(reference).all():
            raise ArithmeticError(
                f"{what} differ from the plain ones by {difference:.3g}, relative"
            )


def _run(embed: Embed, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings and all gradients of one pass, each as one vector of copies."""
    leaves = [parameter.detach().requires_grad_() for parameter in parameters]
    embeddings = embed(x, *leaves)
    gradients = torch.autograd.grad(embeddings, leaves, embeddings.detach().clone())
    return embeddings.detach().flatten().clone(), torch.cat(
        [gradient.flatten() for gradient in gradients]
    )
