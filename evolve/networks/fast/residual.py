"""Forward and backward passes of a ResNet written out.

Convolutions of 3x3 without a stride, BN, ReLU and a block's sum are compiled kernels. A shortcut is
a matrix product over pixels, and the few other convolutions (with a stride, or 7x7) are torch's.
All maps are [B, C, S, S] in channels_last memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evolve.networks.fast.kernels import (
    Convolution,
    Norm,
    as_maps,
    as_rows,
    channels_last,
    joined,
    rectified,
    rectified_gradient,
)
from evolve.networks.fast.written import Written
from evolve.networks.network import Network
from evolve.networks.resnet_plan import Block, Conv, ResNetPlan

max_pool = torch.ops.aten.max_pool2d_with_indices.default
max_unpool = torch.ops.aten.max_pool2d_with_indices_backward.default


class Kernel(Protocol):
    """A convolution without bias between maps; its weight is in channels_last memory."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of x."""
        ...

    def backward(
        self, g: Tensor, x: Tensor, weight: Tensor, into: Tensor, wanted: bool
    ) -> Tensor | None:
        """Add the weight's gradient to ``into``, given that of the output.

        Returns:
            The gradient of x where it is ``wanted``.
        """
        ...


class Square(Convolution):
    """3x3 without a stride, by compiled kernels."""

    def backward(
        self, g: Tensor, x: Tensor, weight: Tensor, into: Tensor, wanted: bool
    ) -> Tensor | None:
        """See :class:`Kernel`."""
        self.weight_gradient(g, x, into)
        return self.data_gradient(g, weight) if wanted else None


@dataclass(frozen=True)
class Pointwise:
    """1x1 of every ``stride``-th pixel, by matrix products."""

    stride: int

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`Kernel`."""
        seen = self._seen(x)
        return as_maps(as_rows(seen) @ weight[:, :, 0, 0].t(), len(x), seen.shape[-1])

    def backward(
        self, g: Tensor, x: Tensor, weight: Tensor, into: Tensor, wanted: bool
    ) -> Tensor | None:
        """See :class:`Kernel`."""
        rows = as_rows(g)
        into[:, :, 0, 0].addmm_(rows.t(), as_rows(self._seen(x)))
        if not wanted:
            return None
        g_seen = as_maps(rows @ weight[:, :, 0, 0], len(g), g.shape[-1])
        if self.stride == 1:
            return g_seen
        g_x = torch.zeros_like(x)
        self._seen(g_x).copy_(g_seen)
        return g_x

    def _seen(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


@dataclass(frozen=True)
class Other:
    """Any other, by torch."""

    side: int
    stride: int

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """See :class:`Kernel`."""
        return channels_last(torch.conv2d(x, weight, None, self.stride, self.side // 2))

    def backward(
        self, g: Tensor, x: Tensor, weight: Tensor, into: Tensor, wanted: bool
    ) -> Tensor | None:
        """See :class:`Kernel`."""
        stride, padding, mask = [self.stride] * 2, [self.side // 2] * 2, [wanted, True, False]
        g_x, g_weight, _ = torch.ops.aten.convolution_backward(
            g, x, weight, None, stride, padding, [1, 1], False, [0, 0], 1, mask
        )
        into += g_weight
        return g_x if wanted else None


def kernel_of(conv: Conv, side: int) -> Kernel:
    """What computes a convolution.

    Args:
        conv: the layer.
        side: pixels of its input's side.
    """
    if conv.kernel == 1:
        return Pointwise(conv.stride)
    if conv.kernel == 3 and conv.stride == 1:
        return Square(side, conv.c_in, conv.c_out)
    return Other(conv.kernel, conv.stride)


@dataclass
class Unit:
    """What a forward pass keeps of one layer: its input, its convolution's output c and its BN."""

    conv: Conv
    kernel: Kernel
    x: Tensor
    c: Tensor
    norm: Norm


@dataclass
class Kept:
    """What a forward pass keeps of one block.

    Attributes:
        block: the block.
        units: its convolutions'.
        past: its shortcut's.
        out: the last ReLU's output, before the pool.
        choices: which pixels the pool took.
    """

    block: Block
    units: list[Unit]
    past: Unit | None
    out: Tensor
    choices: Tensor | None


class WrittenResNet(Written):
    """A :class:`evolve.networks.fast.written.Written` for ResNets."""

    def __init__(
        self, network: Network, size: int, optimizer: str, momentum: float, decay: float
    ) -> None:
        super().__init__(network, size, optimizer, momentum, decay)
        plan = network.architecture
        assert isinstance(plan, ResNetPlan)
        self.blocks = plan.blocks
        self.kept: list[Kept] = []
        vectors = {conv.c_out for conv in plan.convs.values()}
        # A convolution here has no bias; an identity is joined as it is; and no ReLU takes anything
        # from what is above zero by an endless shift.
        dtype = self.gradient.dtype
        self.zeros, self.ones, self.endless = (
            {c: torch.full((c,), value, dtype=dtype) for c in vectors}
            for value in (0.0, 1.0, float("inf"))
        )

    def forward(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Written`."""
        x, self.kept = channels_last(images), []
        for block in self.blocks:
            kept = self._block(block, x, True)
            x = kept.out
            if block.pool:
                x, kept.choices = max_pool(x, *_window(block.pool))
            self.kept.append(kept)
        for name, buffer in self.buffers.items():
            if name.endswith("num_batches_tracked"):
                buffer += 1
        return x.mean((2, 3))

    def judged(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Written`."""
        x = channels_last(images)
        for block in self.blocks:
            x = self._block(block, x, False).out
            if block.pool:
                x, _ = max_pool(x, *_window(block.pool))
        return x.mean((2, 3))

    def _block(self, block: Block, x: Tensor, training: bool) -> Kept:
        past = self._unit(block.shortcut, x, training) if block.shortcut else None
        units, out = [], x
        for conv in block.convs:
            units.append(self._unit(conv, out, training))
            if conv is block.convs[-1] and block.residual:
                out = self._sum(units[-1], past, x)
            else:
                out = rectified(units[-1].c, units[-1].norm, pool=False)
        return Kept(block, units, past, out, None)

    def _sum(self, last: Unit, past: Unit | None, x: Tensor) -> Tensor:
        if past is not None:
            return joined(last.c, last.norm, past.c, past.norm)
        channels = last.conv.c_out
        zeros, ones = self.zeros[channels], self.ones[channels]
        return joined(last.c, last.norm, x, Norm(ones, zeros, zeros, ones))

    def _unit(self, conv: Conv, x: Tensor, training: bool) -> Unit:
        kernel, bn = kernel_of(conv, x.shape[-1]), f"layers.{conv.name}.bn."
        c = kernel.forward(x, self.w[f"layers.{conv.name}.conv.weight"])
        affine = self.w[f"{bn}weight"], self.w[f"{bn}bias"], self.zeros[conv.c_out]
        moved = self.buffers[f"{bn}running_mean"], self.buffers[f"{bn}running_var"]
        norm = Norm.of_batch(c, *affine, moved) if training else Norm.in_eval(*affine, *moved)
        return Unit(conv, kernel, x, c, norm)

    def backward(self, g: Tensor) -> None:
        """See :class:`evolve.networks.fast.written.Written`."""
        last = self.kept[-1]
        side = last.out.shape[-1]
        if last.block.pool:
            side = -(-side // 2)
        rows = (g / side**2).unsqueeze(1).expand(-1, side**2, -1)
        maps = as_maps(rows.reshape(-1, g.shape[1]), len(g), side)
        for kept in self.kept[::-1]:
            maps = self._block_backward(kept, maps, kept is not self.kept[0])

    def _block_backward(self, kept: Kept, g: Tensor, wanted: bool) -> Tensor:
        """From the gradient of a block's output to that of its input, where it is ``wanted``."""
        if kept.choices is not None:
            window = _window(kept.block.pool)
            g = channels_last(max_unpool(g, kept.out, *window, kept.choices))
        if kept.block.residual:
            g = torch.ops.aten.threshold_backward(g, kept.out, 0)
        own, first = g, kept.units[0]
        for unit in kept.units[::-1]:
            own = self._unit_backward(
                unit,
                own,
                rectify=unit is not kept.units[-1] or not kept.block.residual,
                wanted=wanted or unit is not first,
            )
        if kept.block.residual:
            past = kept.past
            other = g if past is None else self._unit_backward(past, g, False, wanted)
            if wanted:
                own += other
        return own

    def _unit_backward(self, unit: Unit, g: Tensor, rectify: bool, wanted: bool) -> Tensor:
        name, norm = f"layers.{unit.conv.name}.", unit.norm
        if not rectify:
            norm = Norm(norm.scale, self.endless[unit.conv.c_out], norm.mean, norm.invstd)
        affine = self.g[f"{name}bn.weight"], self.g[f"{name}bn.bias"]
        g_c = rectified_gradient(g, unit.c, norm, False, *affine)
        weight = f"{name}conv.weight"
        g_x = unit.kernel.backward(g_c, unit.x, self.w[weight], self.g[weight], wanted)
        return g if g_x is None else g_x


def _window(pool: int) -> tuple[list[int], list[int], list[int], list[int], bool]:
    """What a max pool of ``pool`` pixels is to torch: as the module's."""
    return [pool] * 2, [2, 2], [pool // 3] * 2, [1, 1], pool == 2
