"""3x3 convolutions with half the multiplications, as machine code made for one shape.

Four neighbouring outputs of a row come of six products in place of twelve: Winograd's F(4, 3) along
the rows (Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016; points 0,
1, -1, 2, -2 and infinity). Rows themselves are added up directly, so that rounding stays near the
direct kernel's, and sums stay in registers as there. Maps and weights are as in
:mod:`evolve.networks.fast.compiled.convolution`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import gcd

import torch

from evolve.networks.fast.compiled import emit
from evolve.networks.fast.compiled.convolution import Cut
from evolve.networks.fast.compiled.emit import Code, Value, lanes_of
from evolve.networks.fast.compiled.kernel import kernel

OUT, TERMS, HALF = 4, 6, 3  # outputs of a tile, products they come of
import os

BLOCK = 16
COLS = int(os.environ.get('COLS', '2'))
CACHED = 1 << 17


def divisor(number: int, most: int) -> int:
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)


def images_at_once(side: int, channels: int) -> int:
    return max(1, CACHED // (side * side // OUT * TERMS * channels))


@kernel("ppppi")
def winograd(code: Code, side: int, c_in: int, c_out: int, dtype: torch.dtype) -> None:
    _Winograd(code, side, c_in, c_out, turned=False).written()


@kernel("ppppi")
def winograd_data_gradient(code: Code, side: int, c_in: int, c_out: int, dtype: torch.dtype) -> None:
    _Winograd(code, side, c_out, c_in, turned=True).written()


def room_for(side: int, c_in: int, c_out: int, dtype: torch.dtype) -> int:
    def one(a: int, b: int) -> int:
        return 3 * TERMS * a * lanes_of(b, dtype) + images_at_once(
            side, a
        ) * side * side // OUT * TERMS * a

    return max(one(c_in, c_out), one(c_out, c_in))


def of_pixels(code: Code, d: Sequence[Value]) -> list[Value]:
    """Six terms of six neighbouring pixels."""
    b, lanes = code.b, d[0].type.count if hasattr(d[0].type, "count") else 1

    def k(v: float) -> Value:
        return code.const(v, lanes)

    even, odd = code.fma(k(-4), d[2], d[4]), code.fma(k(-4), d[1], d[3])
    near, far = b.fsub(d[4], d[2]), b.fsub(d[3], d[1])
    return [
        code.fma(k(4), d[0], code.fma(k(-5), d[2], d[4])),
        b.fadd(even, odd),
        b.fsub(even, odd),
        code.fma(k(2), far, near),
        code.fma(k(-2), far, near),
        code.fma(k(4), d[1], code.fma(k(-5), d[3], d[5])),
    ]


def of_taps(code: Code, g: Sequence[Value]) -> list[Value]:
    b, lanes = code.b, g[0].type.count if hasattr(g[0].type, "count") else 1

    def k(v: float) -> Value:
        return code.const(v, lanes)

    outer = b.fmul(k(-1 / 6), b.fadd(g[0], g[2]))
    wide = b.fmul(k(1 / 24), code.fma(k(4), g[2], g[0]))
    return [
        b.fmul(k(1 / 4), g[0]),
        code.fma(k(-1 / 6), g[1], outer),
        code.fma(k(1 / 6), g[1], outer),
        code.fma(k(1 / 12), g[1], wide),
        code.fma(k(-1 / 12), g[1], wide),
        g[2],
    ]


class _Winograd:
    def __init__(self, code: Code, side: int, c_in: int, c_out: int, turned: bool) -> None:
        self.code, self.side, self.c_in, self.c_out, self.turned = code, side, c_in, c_out, turned
        self.out, self.x, self.weight, self.taps, self.images = code.arguments
        self.lanes, self.lanes_in = lanes_of(c_out, code.dtype), lanes_of(c_in, code.dtype)
        self.tiles = side // OUT
        self.terms = code.at(self.taps, 3 * TERMS * c_in * self.lanes)
        self.block = gcd(c_in, BLOCK)
        self.line = self.tiles * TERMS * self.block  # numbers of a row of terms
        self.map = side * self.line * (c_in // self.block)
        most = emit.processor().registers // 4
        self.columns = divisor(self.tiles, COLS)
        self.rows = min(side, most // self.columns)
        self.together = most // (side * self.tiles) if self.rows == side else 1
        self.some = images_at_once(side, c_in)

    def written(self) -> None:
        code = self.code

        def stretch(start: Value, _: object) -> None:
            left = code.less(self.images, start)
            count = code.b.select(
                code.b.icmp_signed("<", left, code.index(self.some)), left, code.index(self.some)
            )
            code.loop(count, lambda i, _: self._spread(code.add(start, i), i))

            def block(number: Value, _: object) -> None:
                self._turn(number) if self.turned else self._lay_out(number)
                n = self.together
                whole = code.multiple(count, n)
                code.loop(whole, lambda i, _: self._image(number, code.add(start, i), i, n), step=n)
                if n > 1:
                    code.loop(
                        count,
                        lambda i, _: self._image(number, code.add(start, i), i, 1),
                        start=whole,
                    )

            code.loop(self.c_out // self.lanes, block)

        code.loop(self.images, stretch, step=self.some)

    # the terms of x

    def _spread(self, image: Value, place: Value) -> None:
        code, lanes = self.code, self.lanes_in
        x = code.at(self.x, code.mul(image, self.side**2 * self.c_in))
        to = code.at(self.terms, code.mul(place, self.map))
        inner = min(lanes, self.block)
        per = self.block // inner

        def row(y: Value, v: Value, w: Value) -> None:
            pixels = code.at(x, code.linear((y, self.side * self.c_in), (v, self.block), (w, inner)))
            into = code.at(
                to, code.linear((v, self.side * self.line), (y, self.line), (w, inner))
            )

            def tile(t: Value | int, before: bool, behind: bool) -> None:
                here = code.at(pixels, code.mul(t, OUT * self.c_in))
                zero = code.const(0.0, inner)
                d = [
                    zero
                    if (n == 0 and not before) or (n == 5 and not behind)
                    else code.load(code.at(here, (n - 1) * self.c_in), inner)
                    for n in range(TERMS)
                ]
                there = code.at(into, code.mul(t, TERMS * self.block))
                for n, term in enumerate(of_pixels(code, d)):
                    code.store(term, code.at(there, n * self.block))

            last = self.tiles - 1
            tile(0, False, last > 0)
            if last > 1:
                code.loop(last, lambda t, _: tile(t, True, True), start=1)
            if last:
                tile(last, True, False)

        code.loop(
            self.c_in // self.block,
            lambda v, _: code.loop(
                self.side,
                lambda y, _: code.each(per, lambda w: row(y, v, w)),
            ),
        )

    # the terms of the weight: [c_in, 3, TERMS, lanes]

    def _turn(self, block: Value) -> None:
        code, lanes = self.code, self.lanes

        def one(c: Value, dy: Value) -> None:
            def tap(dx: int) -> Value:
                t = code.less(8, code.linear((dy, 3), (1, dx)))
                place = code.linear((c, 9 * self.c_out), (t, self.c_out), (block, lanes))
                return code.load(code.at(self.weight, place), lanes)

            self._put(code.index(0) if c is None else c, dy, [tap(dx) for dx in range(3)])

        code.loop(self.c_in, lambda c, _: code.loop(3, lambda dy, _: one(c, dy)))

    def _lay_out(self, block: Value) -> None:
        code, lanes = self.code, self.lanes

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

        inner = min(lanes, self.lanes_in)

        def square(c: Value, dy: Value) -> None:
            taps = []
            for dx in range(3):
                tap = code.linear((dy, 3), (1, dx))
                rows = [code.load(place(lane, c, tap), lanes) for lane in range(lanes)]
                taps.append(code.transposed(rows))
            for n in range(lanes):
                self._put(code.add(c, n), dy, [taps[dx][n] for dx in range(3)])

        assert self.c_in % lanes == 0, inner
        code.loop(
            self.c_in, lambda c, _: code.loop(3, lambda dy, _: square(c, dy)), step=lanes
        )

    def _put(self, c: Value, dy: Value, g: Sequence[Value]) -> None:
        code = self.code
        for n, term in enumerate(of_taps(code, g)):
            number = code.linear((c, 1), (n // HALF, self.c_in))
            place = code.linear((number, 3 * HALF), (dy, HALF), (1, n % HALF))
            code.store(term, code.at(self.taps, code.mul(place, self.lanes)))

    # products

    def _image(self, block: Value, image: Value, place: Value, images: int) -> None:
        def strip(row: Value | int, rows: Cut) -> None:
            self.code.each(
                self.tiles // self.columns,
                lambda t: self._tile(
                    block, image, place, images, (row, rows), self.code.mul(t, self.columns)
                ),
            )

        self._along(self.rows, strip)

    def _along(self, length: int, body: Callable[[Value | int, Cut], None]) -> None:
        last = (self.side - 1) // length * length
        body(0, Cut(min(length, self.side), True, last == 0))
        if last > length:
            self.code.loop(
                last,
                lambda start, _: body(start, Cut(length, False, False)),
                step=length,
                start=length,
            )
        if last:
            body(last, Cut(self.side - last, False, True))

    def _tile(
        self,
        block: Value,
        image: Value,
        place: Value,
        images: int,
        row: tuple[Value | int, Cut],
        column: Value | int,
    ) -> None:
        code, cut = self.code, row[1]
        tiles = [
            (i, r, t)
            for i in range(images)
            for r in range(cut.length)
            for t in range(self.columns)
        ]
        corner = code.at(
            self.terms,
            code.linear((place, self.map), (row[0], self.line), (column, TERMS * self.block)),
        )
        first = code.linear((image, self.side**2), (row[0], self.side), (column, OUT))
        out = code.at(self.out, code.linear((first, self.c_out), (block, self.lanes)))

        def channel(half: int, c: Value, v: Value, held: list[Value]) -> list[Value]:
            here = code.at(corner, code.linear((v, self.side * self.line), (c, 1)))
            number = code.linear((v, self.block), (c, 1), (half, self.c_in))
            weight = code.at(self.taps, code.mul(number, 3 * HALF * self.lanes))
            sums = list(held)
            rows = range(0 if cut.first else -1, cut.length + (0 if cut.last else 1))
            for f in range(HALF):
                taps = [
                    code.load(code.at(weight, (dy * HALF + f) * self.lanes), self.lanes)
                    for dy in range(3)
                ]
                for i, y, t in product(range(images), rows, range(self.columns)):
                    at = i * self.map + y * self.line + (t * TERMS + half * HALF + f) * self.block
                    number = code.spread(code.load(code.at(here, at), 1), self.lanes)
                    for dy in range(3):
                        r = y + 1 - dy
                        if 0 <= r < cut.length:
                            s = tiles.index((i, r, t)) * HALF + f
                            sums[s] = code.fma(number, taps[dy], sums[s])
            return sums

        for half in range(2):
            zeros = [code.const(0.0, self.lanes)] * (HALF * len(tiles))
            sums = code.loop(
                self.c_in // self.block,
                lambda v, held: code.loop(
                    self.block, lambda c, held: channel(half, c, v, held), held
                ),
                zeros,
            )
            for n, (i, r, t) in enumerate(tiles):
                pixels = [
                    code.at(out, ((i * self.side + r) * self.side + t * OUT + k) * self.c_out)
                    for k in range(OUT)
                ]
                m = sums[n * HALF : (n + 1) * HALF]
                for at, value in zip(pixels, self._outputs(half, m, pixels), strict=True):
                    code.store(value, at)

    def _outputs(self, half: int, m: Sequence[Value], at: Sequence[Value]) -> list[Value]:
        code, b = self.code, self.code.b
        if half == 0:
            a, c = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
            return [b.fadd(m[0], a), c, a, c]
        e, f = b.fadd(m[0], m[1]), b.fsub(m[0], m[1])
        y = [code.load(pixel, self.lanes) for pixel in at]

        def k(v: float) -> Value:
            return code.const(v, self.lanes)

        return [
            b.fadd(y[0], e),
            code.fma(k(2), f, y[1]),
            code.fma(k(4), e, y[2]),
            b.fadd(code.fma(k(8), f, y[3]), m[2]),
        ]
