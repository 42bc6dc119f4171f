"""Training passes of a ResNet for one batch size, as lists of calls over maps that stay in place.

As :mod:`evolve.networks.fast.bound` does for VGGs: in a network of an eighth of the width asking
for shapes and memory takes as long as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from evolve.networks.fast.compiled import convolution, units, weights
from evolve.networks.fast.kernels import as_rows
from evolve.networks.fast.written import Workspace
from evolve.networks.resnet_plan import Block, Conv

Call = Callable[[], object]
Tensors = dict[str, Tensor]
max_pool = torch.ops.aten.max_pool2d_with_indices.out
max_unpool = torch.ops.aten.max_pool2d_with_indices_backward.grad_input
mask = torch.ops.aten.threshold_backward.grad_input


@dataclass
class Unit:
    """One layer: its input x, its convolution's output c and its BN's vectors.

    The vectors are mean, invstd, scale and shift, [4, c_out]. A 1x1 convolution reads ``rows``
    [pixels, c_in] of x.
    """

    conv: Conv
    x: Tensor
    c: Tensor
    vectors: Tensor
    rows: Tensor | None = None

    @property
    def square(self) -> bool:
        """Whether compiled kernels know the convolution."""
        return self.conv.kernel == 3 and self.conv.stride == 1


@dataclass
class Bound:
    """What the way back needs of one block.

    Attributes:
        block: the block.
        units: its convolutions'.
        past: its shortcut's.
        x, out: its input, and the last ReLU's output, before the pool.
        pooled, choices: what the pool puts out, and which pixels it takes.
    """

    block: Block
    units: list[Unit]
    past: Unit | None
    x: Tensor
    out: Tensor
    pooled: Tensor | None = None
    choices: Tensor | None = None


class Passes:
    """Forward and backward passes. A pass overwrites what the last one kept.

    Args:
        blocks: the network's.
        size: pixels of an image's side.
        batch: images of a batch.
        shared: whether maps lie where those of other networks do.
        w: its parameters by name; convolutions' weights lie in channels_last memory.
        g: what gradients are added to.
        buffers: BN's statistics, which the forward pass moves.

    Raises:
        ValueError: the weights do not lie in channels_last memory.
    """

    def __init__(
        self,
        blocks: tuple[Block, ...],
        size: int,
        batch: int,
        shared: bool,
        w: Tensors,
        g: Tensors,
        buffers: Tensors,
    ) -> None:
        last = torch.channels_last
        if not all(p.is_contiguous(memory_format=last) for p in w.values() if p.dim() == 4):
            raise ValueError("weights must lie in channels_last memory")
        self.batch, self.w, self.g, self.buffers = batch, w, g, buffers
        self.dtype = next(iter(w.values())).dtype
        self._forward: list[Call] = []
        self._backward: list[Call] = []
        self._space = Workspace(self.dtype, shared)
        self._kept: list[Tensor] = []  # alive as long as their addresses are in use
        self._most = 0  # numbers of the largest map
        convs = [conv for block in blocks for conv in block.all]
        sides = [-(-size // 2**n) for n in range(size.bit_length())]  # a map's is among these
        rooms = (
            convolution.room_for(side, conv.c_in, conv.c_out, self.dtype)
            for conv in convs
            for side in sides
        )
        self._room = self._space.take(max(rooms))
        self.images = x = self._maps(3, size)
        bound = []
        for block in blocks:
            bound.append(self._block(block, x))
            x = bound[-1].out if bound[-1].pooled is None else bound[-1].pooled
        self.out = x
        self._slots = [self._space.take(self._most) for _ in range(3)]
        slot = 0
        self.g_out = self._view(slot, x)
        for part in bound[::-1]:
            slot = self._block_backward(part, slot, wanted=part is not bound[0])

    def forward(self, images: Tensor) -> Tensor:
        """Embed images [batch, 3, size, size] in training mode; the head's input [batch, c]."""
        self.images.copy_(images)
        for call in self._forward:
            call()
        return as_rows(self.out).view(self.batch, -1, self.out.shape[1]).mean(1)

    def backward(self, g: Tensor) -> None:
        """Add the gradients, given that of the last :meth:`forward`'s output."""
        self.g_out.copy_((g / prod(self.out.shape[2:]))[:, :, None, None].expand(self.out.shape))
        for call in self._backward:
            call()

    def _maps(self, channels: int, side: int) -> Tensor:
        maps = self._space.take(self.batch, side, side, channels).permute(0, 3, 1, 2)
        self._most = max(self._most, maps.numel())
        return maps

    def _view(self, slot: int, like: Tensor) -> Tensor:
        """Maps of a shape in one of three places for gradients."""
        batch, channels, side, _ = like.shape
        return (
            self._slots[slot][: like.numel()].view(batch, side, side, channels).permute(0, 3, 1, 2)
        )

    def _named(self, tensors: Tensors, unit: Unit, part: str) -> Tensor:
        return tensors[f"layers.{unit.conv.name}.{part}"]

    def _run(self, calls: list[Call], kernel: Callable[..., None], *given: Tensor | int) -> None:
        """Add a kernel's call to a list."""
        self._kept += [part for part in given if isinstance(part, Tensor)]
        numbers = (part if isinstance(part, int) else part.data_ptr() for part in given)
        calls.append(partial(kernel, *numbers))

    # Forward.

    def _block(self, block: Block, x: Tensor) -> Bound:
        past = self._unit(block.shortcut, x) if block.shortcut else None
        own, out = [], x
        for conv in block.convs:
            unit = self._unit(conv, out)
            own.append(unit)
            out = self._maps(conv.c_out, unit.c.shape[-1])
            affine, rows = (unit.c, *unit.vectors[2:]), out.numel() // conv.c_out
            shape = (conv.c_out, self.dtype)
            if conv is block.convs[-1] and block.residual:
                added = self._past(past, x)
                self._run(self._forward, units.joined(*shape), out, *affine, *added, rows)
            else:
                self._run(self._forward, units.rectified(*shape), out, *affine, rows)
        bound = Bound(block, own, past, x, out)
        if block.pool:
            bound.pooled = self._maps(out.shape[1], -(-out.shape[-1] // 2))
            places = bound.pooled.permute(0, 2, 3, 1).shape
            choices = self._space.take(*places, dtype=torch.int64)
            bound.choices = choices.permute(0, 3, 1, 2)
            given = {"out": bound.pooled, "indices": bound.choices}
            self._forward.append(partial(max_pool, out, *window(block.pool), **given))
        return bound

    def _past(self, past: Unit | None, x: Tensor) -> tuple[Tensor, ...]:
        """What a block adds to its sum: the maps, and what they are scaled and shifted by."""
        if past is not None:
            return past.c, *past.vectors[2:]
        return x, *(torch.full((x.shape[1],), v, dtype=self.dtype) for v in (1.0, 0.0))

    def _unit(self, conv: Conv, x: Tensor) -> Unit:
        """A convolution and its BN's statistics."""
        c = self._maps(conv.c_out, -(-x.shape[-1] // conv.stride))
        unit = Unit(conv, x, c, self._space.take(4, conv.c_out))
        weight, side = self._named(self.w, unit, "conv.weight"), x.shape[-1]
        if unit.square:
            kernel = convolution.convolution(side, conv.c_in, conv.c_out, self.dtype)
            self._run(self._forward, kernel, c, x, weight, self._room, self.batch)
        elif conv.kernel == 1:
            unit.rows = as_rows(self._every(x, conv.stride))
            product = partial(torch.mm, unit.rows, weight[:, :, 0, 0].t(), out=as_rows(c))
            self._forward.append(product)
        else:
            padding = conv.kernel // 2
            self._forward.append(
                lambda: c.copy_(torch.conv2d(x, weight, None, conv.stride, padding))
            )
        affine = (self._named(self.w, unit, f"bn.{part}") for part in ("weight", "bias"))
        moved = (self._named(self.buffers, unit, f"bn.running_{part}") for part in ("mean", "var"))
        bias = torch.zeros(conv.c_out, dtype=self.dtype)
        kernel = units.statistics(conv.c_out, self.dtype)
        rows = c.numel() // conv.c_out
        self._run(self._forward, kernel, c, rows, *affine, bias, *unit.vectors, *moved, 1)
        return unit

    def _every(self, x: Tensor, stride: int) -> Tensor:
        """Every ``stride``-th pixel of maps."""
        if stride == 1:
            return x
        pixels = x[:, :, ::stride, ::stride]
        taken = self._maps(x.shape[1], pixels.shape[-1])
        self._forward.append(partial(taken.copy_, pixels))
        return taken

    # Backward.

    def _block_backward(self, bound: Bound, slot: int, wanted: bool) -> int:
        """From the gradient of a block's output, in a slot, to that of its input.

        Returns:
            The slot of the latter, which is there where it is ``wanted``.
        """
        block, out = bound.block, bound.out
        if bound.choices is not None:
            given, slot = self._view(slot, bound.choices), (slot + 1) % 3
            here = self._view(slot, out)
            self._backward.append(
                partial(max_unpool, given, out, *window(block.pool), bound.choices, grad_input=here)
            )
        g = self._view(slot, out)
        if block.residual:
            self._backward.append(partial(mask, g, out, 0, grad_input=g))
        room, last = (slot + 1) % 3, (slot + 2) % 3
        source = slot
        for unit in bound.units[::-1]:
            plain = block.residual and unit is bound.units[-1]
            g_c = self._unit_backward(unit, source, room, plain)
            if wanted or unit is not bound.units[0]:
                self._data_gradient(unit, g_c, self._view(last, unit.x))
            source = last
        if block.residual:
            self._past_backward(bound, slot, room, last, wanted)
        return last

    def _past_backward(self, bound: Bound, slot: int, room: int, last: int, wanted: bool) -> None:
        """The same past a block's convolutions: added to the gradient of its input."""
        past, g_x = bound.past, self._view(last, bound.x)
        if past is not None:
            g_c = self._unit_backward(past, slot, room, True)
            if wanted:
                weight = self._named(self.w, past, "conv.weight")[:, :, 0, 0]
                pixels = g_x[:, :, :: past.conv.stride, :: past.conv.stride]
                product = self._view(slot, pixels)  # where the gradient is no longer needed
                rows = as_rows(g_c), weight
                self._backward.append(partial(torch.mm, *rows, out=as_rows(product)))
                self._backward.append(partial(pixels.add_, product))
        elif wanted:
            self._backward.append(partial(g_x.add_, self._view(slot, bound.out)))

    def _unit_backward(self, unit: Unit, source: int, target: int, plain: bool) -> Tensor:
        """The gradients of a unit's parameters.

        Args:
            unit: the unit.
            source: the slot of the gradient of its output.
            target: the slot for that of its convolution's output, which is returned.
            plain: no ReLU stands behind its BN.
        """
        c, conv = unit.c, unit.conv
        g, g_c, rows = self._view(source, c), self._view(target, c), c.numel() // conv.c_out
        mean, invstd, scale, shift = unit.vectors
        if plain:  # the kernel finds nothing below zero that is shifted so far
            shift = torch.full_like(shift, float("inf"))
        affine = (self._named(self.g, unit, f"bn.{part}") for part in ("weight", "bias"))
        kernel = units.rectified_gradient(conv.c_out, self.dtype)
        given = (g_c, g, c, scale, shift, mean, invstd, *affine, rows)
        self._run(self._backward, kernel, *given)
        self._weight_gradient(unit, g_c)
        return g_c

    def _weight_gradient(self, unit: Unit, g_c: Tensor) -> None:
        conv, x = unit.conv, unit.x
        into = self._named(self.g, unit, "conv.weight")
        if unit.square:
            kernel = weights.weight_gradient(x.shape[-1], conv.c_in, conv.c_out, self.dtype)
            self._run(self._backward, kernel, into, g_c, x, self._room, self.batch)
        elif unit.rows is not None:
            self._backward.append(partial(into[:, :, 0, 0].addmm_, as_rows(g_c).t(), unit.rows))
        else:
            weight = self._named(self.w, unit, "conv.weight")
            self._backward.append(lambda: into.add_(_library(unit, g_c, weight, 1)))

    def _data_gradient(self, unit: Unit, g_c: Tensor, g_x: Tensor) -> None:
        """The gradient of a convolution's input; a 1x1 is never asked."""
        conv, weight = unit.conv, self._named(self.w, unit, "conv.weight")
        if unit.square:
            kernel = convolution.data_gradient(g_x.shape[-1], conv.c_in, conv.c_out, self.dtype)
            self._run(self._backward, kernel, g_x, g_c, weight, self._room, self.batch)
        else:
            self._backward.append(lambda: g_x.copy_(_library(unit, g_c, weight, 0)))


def _library(unit: Unit, g: Tensor, weight: Tensor, which: int) -> Tensor:
    """A gradient of a convolution that torch computes: the input's (0) or the weight's (1)."""
    wanted = [which == 0, which == 1, False]
    stride, padding = [unit.conv.stride] * 2, [unit.conv.kernel // 2] * 2
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        g, unit.x, weight, None, stride, padding, [1, 1], False, [0, 0], 1, wanted
    )
    return gradients[which]


def window(pool: int) -> tuple[list[int], list[int], list[int], list[int], bool]:
    """What a max pool of ``pool`` pixels is to torch, as in :mod:`evolve.networks.resnet`.

    Args:
        pool: pixels of its window's side; its stride is 2.

    Returns:
        Window, stride, padding, dilation, and whether the result is rounded up.
    """
    return [pool] * 2, [2, 2], [pool // 3] * 2, [1, 1], pool == 2
