"""3x3 convolutions of ``groups`` independent networks side by side, three ways of computing each, and the rule that picks one.

*Maps* are four-dimensional and lie in memory as channels_last does: as *rows*, a matrix [pixels, groups * channels], the pixels of all images
one below the other. In image order (image, y, x) maps are [B, C, S, S], which oneDNN takes as they are. In place order (y, x, image), as
[1, C, S * S * B, 1], all images of one place lie together, so that each of the nine taps of a convolution is one product over just the
places that have this neighbour.

* :class:`OneDnn`: the library's convolutions. Near the peak on maps of 8x8 and above.
* :class:`Product`: every pixel's neighbourhood is gathered into a row (im2col) and all is one matrix product. On maps of 4x4 and below
  oneDNN reaches a third to two thirds of the peak, this nearly all of it.
* :class:`Taps`: nine products, without the zeros of the border: on a 2x2 map 16 of 36 neighbours exist, on a 4x4 map 100 of 144.

tests/networks/test_kernels.py holds all to torch's own convolution and its autograd over shapes, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGE, PLACE = "image", "place"

# Measured with `evolve bench --only kernels` (docs/performance.md): below these the library's convolutions lose.
SMALL_SIDE = 4
WIDE = 1 << 15
"""c_in * c_out from which leaving out the border's zeros pays for nine small products instead of one large one."""


@dataclass(frozen=True)
class Shape:
    """One convolution: ``batch`` images a network, maps of ``side`` x ``side``, channels of one network, networks side by side."""

    batch: int
    side: int
    c_in: int
    c_out: int
    groups: int = 1

    @property
    def rows(self) -> int:
        return self.batch * self.side * self.side


class Kernel(Protocol):
    """A convolution with padding 1 and without bias. Weights [groups * c_out, c_in, 3, 3] lie in channels_last memory."""

    shape: Shape
    order: str

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Maps with groups * c_in channels -> maps with groups * c_out channels."""
        ...

    def data_gradient(self, g: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the output -> gradient of the input."""
        ...

    def weight_gradient(self, g: Tensor, x: Tensor, into: Tensor) -> None:
        """Adds the weight's gradient to ``into``, a tensor like the weight."""
        ...


def as_rows(maps: Tensor) -> Tensor:
    """Maps [n, C, h, w] as rows [n * h * w, C]; no copy where they lie as channels_last does."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def as_maps(rows: Tensor, images: int, side: int) -> Tensor:
    """Rows in image order as [images, C, side, side]; no copy."""
    return rows.view(images, side, side, rows.shape[1]).permute(0, 3, 1, 2)


def as_column(rows: Tensor) -> Tensor:
    """Rows [R, C] as the maps [1, C, R, 1] of place order; no copy."""
    return rows.view(1, len(rows), 1, rows.shape[1]).permute(0, 3, 1, 2)


class OneDnn:
    """torch's own convolution, as one grouped convolution."""

    order = IMAGE

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, 1, 1, 1, self.shape.groups)

    def data_gradient(self, g: Tensor, weight: Tensor) -> Tensor:
        s = self.shape
        like = weight.new_empty(1).expand(s.batch, s.groups * s.c_in, s.side, s.side)  # only its shape matters
        return self._backward(g, like, weight, [True, False, False])[0]

    def weight_gradient(self, g: Tensor, x: Tensor, into: Tensor) -> None:
        into.add_(self._backward(g, x, into, [False, True, False])[1])

    def _backward(self, g: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward.default(
            g, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], self.shape.groups, wanted
        )
        return found


class Product:
    """im2col by one gather, then one matrix product (a batch of them for several networks). Rows in either order, the same for input and output."""

    order = IMAGE

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._gather, self._scatter = _tables(shape.batch, shape.side, shape.groups)
        self._turn = _turned(shape.c_out, shape.groups) if shape.side > 2 and shape.c_in * shape.c_out < WIDE else None
        self._held: tuple[Tensor, int, Tensor] | None = None

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        s = self.shape
        if s.groups == 1:
            return self._maps(torch.mm(self._columns(x)[0], self._matrices(weight)[0].t()))
        out = x.new_empty(s.rows, s.groups * s.c_out)
        torch.bmm(self._columns(x), self._matrices(weight).transpose(1, 2), out=self._by_group(out, s.c_out))
        return self._maps(out)

    def data_gradient(self, g: Tensor, weight: Tensor) -> Tensor:
        if self._turn is not None:
            return self._by_turning(g, weight, self._turn)
        s = self.shape
        spread = g.new_empty(s.groups * s.rows * 9 + 1, s.c_in)
        spread[-1].zero_()  # what pixels beyond the border would have received
        by_tap = spread[:-1].view(s.groups, s.rows, 9 * s.c_in)
        if s.groups == 1:
            torch.mm(as_rows(g), self._matrices(weight)[0], out=by_tap[0])
        else:
            torch.bmm(self._by_group(as_rows(g), s.c_out), self._matrices(weight), out=by_tap)
        return self._maps(spread.index_select(0, self._scatter).view(-1, 9, s.c_in).sum(1).view(s.rows, -1))

    def _by_turning(self, g: Tensor, weight: Tensor, turn: Tensor) -> Tensor:
        """As a convolution of ``g`` with the kernels turned by 180 degrees: a longer product, which runs faster where turning is cheap."""
        s = self.shape
        turned = weight.permute(0, 2, 3, 1).reshape(-1, s.c_in).index_select(0, turn).view(s.groups, 9 * s.c_out, s.c_in)
        if s.groups == 1:
            return self._maps(torch.mm(self._gathered(g, s.c_out)[0], turned[0]))
        out = g.new_empty(s.rows, s.groups * s.c_in)
        torch.bmm(self._gathered(g, s.c_out), turned, out=self._by_group(out, s.c_in))
        return self._maps(out)

    def weight_gradient(self, g: Tensor, x: Tensor, into: Tensor) -> None:
        s = self.shape
        if s.groups == 1:
            self._matrices(into)[0].addmm_(as_rows(g).t(), self._columns(x)[0])
        else:
            self._matrices(into).baddbmm_(self._by_group(as_rows(g), s.c_out).transpose(1, 2), self._columns(x))

    def _columns(self, x: Tensor) -> Tensor:
        """[groups, R, 9 * c_in]; the last one made is kept, as the weight gradient wants what the forward pass had."""
        if self._held is not None and self._held[0] is x and self._held[1] == x._version:
            return self._held[2]
        made = self._gathered(x, self.shape.c_in)
        self._held = (x, x._version, made)
        return made

    def _gathered(self, maps: Tensor, channels: int) -> Tensor:
        """Every pixel's neighbourhood as a row, [groups, R, 9 * channels]."""
        s = self.shape
        padded = maps.new_empty(s.rows * s.groups + 1, channels)
        padded[:-1].copy_(as_rows(maps).view(-1, channels))
        padded[-1].zero_()
        return padded.index_select(0, self._gather).view(s.groups, s.rows, 9 * channels)

    def _by_group(self, rows: Tensor, channels: int) -> Tensor:
        """[R, groups * channels] -> [groups, R, channels]; no copy."""
        return rows.view(self.shape.rows, self.shape.groups, channels).transpose(0, 1)

    def _matrices(self, weight: Tensor) -> Tensor:
        """[groups, c_out, 9 * c_in], taps before channels as channels_last memory holds them; no copy."""
        s = self.shape
        return weight.permute(0, 2, 3, 1).view(s.groups, s.c_out, 9 * s.c_in)

    def _maps(self, rows: Tensor) -> Tensor:
        return as_maps(rows, self.shape.batch, self.shape.side)


@lru_cache(maxsize=256)
def _tables(batch: int, side: int, groups: int) -> tuple[Tensor, Tensor]:
    """For every (group, row, tap) the (row, group) that it reads, and for every (row, group, tap) the (group, row, tap) that reads it.

    Places beyond the border point at the one zero behind the end.
    """
    rows = batch * side * side
    place = torch.arange(rows).view(batch, side, side)
    reads = torch.full((rows, 9), -1)
    for tap in range(9):
        (out_y, in_y), (out_x, in_x) = _overlap(tap // 3, side), _overlap(tap % 3, side)
        reads[place[:, out_y, out_x].flatten(), tap] = place[:, in_y, in_x].flatten()
    group = torch.arange(groups)
    gather = (reads * groups + group.view(groups, 1, 1)).masked_fill(reads < 0, rows * groups)
    # Tap t of row r reads row q exactly if tap 8 - t of row q reads row r.
    back = reads.flip(1)
    slot = back * 9 + torch.arange(9)
    scatter = (slot[:, None, :] + group.view(1, groups, 1) * rows * 9).masked_fill((back < 0)[:, None, :], groups * rows * 9)
    return gather.flatten(), scatter.flatten()


@lru_cache(maxsize=256)
def _turned(c_out: int, groups: int) -> Tensor:
    """Rows of a weight's memory [groups * c_out * 9, c_in] by group, tap from the last to the first, and output channel."""
    group, tap, channel = torch.arange(groups).view(-1, 1, 1), torch.arange(8, -1, -1).view(-1, 1), torch.arange(c_out)
    return ((group * c_out + channel) * 9 + tap).flatten()


def _overlap(tap: int, side: int) -> tuple[slice, slice]:
    """Along one axis: the outputs that have an input at this tap (0, 1, 2 for -1, 0, +1), and those inputs."""
    shift = tap - 1
    return slice(max(0, -shift), side - max(0, shift)), slice(max(0, shift), side - max(0, -shift))


class Mixed:
    """The library's convolution and data gradient with the product's weight gradient: for narrow layers on 4x4 maps."""

    order = IMAGE

    def __init__(self, shape: Shape) -> None:
        self.shape, self._library, self._product = shape, OneDnn(shape), Product(shape)
        self.forward, self.data_gradient = self._library.forward, self._library.data_gradient
        self.weight_gradient = self._product.weight_gradient


class Taps:
    """Nine products over the places that have the neighbour. One network only; maps in place order."""

    order = PLACE

    def __init__(self, shape: Shape) -> None:
        if shape.groups != 1:
            raise ValueError("taps serve one network at a time")
        self.shape = shape
        spans = [_overlap(tap, shape.side) for tap in range(3)]
        self._taps = [(y, x, *spans[y], *spans[x]) for y in range(3) for x in range(3)]

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        out = torch.mm(as_rows(x), weight[:, :, 1, 1].t())
        into, maps = self._by_place(out), self._by_place(as_rows(x))
        for y, x_, out_y, in_y, out_x, in_x in self._taps:
            if not y == x_ == 1:
                self._add(maps[in_y, in_x], weight[:, :, y, x_].t(), into[out_y, out_x])
        return as_column(out)

    def data_gradient(self, g: Tensor, weight: Tensor) -> Tensor:
        out = torch.mm(as_rows(g), weight[:, :, 1, 1])
        into, maps = self._by_place(out), self._by_place(as_rows(g))
        for y, x_, out_y, in_y, out_x, in_x in self._taps:
            if not y == x_ == 1:
                self._add(maps[out_y, out_x], weight[:, :, y, x_], into[in_y, in_x])
        return as_column(out)

    @staticmethod
    def _add(maps: Tensor, matrix: Tensor, into: Tensor) -> None:
        into += (maps.reshape(-1, maps.shape[-1]) @ matrix).view(into.shape)

    def weight_gradient(self, g: Tensor, x: Tensor, into: Tensor) -> None:
        s, gs, xs = self.shape, self._by_place(as_rows(g)), self._by_place(as_rows(x))
        for y, x_, out_y, in_y, out_x, in_x in self._taps:
            into[:, :, y, x_].addmm_(gs[out_y, out_x].reshape(-1, s.c_out).t(), xs[in_y, in_x].reshape(-1, s.c_in))

    def _by_place(self, rows: Tensor) -> Tensor:
        """[side, side, B, C]; no copy."""
        return rows.view(self.shape.side, self.shape.side, self.shape.batch, rows.shape[1])


def pick(shape: Shape, order: str = IMAGE) -> Kernel:
    """The kernel of one convolution: by its shape alone, never by a clock, so that a lineage repeats to the bit."""
    if order == PLACE:
        return Taps(shape)
    if shape.side > SMALL_SIDE:
        return OneDnn(shape)
    return Mixed(shape) if shape.side > 2 and shape.c_in * shape.c_out < WIDE else Product(shape)


def order_of(side: int, channels: tuple[tuple[int, int], ...], groups: int) -> str:
    """The order of a block's rows: place order where all its convolutions (c_in, c_out) are wide, on a small map, and of one network."""
    wide = all(c_in * c_out >= WIDE for c_in, c_out in channels)
    return PLACE if groups == 1 and 1 < side <= SMALL_SIDE and wide else IMAGE
