"""Forward and backward passes of a :class:`evolve.networks.vgg.VGG` written out, by kernels compiled for its shapes.

The same mathematics as the module under autograd, with less around it: no graph, the gradients added straight into one flat buffer, BN, ReLU
and pool in one sweep. In training a convolution's bias is left out: BN subtracts it again, so its gradient is exactly zero. The running means
get it back. tests/networks/test_fused.py holds all to the module and autograd in float64.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from evolve.networks.bound import Bound
from evolve.networks.kernels import Convolution, Norm, as_maps, as_rows, laid_out, rectified
from evolve.networks.plan import Plan


@dataclass(frozen=True)
class Weights:
    """A network's parameters, layer by layer: ``conv`` [c_out, c_in, 3, 3] (channels_last), ``bias``, ``gamma``, ``beta`` [c_out];
    ``head`` [classes, c], ``head_bias`` [classes]. A gradient has the same shapes; its ``bias`` stays zero.
    """

    conv: Sequence[Tensor]
    bias: Sequence[Tensor]
    gamma: Sequence[Tensor]
    beta: Sequence[Tensor]
    head: Tensor
    head_bias: Tensor


def zeros_like(w: Weights) -> Weights:
    """A gradient to add to."""
    conv, bias, gamma, beta = ([torch.zeros_like(p) for p in part] for part in (w.conv, w.bias, w.gamma, w.beta))
    return Weights(conv, bias, gamma, beta, torch.zeros_like(w.head), torch.zeros_like(w.head_bias))


def flat_zeros(layers: Sequence[tuple[int, int]], classes: int, dtype: torch.dtype) -> tuple[Tensor, Weights]:
    """Zeros for convolutions (c_in, c_out) and a head: all in one tensor, the convolutions' weights first, and views into it."""
    n, outs, last = len(layers), [c_out for _, c_out in layers], layers[-1][1]
    sizes = [9 * c_in * c_out for c_in, c_out in layers]
    values = torch.zeros(sum(sizes) + 3 * sum(outs) + classes * (last + 1), dtype=dtype)
    conv, at = [], 0
    for (c_in, c_out), size in zip(layers, sizes, strict=True):  # a view in one call: this is done at every step of an ancestor
        conv.append(values.as_strided((c_out, c_in, 3, 3), (9 * c_in, 1, 3 * c_in, c_in), at))
        at += size
    *vectors, head, head_bias = values[at:].split_with_sizes([*outs, *outs, *outs, classes * last, classes])
    return values, Weights(conv, vectors[:n], vectors[n : 2 * n], vectors[2 * n :], head.view(classes, last), head_bias)


@dataclass(frozen=True)
class Statistics:
    """BN's running means and variances, [c_out] a layer; updated in place by training passes."""

    mean: Sequence[Tensor]
    var: Sequence[Tensor]


@dataclass(frozen=True)
class Step:
    """One layer of the plan: its convolution, and whether its block's pool follows."""

    convolution: Convolution
    pool: bool


class Fused:
    """Passes over images of ``size`` pixels. Holds shapes, no parameters. A map that is one pixel wide is not pooled further."""

    def __init__(self, plan: Plan, size: int) -> None:
        self.steps: list[Step] = []
        side = size
        for block in plan:
            for spec in block:
                self.steps.append(Step(Convolution(side, spec.c_in, spec.c_out), side > 1 and spec is block[-1]))
            side = max(1, side // 2)
        self.layers = [(step.convolution.c_in, step.convolution.c_out) for step in self.steps]
        self.side = side  # of the maps that the head averages over

    def average(self, maps: Tensor) -> Tensor:
        """The head's input [B, c]: the mean over the pixels that are left."""
        rows = as_rows(maps)
        return rows.view(len(maps), self.side**2, -1).mean(1) if self.side > 1 else rows

    def spread(self, g: Tensor) -> Tensor:
        """The gradient of :meth:`average`: [B, c] -> maps behind the last pool."""
        pixels = self.side**2
        rows = g if pixels == 1 else (g / pixels).unsqueeze(1).expand(-1, pixels, -1).reshape(len(g) * pixels, -1)
        return as_maps(rows.contiguous(), len(g), self.side)

    def judged(self, conv: Sequence[Tensor], norms: Sequence[Sequence[Tensor]], x: Tensor) -> Tensor:
        """Eval mode: images [B, 3, size, size] -> the head's input [B, c]. ``norms``: what :meth:`Norm.in_eval` takes, for every layer."""
        maps = laid_out(x)
        for step, weight, norm in zip(self.steps, conv, norms, strict=True):
            maps = rectified(step.convolution.forward(maps, weight), Norm.in_eval(*norm), step.pool)
        return self.average(maps)

    def features(self, conv: Sequence[Tensor], norms: Sequence[Sequence[Tensor]], x: Tensor) -> list[Tensor]:
        """Eval mode: every layer's maps, each before its block's pool; arguments as :meth:`judged`'s."""
        found: list[Tensor] = []
        maps = laid_out(x)
        for step, weight, norm in zip(self.steps, conv, norms, strict=True):
            found.append(rectified(step.convolution.forward(maps, weight), Norm.in_eval(*norm), False))
            maps = F.max_pool2d(found[-1], 2) if step.pool else found[-1]
        return found

    def evaluate(self, w: Weights, statistics: Statistics, x: Tensor) -> Tensor:
        """Eval mode: images [B, 3, size, size] -> logits [B, classes]."""
        norms = list(zip(w.gamma, w.beta, w.bias, statistics.mean, statistics.var, strict=True))
        return torch.addmm(w.head_bias, self.judged(w.conv, norms, x), w.head.t())


class Training:
    """Training passes of one network with its head, for :class:`Bound`'s tensors and one batch size."""

    def __init__(self, fused: Fused, w: Weights, statistics: Statistics | None, batch: int, rates: Tensor | None = None) -> None:
        self.w, self.bound = w, Bound(fused, w, statistics, batch, rates)
        self._embedded: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, size, size] -> logits [B, classes]."""
        self._embedded = self.bound.embed(x)
        return torch.addmm(self.w.head_bias, self._embedded, self.w.head.t())

    def backward(self, g_logits: Tensor, into: Weights) -> None:
        """Add the parameters' gradients to ``into``, given that of the last logits, [B, classes]."""
        assert self._embedded is not None
        into.head.addmm_(g_logits.t(), self._embedded)
        into.head_bias.add_(g_logits.sum(0))
        self.bound.embed_backward(torch.mm(g_logits, self.w.head), into)


@lru_cache(maxsize=32)
def passes(plan: Plan, size: int) -> Fused:
    """One network's passes, made once for each shape."""
    return Fused(plan, size)


_idle: dict[Hashable, Bound] = {}
"""Passes that no graph holds any more, by what they are bound to; the newest of each of a few."""
IDLE = 4


class _Held:
    """Passes that one graph of autograd has to itself until it is gone. ``parameters``: [4 * layers], as :meth:`Embedding.apply` takes them."""

    def __init__(self, fused: Fused, parameters: Sequence[Tensor], statistics: Statistics, batch: int) -> None:
        # Addresses belong to what is bound to them as long as it is idle here, since a Bound keeps its tensors alive.
        self.key = id(fused), batch, *(tensor.data_ptr() for part in (parameters, statistics.mean, statistics.var) for tensor in part)
        found = _idle.pop(self.key, None)
        if found is None:
            n, nothing = len(fused.steps), parameters[0].new_zeros(1, 0)
            conv, bias, gamma, beta = ([p.detach() for p in parameters[i * n : (i + 1) * n]] for i in range(4))
            found = Bound(fused, Weights(conv, bias, gamma, beta, nothing, nothing), statistics, batch)
        self.bound = found

    def __del__(self) -> None:
        _idle[self.key] = self.bound
        while len(_idle) > IDLE:
            del _idle[next(iter(_idle))]


class Embedding(torch.autograd.Function):
    """The passes of one network as a node of autograd's graph, so that whatever looks on (Avalanche's plugins) sees an ordinary module.

    ``apply(fused, statistics, x, *conv, *bias, *gamma, *beta)`` -> the head's input [B, c]. Once differentiable.
    """

    @staticmethod
    def forward(ctx: Any, fused: Fused, statistics: Statistics, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.held = _Held(fused, parameters, statistics, len(x))
        return ctx.held.bound.embed(x)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        _, into = flat_zeros(ctx.held.bound.fused.layers, 0, g.dtype)
        ctx.held.bound.embed_backward(g, into)
        return None, None, None, *into.conv, *into.bias, *into.gamma, *into.beta
