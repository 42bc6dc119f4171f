"""Forward and backward passes of a :class:`evolve.networks.vgg.VGG` written out, for ``groups`` networks of one plan side by side.

The same mathematics as the module under autograd, with less around it: no graph, the gradients added straight into one flat buffer, the
convolution of every layer by the kernel that fits its shape, and the overhead of an operation paid once for all networks of a group.
In training a convolution's bias is left out: BN subtracts it again, so its gradient is exactly zero. The running
means get it back.
tests/networks/test_fused.py holds all to the module and autograd in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from evolve.networks.kernels import IMAGE, PLACE, Kernel, Shape, as_column, as_maps, as_rows, order_of, pick
from evolve.networks.plan import Plan

MOMENTUM, EPS = 0.1, 1e-5  # nn.BatchNorm2d's

max_pool = torch.ops.aten.max_pool2d_with_indices.default
max_unpool = torch.ops.aten.max_pool2d_with_indices_backward.default
relu_gradient = torch.ops.aten.threshold_backward.default
bn_gradient = torch.ops.aten.native_batch_norm_backward.default


@dataclass(frozen=True)
class Weights:
    """The parameters of G networks, layer by layer: ``conv`` [G * c_out, c_in, 3, 3] (channels_last), ``bias``, ``gamma``, ``beta``
    [G * c_out]; ``head`` [G, classes, c], ``head_bias`` [G, classes]. A gradient has the same shapes; its ``bias`` stays zero.
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


@dataclass(frozen=True)
class Statistics:
    """BN's running means and variances, [G * c_out] a layer; updated in place by training passes."""

    mean: Sequence[Tensor]
    var: Sequence[Tensor]


@dataclass
class Unit:
    """What a training pass keeps of one layer: its input, the convolution's output, BN's batch statistics, its output."""

    x: Tensor
    c: Tensor
    mean: Tensor
    invstd: Tensor
    out: Tensor


@dataclass
class Trace:
    """What a training pass keeps: its units, each pool's argument, choices and result, and the head's input [B, G, c]."""

    units: list[Unit] = field(default_factory=list)
    pools: list[tuple[Tensor, Tensor, Tensor] | None] = field(default_factory=list)
    embedded: Tensor | None = None


class Block:
    """The layers between two poolings: their kernels, the order of their rows, and the pool behind them."""

    def __init__(self, channels: tuple[tuple[int, int], ...], batch: int, side: int, groups: int, order: str) -> None:
        self.batch, self.side, self.order = batch, side, order
        self.kernels: list[Kernel] = [pick(Shape(batch, side, c_in, c_out, groups), self.order) for c_in, c_out in channels]
        self.pools = side > 1

    def enter(self, maps: Tensor, order: str) -> Tensor:
        """What the pool before gives, in ``order``, as maps of this block."""
        if order == self.order == IMAGE:
            return maps
        rows = as_rows(maps).view(self.batch * self.side**2, -1)
        return self.arrange(rows if order == self.order else reordered(rows, self.batch, self.order))

    def arrange(self, rows: Tensor) -> Tensor:
        """Rows in this block's order as maps."""
        return as_maps(rows, self.batch, self.side) if self.order == IMAGE else as_column(rows)

    def pool_view(self, maps: Tensor) -> Tensor:
        """Maps as images that a pool takes: in place order as one image whose channels are (image, channel)."""
        if self.order == IMAGE:
            return maps
        return as_maps(as_rows(maps).view(self.side * self.side, -1), 1, self.side)

    def pooled_view(self, g: Tensor) -> Tensor:
        """Rows behind the pool, in this block's order, as the images that the pool gives."""
        if self.order == IMAGE:
            return as_maps(g, self.batch, self.side // 2)
        return as_maps(g.view((self.side // 2) ** 2, -1), 1, self.side // 2)


def reordered(rows: Tensor, batch: int, order: str) -> Tensor:
    """Rows of ``batch`` images in the other order, ``order``."""
    pixels = len(rows) // batch
    split = (batch, pixels, -1) if order == PLACE else (pixels, batch, -1)
    return rows.view(split).transpose(0, 1).reshape(rows.shape)


def orders(plan: Plan, size: int, groups: int) -> list[str]:
    """The order of each block's rows. The first block's are images, as the data are."""
    found = []
    for number, block in enumerate(plan):
        channels = tuple((spec.c_in, spec.c_out) for spec in block)
        found.append(order_of(max(1, size >> number), channels, groups) if number else IMAGE)
    return found


class Fused:
    """Passes over batches of ``batch`` images of ``size`` pixels a network. Holds shapes and tables, no parameters."""

    def __init__(self, plan: Plan, size: int, batch: int, groups: int = 1, places: bool = True) -> None:
        """``places``: blocks may choose place order; without it all maps are images."""
        self.batch, self.groups = batch, groups
        self.blocks: list[Block] = []
        side = size
        for block, order in zip(plan, orders(plan, size, groups), strict=True):
            channels = tuple((spec.c_in, spec.c_out) for spec in block)
            self.blocks.append(Block(channels, batch, side, groups, order if places else IMAGE))
            side = max(1, side // 2)
        self.pixels = side * side  # what the head averages over

    def forward(self, w: Weights, statistics: Statistics | None, x: Tensor) -> tuple[Tensor, Trace]:
        """Training mode: images [B, G * 3, size, size] (channels_last) -> logits [G, B, classes], and the trace for :meth:`backward`."""
        embedded, trace = self.embed(w, statistics, x)
        return self._head(w, embedded), trace

    def embed(self, w: Weights, statistics: Statistics | None, x: Tensor) -> tuple[Tensor, Trace]:
        """:meth:`forward` up to the head's input [B, G, c]."""
        trace = Trace()
        trace.embedded = self.average(as_rows(self._through(w, statistics, x, trace)))
        if statistics is not None:
            torch._foreach_add_(list(statistics.mean), list(w.bias), alpha=MOMENTUM)
        return trace.embedded, trace

    def _through(self, w: Weights, statistics: Statistics | None, maps: Tensor, trace: Trace) -> Tensor:
        """All blocks with their pools; maps in the last block's order."""
        order = IMAGE
        for block in self.blocks:
            maps, order = block.enter(maps, order), block.order
            for kernel in block.kernels:
                maps = self._unit(w, statistics, kernel, maps, trace, last=kernel is block.kernels[-1])
            maps = self._pool(block, maps, trace)
        return maps

    def _unit(self, w: Weights, statistics: Statistics | None, kernel: Kernel, x: Tensor, trace: Trace, last: bool) -> Tensor:
        """Convolution, BN, ReLU; the ReLU of a block's ``last`` unit comes after the pool, where it has a quarter to do: both only grow."""
        number = len(trace.units)
        c = kernel.forward(x, w.conv[number])
        mean, var = (statistics.mean[number], statistics.var[number]) if statistics else (None, None)
        out, batch_mean, invstd = torch.native_batch_norm(c, w.gamma[number], w.beta[number], mean, var, True, MOMENTUM, EPS)
        if not last:
            out.clamp_min_(0)
        trace.units.append(Unit(x, c, batch_mean, invstd, out))
        return out

    def _pool(self, block: Block, x: Tensor, trace: Trace) -> Tensor:
        """The block's pool, if it has one, and the ReLU that its last unit left out."""
        if not block.pools:
            trace.pools.append(None)
            return x.clamp_min_(0)
        maps = block.pool_view(x)
        pooled, choices = max_pool(maps, [2, 2], [2, 2])
        trace.pools.append((maps, choices, pooled.clamp_min_(0)))
        return pooled

    def average(self, rows: Tensor) -> Tensor:
        """The head's input [B, G, c]: the mean over the pixels that are left, of rows in the last block's order."""
        if self.pixels > 1:
            image = self.blocks[-1].order == IMAGE
            rows = rows.view((self.batch, self.pixels, -1) if image else (self.pixels, self.batch, -1)).mean(1 if image else 0)
        return rows.view(self.batch, self.groups, -1)

    def _head(self, w: Weights, embedded: Tensor) -> Tensor:
        return torch.baddbmm(w.head_bias.unsqueeze(1), embedded.transpose(0, 1), w.head.transpose(1, 2))

    def backward(self, w: Weights, trace: Trace, g_logits: Tensor, into: Weights) -> None:
        """Add the parameters' gradients to ``into``, given that of the logits [G, B, classes]."""
        self.embed_backward(w, trace, self._head_gradient(w, trace, g_logits, into), into)

    def embed_backward(self, w: Weights, trace: Trace, g_embedded: Tensor, into: Weights) -> None:
        """:meth:`backward` from the gradient of the head's input [B, G * c] on."""
        g = self.spread(g_embedded)
        affine: tuple[list[Tensor], list[Tensor]] = ([], [])
        number = len(trace.units)
        for place in range(len(self.blocks) - 1, -1, -1):
            block = self.blocks[place]
            g = self._unpool(block, trace.pools[place], g)
            for kernel in reversed(block.kernels):
                number -= 1
                masked = block.pools and kernel is block.kernels[-1]
                g = self._unit_gradient(w, kernel, number, trace.units[number], g, into, affine, masked)
            if place > 0:
                before = self.blocks[place - 1]
                g = as_rows(g) if before.order == block.order else reordered(as_rows(g), self.batch, before.order)
        torch._foreach_add_(*affine)

    def _head_gradient(self, w: Weights, trace: Trace, g: Tensor, into: Weights) -> Tensor:
        """The gradient of the head's input, [B, G * c]."""
        assert trace.embedded is not None
        into.head.baddbmm_(g.transpose(1, 2), trace.embedded.transpose(0, 1))
        into.head_bias.add_(g.sum(1))
        return torch.bmm(g, w.head).transpose(0, 1).reshape(self.batch, -1)

    def spread(self, g: Tensor) -> Tensor:
        """The gradient of :meth:`average`: [B, G * c] -> rows in the last block's order."""
        if self.pixels == 1:
            return g
        image = self.blocks[-1].order == IMAGE
        shape = (self.batch, self.pixels, -1) if image else (self.pixels, self.batch, -1)
        return (g / self.pixels).unsqueeze(1 if image else 0).expand(shape).reshape(self.pixels * self.batch, -1)

    def _unpool(self, block: Block, pool: tuple[Tensor, Tensor, Tensor] | None, g: Tensor) -> Tensor:
        """Rows behind the block's pool and ReLU -> maps before them (without a pool: before the ReLU comes later)."""
        if pool is None:
            return block.arrange(g)
        maps, choices, pooled = pool
        masked = relu_gradient(block.pooled_view(g), pooled, 0)
        found = max_unpool(masked, maps, [2, 2], [2, 2], [0, 0], [1, 1], False, choices)
        return found if block.order == IMAGE else as_column(as_rows(found).view(block.side**2 * self.batch, -1))

    def _unit_gradient(
        self,
        w: Weights,
        kernel: Kernel,
        number: int,
        unit: Unit,
        g: Tensor,
        into: Weights,
        affine: tuple[list[Tensor], list[Tensor]],
        masked: bool,
    ) -> Tensor:
        """Through ReLU (unless ``masked``: the pool's side did it), BN and convolution."""
        g = g if masked else relu_gradient(g, unit.out, 0)
        g, g_gamma, g_beta = bn_gradient(g, unit.c, w.gamma[number], None, None, unit.mean, unit.invstd, True, EPS, [True, True, True])
        affine[0].extend((into.gamma[number], into.beta[number]))
        affine[1].extend((g_gamma, g_beta))
        kernel.weight_gradient(g, unit.x, into.conv[number])
        return kernel.data_gradient(g, w.conv[number]) if number > 0 else g

    def evaluate(self, w: Weights, statistics: Statistics, x: Tensor) -> Tensor:
        """Eval mode: images [B, G * 3, size, size] -> logits [G, B, classes]. BN is folded into the convolutions."""
        return self._head(w, self.average(as_rows(self._inferred(*fold(w, statistics), x))))

    def _inferred(self, conv: Sequence[Tensor], shift: Sequence[Tensor], maps: Tensor) -> Tensor:
        """All blocks with their pools, BN folded in."""
        order, number = IMAGE, 0
        for block in self.blocks:
            maps, order = block.enter(maps, order), block.order
            for kernel in block.kernels:
                maps = kernel.forward(maps, conv[number]).add_(shift[number].view(-1, 1, 1))
                if kernel is not block.kernels[-1]:
                    maps.clamp_min_(0)
                number += 1
            maps = self._pool(block, maps, Trace())
        return maps


def fold(w: Weights, statistics: Statistics) -> tuple[list[Tensor], list[Tensor]]:
    """BN in eval mode as part of the convolution before it: scaled weights, and what to add to each channel."""
    scales = [gamma * (var + EPS).rsqrt_() for gamma, var in zip(w.gamma, statistics.var, strict=True)]
    parts = zip(w.beta, w.bias, statistics.mean, scales, strict=True)
    shift = [torch.addcmul(beta, bias - mean, scale) for beta, bias, mean, scale in parts]
    return [conv * scale.view(-1, 1, 1, 1) for conv, scale in zip(w.conv, scales, strict=True)], shift


@lru_cache(maxsize=32)
def passes(plan: Plan, size: int, batch: int, places: bool = True) -> Fused:
    """One network's passes, made once for each shape."""
    return Fused(plan, size, batch, places=places)


class Embedding(torch.autograd.Function):
    """The passes of one network as a node of autograd's graph, so that whatever looks on (Avalanche's plugins) sees an ordinary module.

    ``apply(fused, statistics, x, *conv, *bias, *gamma, *beta)`` -> the head's input [B, c]. Once differentiable.
    """

    @staticmethod
    def forward(ctx: Any, fused: Fused, statistics: Statistics, x: Tensor, *parameters: Tensor) -> Tensor:
        n = len(parameters) // 4
        conv, bias, gamma, beta = (parameters[i * n : (i + 1) * n] for i in range(4))
        nothing = x.new_zeros(1, 0, 0)
        ctx.fused, ctx.weights = fused, Weights(conv, bias, gamma, beta, nothing, nothing)
        embedded, ctx.trace = fused.embed(ctx.weights, statistics, x)
        return embedded.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        w: Weights = ctx.weights
        into = zeros_like(w)
        ctx.fused.embed_backward(w, ctx.trace, g, into)
        return None, None, None, *into.conv, *into.bias, *into.gamma, *into.beta
