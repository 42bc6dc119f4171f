"""Forward and backward passes of a VGG written out, by kernels compiled for its shapes.

The same mathematics as the module (:class:`evolve.networks.vgg.VGG`) under autograd, with less
around it: no graph, the gradients added straight into one flat buffer, BN, ReLU and pool in one
sweep. In training a convolution's bias is left out: BN subtracts it again, so its gradient is
exactly zero. The running means get it back. tests/networks/test_fused.py holds all to the module
and autograd in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evolve.networks.fast.bound import Bound
from evolve.networks.fast.held import Held
from evolve.networks.fast.shape import Fused, Statistics, Weights, flat_zeros
from evolve.networks.vgg_plan import Plan


class Training:
    """Training passes of one network with its head, for one batch size.

    Args:
        fused, w, statistics, batch, rates: as :class:`Bound`'s.
    """

    def __init__(
        self,
        fused: Fused,
        w: Weights,
        statistics: Statistics | None,
        batch: int,
        rates: Tensor | None = None,
    ) -> None:
        self.w, self.bound = w, Bound(fused, w, statistics, batch, rates)
        self._embedded: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Classify images in training mode.

        Args:
            x: [B, 3, size, size].

        Returns:
            Logits [B, classes].
        """
        self._embedded = self.bound.embed(x)
        return torch.addmm(self.w.head_bias, self._embedded, self.w.head.t())

    def backward(self, g_logits: Tensor, into: Weights) -> None:
        """Add up the parameters' gradients.

        Args:
            g_logits: that of the last logits, [B, classes].
            into: what is added to.
        """
        assert self._embedded is not None
        into.head.addmm_(g_logits.t(), self._embedded)
        into.head_bias.add_(g_logits.sum(0))
        self.bound.embed_backward(torch.mm(g_logits, self.w.head), into)


@lru_cache(maxsize=32)
def passes(plan: Plan, size: int) -> Fused:
    """A network's passes, made once for each shape.

    Args:
        plan: the network's blocks.
        size: pixels of an image's side.
    """
    return Fused(plan, size)


def _held(
    fused: Fused, parameters: Sequence[Tensor], statistics: Statistics, batch: int
) -> Held[Bound]:
    """``parameters``: [4 * layers], as :meth:`Embedding.apply` takes them."""

    def bind() -> Bound:
        n, nothing = len(fused.steps), parameters[0].new_zeros(1, 0)
        conv, bias, gamma, beta = (
            [p.detach() for p in parameters[i * n : (i + 1) * n]] for i in range(4)
        )
        return Bound(fused, Weights(conv, bias, gamma, beta, nothing, nothing), statistics, batch)

    tensors = *parameters, *statistics.mean, *statistics.var
    return Held((id(fused), batch, *(tensor.data_ptr() for tensor in tensors)), bind)


class Embedding(torch.autograd.Function):
    """The passes of one network as a node of autograd's graph.

    So whatever looks on (Avalanche's plugins) sees an ordinary module. ``apply(fused, statistics,
    x, *conv, *bias, *gamma, *beta)`` -> the head's input [B, c]. Once differentiable.
    """

    @staticmethod
    def forward(
        ctx: Any, fused: Fused, statistics: Statistics, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.held = _held(fused, parameters, statistics, len(x))
        return ctx.held.bound.embed(x)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        _, into = flat_zeros(ctx.held.bound.fused.layers, 0, g.dtype)
        ctx.held.bound.embed_backward(g, into)
        return None, None, None, *into.conv, *into.bias, *into.gamma, *into.beta
