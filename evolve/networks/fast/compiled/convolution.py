"""3x3 convolutions (padding 1, no bias) as machine code made for one shape.

Maps are [N, side, side, channels] in memory, as channels_last holds them. The sums of a tile of
pixels stay in registers while all inputs and taps are gone through; beyond the border nothing is
computed, rather than multiplied with zeros. (A direct convolution in registers: Georganas and
others, "Anatomy of high-performance deep learning convolutions on SIMD architectures", SC 2018.)
Where :func:`evolve.networks.fast.compiled.winograd.fits` says so, a layer is computed with fewer
products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from evolve.networks.fast.compiled import emit, winograd
from evolve.networks.fast.compiled.emit import Code, Value, lanes_of
from evolve.networks.fast.compiled.kernel import kernel
from evolve.networks.fast.compiled.tiling import Cut, along
from evolve.networks.fast.compiled.winograd import WinogradConvolution

TAPS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]


@dataclass(frozen=True)
class Tile:
    """Pixels whose sums are held in registers at once: ``images`` x ``rows`` x ``columns``.

    Several rows or images only where each is whole.
    """

    images: int
    rows: int
    columns: int


def tile_of(side: int, vectors: int) -> Tile:
    """As many pixels as registers hold, one each.

    A row that is too long is cut into nearly equal parts.

    Args:
        side: pixels of a map's side.
        vectors: how many registers there are.
    """
    parts = -(-side // vectors)
    columns = -(-side // parts)
    rows = min(side, vectors // columns) if parts == 1 else 1
    return Tile(vectors // side**2 if rows == columns == side else 1, rows, columns)


@kernel("ppppi")
def convolution(code: Code, side: int, c_in: int, c_out: int, dtype: torch.dtype) -> None:
    """A kernel (out, x, weight, room, N): the convolution.

    out [N, side, side, c_out], x [N, side, side, c_in], weight [c_out, 9, c_in]; ``room`` holds
    :func:`room_for` numbers of the kernel's own.

    Args:
        code: what the kernel is written into.
        side: pixels of a map's side.
        c_in, c_out: channels.
        dtype: of all numbers.
    """
    _of(side, c_in, c_out)(code, side, c_in, c_out, turned=False).written()


@kernel("ppppi")
def data_gradient(code: Code, side: int, c_in: int, c_out: int, dtype: torch.dtype) -> None:
    """A kernel (g_x, g, weight, room, N): from the gradient of :func:`convolution`'s output to x's.

    It is the convolution with the weight turned by 180 degrees.

    Args:
        code, side, c_in, c_out, dtype: as :func:`convolution`'s.
    """
    _of(side, c_in, c_out)(code, side, c_out, c_in, turned=True).written()


def room_for(side: int, c_in: int, c_out: int, dtype: torch.dtype) -> int:
    """How many numbers of room a layer's kernels take, its weight's gradient included.

    Args:
        side: pixels of a map's side.
        c_in, c_out: channels.
        dtype: of all numbers.
    """
    if winograd.fits(side, c_in, c_out):
        return winograd.room_for(side, c_in, c_out, dtype)
    return 9 * max(c_in * lanes_of(c_out, dtype), c_out * lanes_of(c_in, dtype))


def _of(side: int, c_in: int, c_out: int) -> type[_Convolution] | type[WinogradConvolution]:
    return WinogradConvolution if winograd.fits(side, c_in, c_out) else _Convolution


class _Convolution:
    """For each ``lanes`` outputs all pixels are gone through.

    Before that their weights are laid out as they will be read, [c_in, 9, lanes].
    """

    def __init__(self, code: Code, side: int, c_in: int, c_out: int, turned: bool) -> None:
        # Turned, the weight lies as [c_in, 9, c_out] and its taps are read from the last.
        self.code, self.side, self.c_in, self.c_out, self.turned = code, side, c_in, c_out, turned
        self.out, self.x, self.weight, self.room, self.images = code.arguments
        self.lanes = lanes_of(c_out, code.dtype)
        self.tile = tile_of(side, emit.processor().registers // 2)

    def written(self) -> None:
        code, n = self.code, self.tile.images
        whole = code.multiple(self.images, n)

        def block(number: Value, _: Sequence[Value]) -> None:
            self._turn(number) if self.turned else self._lay_out(number)
            code.loop(whole, lambda image, _: self._image(number, image, n), step=n)
            if n > 1:
                code.loop(self.images, lambda image, _: self._image(number, image, 1), start=whole)

        code.loop(self.c_out // self.lanes, block)

    def _turn(self, block: Value) -> None:
        code, lanes = self.code, self.lanes

        def tap(c: Value, t: Value) -> None:
            place = code.linear((c, 9 * self.c_out), (code.less(8, t), self.c_out), (block, lanes))
            self._put(code.load(code.at(self.weight, place), lanes), c, t)

        code.loop(self.c_in, lambda c, _: self._taps(lambda t: tap(c, t)))

    def _lay_out(self, block: Value) -> None:
        code, lanes = self.code, self.lanes
        whole = self.c_in - self.c_in % lanes

        def place(lane: int, c: Value, tap: Value) -> Value:
            return code.at(
                self.weight,
                code.linear(
                    (block, lanes * 9 * self.c_in),
                    (1, lane * 9 * self.c_in),
                    (tap, self.c_in),
                    (c, 1),
                ),
            )

        def square(c: Value, tap: Value) -> None:
            rows = [code.load(place(lane, c, tap), lanes) for lane in range(lanes)]
            for n, column in enumerate(code.transposed(rows)):
                self._put(column, code.add(c, n), tap)

        def single(c: Value, tap: Value) -> None:
            for lane in range(lanes):
                self._put(code.load(place(lane, c, tap), 1), c, tap, lane)

        code.loop(whole, lambda c, _: self._taps(lambda tap: square(c, tap)), step=lanes)
        code.loop(self.c_in, lambda c, _: self._taps(lambda tap: single(c, tap)), start=whole)

    def _taps(self, body: Callable[[Value], None]) -> None:
        self.code.loop(9, lambda tap, _: body(tap))

    def _put(self, value: Value, c: Value, tap: Value, lane: int = 0) -> None:
        code = self.code
        code.store(
            value,
            code.at(self.room, code.linear((c, 9 * self.lanes), (tap, self.lanes), (1, lane))),
        )

    def _image(self, block: Value, image: Value, images: int) -> None:
        """All tiles of an image, or of some small ones."""
        code = self.code

        def strip(row: Value | int, rows: Cut) -> None:
            along(
                code,
                self.side,
                self.tile.columns,
                lambda column, columns: self._tile(
                    block, image, images, (row, rows), (column, columns)
                ),
            )

        along(code, self.side, self.tile.rows, strip)

    def _tile(
        self,
        block: Value,
        image: Value,
        images: int,
        row: tuple[Value | int, Cut],
        column: tuple[Value | int, Cut],
    ) -> None:
        code, side, (rows, columns) = self.code, self.side, (row[1], column[1])
        corner = code.linear((image, side * side), (row[0], side), (column[0], 1))
        x = code.at(self.x, code.mul(corner, self.c_in))
        pixels = [
            (i, r, c)
            for i in range(images)
            for r in range(rows.length)
            for c in range(columns.length)
        ]

        def inside(place: int, cut: Cut) -> bool:
            return not (cut.first and place < 0 or cut.last and place >= cut.length)

        def channel(c_in: Value, held: list[Value]) -> list[Value]:
            here, weight, sums = (
                code.at(x, c_in),
                code.at(self.room, code.mul(c_in, 9 * self.lanes)),
                list(held),
            )
            for tap, (dy, dx) in enumerate(TAPS):
                reached = [
                    (n, i, r + dy, c + dx)
                    for n, (i, r, c) in enumerate(pixels)
                    if inside(r + dy, rows) and inside(c + dx, columns)
                ]
                vector = (
                    code.load(code.at(weight, tap * self.lanes), self.lanes) if reached else None
                )
                for n, i, r, c in reached:
                    number = code.load(code.at(here, ((i * side + r) * side + c) * self.c_in), 1)
                    sums[n] = code.fma(code.spread(number, self.lanes), vector, sums[n])
            return sums

        sums = code.loop(self.c_in, channel, [code.const(0.0, self.lanes)] * len(pixels))
        out = code.at(self.out, code.linear((corner, self.c_out), (block, self.lanes)))
        for (i, r, c), value in zip(pixels, sums, strict=True):
            code.store(value, code.at(out, ((i * side + r) * side + c) * self.c_out))
