"""Written passes as one node of autograd's graph, and a module's tests by them.

So whatever looks on (Avalanche's plugins) sees an ordinary module, as
:mod:`evolve.networks.fast.fused` does it for VGGs. tests/networks/test_node.py holds it to the
module and autograd in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evolve.networks.fast.held import Held
from evolve.networks.fast.written import Tensors, Trunk, laid_out, views
from evolve.networks.network import Network

COUNTER = "num_batches_tracked"  # of BN's, which no pass reads
PIXELS = 2**20  # of a batch; what passes keep of more, from step to step, would be gigabytes


def embedded(kind: type[Trunk], network: Network, images: Tensor) -> Tensor | None:
    """A fused network's embedding by written passes.

    Args:
        kind: the passes of its family.
        network: the network.
        images: [B, 3, S, S].

    Returns:
        The head's input [B, c]; None where the module has to compute it: it is not fused, not on a
        CPU, not its family's, the batch is too large, or what is asked for is a gradient in eval
        mode or the images'.
    """
    written = network.fused and network.architecture.learners
    if not written or images.device.type != "cpu" or images.requires_grad:
        return None
    large = images[:, 0].numel() > PIXELS
    if large if network.training else torch.is_grad_enabled():
        return None
    w: Tensors = {f"layers.{name}": p for name, p in network.layers.named_parameters()}
    buffers = {f"layers.{name}": b for name, b in network.layers.named_buffers()}
    if not network.training:
        return _held(kind, network, w, buffers, images, 0).bound[0].judged(images)
    if counters := [b for name, b in buffers.items() if name.endswith(COUNTER)]:
        torch._foreach_add_(counters, 1)
    held = _held(kind, network, w, buffers, images, len(images))
    embedding: Tensor = _Embedding.apply(held, images, *w.values())  # type: ignore[no-untyped-call]
    return embedding


def _held(
    kind: type[Trunk], network: Network, w: Tensors, buffers: Tensors, images: Tensor, batch: int
) -> Held[tuple[Trunk, Tensor]]:
    """Passes and the flat tensor of their gradients. ``batch`` 0: for tests, which keep nothing,
    and so share memory.
    """
    plan, size = network.architecture, images.shape[-1]

    def bind() -> tuple[Trunk, Tensor]:
        own = {name: p.detach() for name, p in w.items()}
        flat, g = laid_out(own)
        return kind(plan, size, own, g, buffers, shared=not batch), flat

    addresses = (tensor.data_ptr() for tensor in (*w.values(), *buffers.values()))
    return Held((kind, id(plan), size, batch, *addresses), bind)


class _Embedding(torch.autograd.Function):
    """``apply(held, images, *parameters)`` -> the head's input [B, c]. Once differentiable."""

    @staticmethod
    def forward(
        ctx: Any, held: Held[tuple[Trunk, Tensor]], images: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.held = held
        return held.bound[0].forward(images).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        trunk, flat = ctx.held.bound
        flat.zero_()
        trunk.backward(g)
        return None, None, *views(flat.clone(), trunk.w).values()
