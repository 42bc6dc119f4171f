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

from typing import Any

import torch

from evolve.networks.fast.compiled import emit, weights
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


def of_pixels(code: Code, pixel: Callable[[int], Value]) -> list[Value]:
    """Six terms of six neighbouring pixels."""
    d = [pixel(n) for n in range(-1, OUT + 1)]
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


def spread(
    code: Code,
    side: int,
    channels: int,
    maps: Value,
    terms: Value,
    of: Callable[[Value, Value | int, bool, bool], list[Value]],
) -> None:
    """Of one image: [channels / block, side, tiles, TERMS, block]."""
    block = gcd(channels, BLOCK)
    lanes, tiles = lanes_of(block, code.dtype), side // OUT
    line = tiles * TERMS * block

    def row(y: Value, v: Value, w: Value | int) -> None:
        pixels = code.at(maps, code.linear((y, side * channels), (v, block), (w, lanes)))
        into = code.at(terms, code.linear((v, side * line), (y, line), (w, lanes)))

        def tile(t: Value | int, first: bool, last: bool) -> None:
            here = code.at(pixels, code.mul(t, OUT * channels))

            def pixel(n: int) -> Value:
                if (first and n < 0) or (last and n >= OUT):
                    return code.const(0.0, lanes)
                return code.load(code.at(here, n * channels), lanes)

            there = code.at(into, code.mul(t, TERMS * block))
            for n, term in enumerate(of(code, pixel)):
                code.store(term, code.at(there, n * block))

        last = tiles - 1
        tile(0, True, last == 0)
        if last > 1:
            code.loop(last, lambda t, _: tile(t, False, False), start=1)
        if last:
            tile(last, False, True)

    def strip(v: Value, y: Value) -> None:
        code.each(block // lanes, lambda w: row(y, v, w))

    code.loop(channels // block, lambda v, _: code.loop(side, lambda y, _: strip(v, y)))


def of_gradient(code: Code, pixel: Callable[[int], Value]) -> list[Value]:
    """Six terms of four neighbouring pixels of the output's gradient."""
    g, b = [pixel(n) for n in range(OUT)], code.b
    lanes = g[0].type.count if hasattr(g[0].type, "count") else 1

    def k(v: float) -> Value:
        return code.const(v, lanes)

    even, odd = b.fadd(g[0], g[2]), b.fadd(g[1], g[3])
    near, far = code.fma(k(4), g[2], g[0]), b.fmul(k(2), code.fma(k(4), g[3], g[1]))
    return [
        g[0],
        b.fadd(even, odd),
        b.fsub(even, odd),
        b.fadd(near, far),
        b.fsub(near, far),
        g[3],
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
            size = self.side**2 * self.c_in

            def spread_one(i: Value, _: object) -> None:
                x = code.at(self.x, code.mul(code.add(start, i), size))
                terms = code.at(self.terms, code.mul(i, self.map))
                spread(code, self.side, self.c_in, x, terms, of_pixels)

            code.loop(count, spread_one)

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


@kernel("ppppi")
def winograd_weight_gradient(
    code: Code, side: int, c_in: int, c_out: int, dtype: torch.dtype
) -> None:
    into, g, x, room, images = code.arguments
    _WeightGradient(code, side, c_in, c_out, into, None, (g, x, images), room).written()


class _WeightGradient(weights._WeightGradient):
    def __init__(self, *given: Any) -> None:
        *given, room = given
        super().__init__(*given)
        code, side = self.code, self.side
        assert not self.by_out
        self.singles = divisor(self.c_out, (emit.processor().registers - 8) // 3)
        self.blocks = self.c_out // self.singles
        self.some = self.of_rule(side, self.c_in, self.c_out)
        self.block_in, self.block_out = gcd(self.c_in, BLOCK), gcd(self.c_out, BLOCK)
        self.singles = divisor(self.block_out, self.singles)
        self.blocks = self.c_out // self.singles
        self.tiles = side // OUT
        self.map_in, self.map_out = (side * self.tiles * TERMS * c for c in (self.c_in, self.c_out))
        self.x_terms, self.g_terms = room, code.at(room, self.some * self.map_in)
        self.products = code.room(TERMS * 3 * self.singles * self.lanes)

    @staticmethod
    def of_rule(side: int, c_in: int, c_out: int) -> int:
        return max(1, CACHED // (side * side // OUT * TERMS * (c_in + c_out)))

    def written(self) -> None:
        code = self.code
        last = code.multiple(code.less(self.images, code.index(1)), self.some)

        def stretch(start: Value, count: Value | int, final: bool) -> None:
            def spread_one(i: Value, _: object) -> None:
                for channels, maps, terms, of in (
                    (self.c_in, self.x, self.x_terms, of_pixels),
                    (self.c_out, self.g, self.g_terms, of_gradient),
                ):
                    size = self.side**2 * channels
                    maps = code.at(maps, code.mul(code.add(start, i), size))
                    terms = code.at(terms, code.mul(i, size // OUT * TERMS))
                    spread(code, self.side, channels, maps, terms, of)

            code.loop(count, spread_one)
            code.loop(
                self.blocks,
                lambda block, _: code.loop(
                    self.vectors, lambda v, _: self._sum(start, count, final, block, v)
                ),
            )

        code.loop(last, lambda start, _: stretch(start, self.some, False), step=self.some)
        stretch(last, code.less(self.images, last), True)

    def _sum(
        self, start: Value, count: Value | int, final: bool, block: Value, vector: Value
    ) -> None:
        code = self.code
        number = 3 * self.singles

        def term(f: Value, _: object) -> None:
            zeros = [code.const(0.0, self.lanes)] * number
            sums = code.loop(
                count, lambda i, held: self._one_image(i, f, block, vector, held), zeros
            )
            for n, value in enumerate(sums):
                code.store(
                    value,
                    code.at(self.products, code.linear((f, number * self.lanes), (n, self.lanes))),
                )

        code.loop(TERMS, term)
        for s in range(self.singles):
            for dy in range(3):
                m = [
                    code.load(
                        code.at(self.products, ((f * self.singles + s) * 3 + dy) * self.lanes),
                        self.lanes,
                    )
                    for f in range(TERMS)
                ]
                single = code.linear((block, self.singles), (1, s))
                for dx, value in enumerate(taps_of(code, m)):
                    at = code.linear(
                        (single, 9 * self.c_in),
                        (3 * dy + dx, self.c_in),
                        (vector, self.lanes),
                    )
                    self._join(value, final, at, self.lanes)

    def _one_image(
        self, image: Value, f: Value, block: Value, vector: Value, sums: list[Value]
    ) -> list[Value]:
        code, side = self.code, self.side

        def at(terms: Value, size: int, wide: int, channel: Value, y: Value | int) -> Value:
            per = TERMS * wide * self.tiles
            v = code.b.sdiv(channel, code.index(wide))
            within = code.b.srem(channel, code.index(wide))
            return code.at(
                terms,
                code.linear((image, size), (v, side * per), (y, per), (f, wide), (1, within)),
            )

        def row(y: Value | int, down: Sequence[int], held: list[Value]) -> list[Value]:
            g = at(self.g_terms, self.map_out, self.block_out, code.mul(block, self.singles), y)
            x = at(self.x_terms, self.map_in, self.block_in, code.mul(vector, self.lanes), y)

            def tile(t: Value, held: list[Value]) -> list[Value]:
                sums = list(held)
                here = code.at(x, code.mul(t, TERMS * self.block_in))
                there = code.at(g, code.mul(t, TERMS * self.block_out))
                rows = {
                    dy: code.load(
                        code.at(here, dy * self.tiles * TERMS * self.block_in), self.lanes
                    )
                    for dy in down
                }
                for s in range(self.singles):
                    one = code.spread(code.load(code.at(there, s), 1), self.lanes)
                    for dy in down:
                        n = 3 * s + dy + 1
                        sums[n] = code.fma(one, rows[dy], sums[n])
                return sums

            return code.loop(self.tiles, tile, held)

        last = side - 1
        sums = row(0, [0, 1], sums)
        sums = code.loop(last, lambda y, held: row(y, [-1, 0, 1], held), sums, start=1)
        return row(last, [-1, 0], sums)


def taps_of(code: Code, m: Sequence[Value]) -> list[Value]:
    b, lanes = code.b, m[0].type.count if hasattr(m[0].type, "count") else 1

    def k(v: float) -> Value:
        return code.const(v, lanes)

    a, c = b.fadd(m[1], m[2]), b.fsub(m[2], m[1])
    e, f = b.fadd(m[3], m[4]), b.fsub(m[3], m[4])
    sixth = b.fmul(k(-1 / 6), a)
    return [
        code.fma(k(1 / 4), m[0], code.fma(k(1 / 24), e, sixth)),
        code.fma(k(1 / 12), f, b.fmul(k(1 / 6), c)),
        b.fadd(code.fma(k(1 / 6), e, sixth), m[5]),
    ]
