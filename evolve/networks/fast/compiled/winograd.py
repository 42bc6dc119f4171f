"""3x3 convolutions with half the multiplications, as machine code made for one shape.

Four neighbouring outputs of a row come from six products in place of twelve: Winograd's F(4, 3)
along the rows (Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016;
points 0, 1, -1, 2, -2 and infinity). The three rows of taps are added up directly. So the sums stay
in registers, as in the direct kernel, and rounding stays near that kernel's. Maps and weights are
as in :mod:`evolve.networks.fast.compiled.convolution`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import gcd

import torch

from evolve.networks.fast.compiled import emit
from evolve.networks.fast.compiled.emit import Code, Value, lanes_of
from evolve.networks.fast.compiled.tiling import Cut, along, divisor

OUT, TERMS = 4, 6  # neighbouring outputs, and the products that they come from
HALF = TERMS // 2  # terms whose sums are held at once: more tiles share a weight that is loaded
BLOCK = 16  # channels whose terms lie side by side
CACHED = 1 << 17  # numbers of terms that are made at a time, so that they stay in the second cache


def fits(side: int, c_in: int, c_out: int) -> bool:
    """Whether a layer is computed so: rows are whole tiles, and vectors have work.

    It depends on the shape alone, so results are the same on every processor.

    Args:
        side: pixels of a map's side.
        c_in, c_out: channels.
    """
    return side % OUT == 0 and c_in % 8 == 0 and c_out % 8 == 0


def images_at_once(side: int, channels: int) -> int:
    """Images whose terms are made before they are used.

    Args:
        side: pixels of a map's side.
        channels: all that have terms.
    """
    return max(1, CACHED // terms_of_map(side, channels))


def terms_of_map(side: int, channels: int) -> int:
    """How many terms the maps of one image have.

    Args:
        side: pixels of a map's side.
        channels: of the maps.
    """
    return side * side // OUT * TERMS * channels


def room_for(side: int, c_in: int, c_out: int, dtype: torch.dtype) -> int:
    """Numbers of room that the convolution and its gradients take.

    Args:
        side: pixels of a map's side.
        c_in, c_out: channels.
        dtype: of all numbers.
    """
    pairs = ((c_in, c_out), (c_out, c_in))
    taps = max(3 * TERMS * a * lanes_of(b, dtype) for a, b in pairs)
    return taps + max(CACHED, terms_of_map(side, c_in + c_out))


def times(code: Code, factor: float, a: Value, b: Value | None = None) -> Value:
    """factor * a + b, rounded once; without b, factor * a."""
    vector = code.const(factor, getattr(a.type, "count", 1))
    return code.b.fmul(vector, a) if b is None else code.fma(vector, a, b)


def pixel_terms(code: Code, pixel: Callable[[int], Value]) -> list[Value]:
    """The terms of pixels -1..4 of a row (B transposed times d)."""
    before, d0, d1, d2, d3, behind = (pixel(n) for n in range(-1, OUT + 1))
    even, odd = times(code, -4, d1, d3), times(code, -4, d0, d2)
    near, far = code.b.fsub(d3, d1), code.b.fsub(d2, d0)
    return [
        times(code, 4, before, times(code, -5, d1, d3)),
        code.b.fadd(even, odd),
        code.b.fsub(even, odd),
        times(code, 2, far, near),
        times(code, -2, far, near),
        times(code, 4, d0, times(code, -5, d2, behind)),
    ]


def tap_terms(code: Code, g: Sequence[Value]) -> list[Value]:
    """The terms of a row of three taps (G times g)."""
    outer = times(code, -1 / 6, code.b.fadd(g[0], g[2]))
    wide = times(code, 1 / 24, times(code, 4, g[2], g[0]))
    return [
        times(code, 1 / 4, g[0]),
        times(code, -1 / 6, g[1], outer),
        times(code, 1 / 6, g[1], outer),
        times(code, 1 / 12, g[1], wide),
        times(code, -1 / 12, g[1], wide),
        g[2],
    ]


def spread(
    code: Code,
    side: int,
    channels: int,
    maps: Value,
    terms: Value,
    terms_of: Callable[[Code, Callable[[int], Value]], list[Value]],
) -> None:
    """Write the terms of one image's maps: [channels / block, side, tiles, TERMS, block].

    Args:
        code: what is written into.
        side: pixels of a map's side.
        channels: of the maps.
        maps, terms: addresses of the image.
        terms_of: makes a tile's terms of its pixels.
    """
    block, tiles = gcd(channels, BLOCK), side // OUT
    lanes, line = lanes_of(block, code.dtype), tiles * TERMS * block

    def row(v: Value, y: Value, w: Value | int) -> None:
        x = code.at(maps, code.linear((y, side * channels), (v, block), (w, lanes)))
        into = code.at(terms, code.linear((v, side * line), (y, line), (w, lanes)))

        def tile(t: Value | int, cut: Cut) -> None:
            def pixel(n: int) -> Value:
                if cut.first and n < 0 or cut.last and n >= OUT:
                    return code.const(0.0, lanes)
                return code.load(code.at(x, code.linear((t, OUT * channels), (n, channels))), lanes)

            for n, term in enumerate(terms_of(code, pixel)):
                code.store(term, code.at(into, code.linear((t, TERMS * block), (n, block))))

        along(code, tiles, 1, tile)

    def strip(v: Value, y: Value) -> None:
        code.each(block // lanes, lambda w: row(v, y, w))

    code.loop(channels // block, lambda v, _: code.loop(side, lambda y, _: strip(v, y)))


class WinogradConvolution:
    """Terms of some images' pixels, then for each ``lanes`` outputs their taps' and all tiles.

    The taps' terms lie as [2, c_in, 3, HALF, lanes], those of the pixels behind them.
    """

    def __init__(self, code: Code, side: int, c_in: int, c_out: int, turned: bool) -> None:
        self.code, self.side, self.c_in, self.c_out, self.turned = code, side, c_in, c_out, turned
        self.out, self.x, self.weight, self.taps, self.images = code.arguments
        self.lanes, self.tiles = lanes_of(c_out, code.dtype), side // OUT
        self.block = gcd(c_in, BLOCK)
        self.line, self.map = self.tiles * TERMS * self.block, terms_of_map(side, c_in)
        self.terms = code.at(self.taps, 3 * TERMS * c_in * self.lanes)
        most = emit.processor().registers // 4  # tiles; HALF sums each
        self.columns = divisor(self.tiles, 2 if most > 4 else 1)
        self.rows = min(side, most // self.columns)
        self.together = max(1, most // (self.rows * self.columns)) if self.rows == side else 1

    def written(self) -> None:
        code, some = self.code, images_at_once(self.side, self.c_in)

        def stretch(start: Value, _: Sequence[Value]) -> None:
            left, most = code.less(self.images, start), code.index(some)
            count = code.b.select(code.b.icmp_signed("<", left, most), left, most)
            code.loop(count, lambda i, _: self._spread(code.add(start, i), i))
            code.loop(self.c_out // self.lanes, lambda number, _: self._block(number, start, count))

        code.loop(self.images, stretch, step=some)

    def _spread(self, image: Value, place: Value) -> None:
        code = self.code
        x = code.at(self.x, code.mul(image, self.side**2 * self.c_in))
        terms = code.at(self.terms, code.mul(place, self.map))
        spread(code, self.side, self.c_in, x, terms, pixel_terms)

    def _block(self, block: Value, start: Value, count: Value) -> None:
        code, n = self.code, self.together
        code.loop(3, lambda dy, _: self._turn(block, dy) if self.turned else self._lay(block, dy))
        whole = code.multiple(count, n)
        code.loop(whole, lambda i, _: self._image(block, start, i, n), step=n)
        if n > 1:
            code.loop(count, lambda i, _: self._image(block, start, i, 1), start=whole)

    def _turn(self, block: Value, dy: Value) -> None:
        code, lanes = self.code, self.lanes

        def tap(c: Value, dx: int) -> Value:
            number = code.less(8 - dx, code.mul(dy, 3))
            place = code.linear((c, 9 * self.c_out), (number, self.c_out), (block, lanes))
            return code.load(code.at(self.weight, place), lanes)

        code.loop(self.c_in, lambda c, _: self._put([tap(c, dx) for dx in range(3)], c, dy, 0))

    def _lay(self, block: Value, dy: Value) -> None:
        code = self.code
        square = min(self.lanes, lanes_of(self.c_in, code.dtype))

        def tap(c: Value, dx: int, first: int) -> list[Value]:
            row = 9 * self.c_in
            place = code.linear((block, self.lanes * row), (dy, 3 * self.c_in), (c, 1))
            offsets = [lane * row + dx * self.c_in for lane in range(first, first + square)]
            rows = [code.at(self.weight, code.add(place, offset)) for offset in offsets]
            return code.transposed([code.load(row, square) for row in rows])

        def some(c: Value, _: Sequence[Value]) -> None:
            for first in range(0, self.lanes, square):
                taps = [tap(c, dx, first) for dx in range(3)]
                for n, g in enumerate(zip(*taps, strict=True)):
                    self._put(g, code.add(c, n), dy, first)

        code.loop(self.c_in, some, step=square)

    def _put(self, g: Sequence[Value], c: Value, dy: Value, lane: int) -> None:
        code = self.code
        for n, term in enumerate(tap_terms(code, g)):
            row = code.linear((c, 3), (n // HALF, 3 * self.c_in), (dy, 1))
            place = code.linear((row, HALF * self.lanes), (n % HALF, self.lanes), (1, lane))
            code.store(term, code.at(self.taps, place))

    def _image(self, block: Value, start: Value, place: Value, images: int) -> None:
        code, image = self.code, self.code.add(start, place)

        def tile(row: Value | int, cut: Cut, t: Value | int) -> None:
            column = code.mul(t, self.columns)
            pixel = code.linear((image, self.side**2), (row, self.side), (column, OUT))
            out = code.at(self.out, code.linear((pixel, self.c_out), (block, self.lanes)))
            corner = code.linear((place, self.map), (row, self.line), (column, TERMS * self.block))
            for half in range(2):
                self._half(half, images, cut, code.at(self.terms, corner), out)

        along(
            code,
            self.side,
            self.rows,
            lambda row, cut: code.each(self.tiles // self.columns, lambda t: tile(row, cut, t)),
        )

    def _half(self, half: int, images: int, cut: Cut, terms: Value, out: Value) -> None:
        """Three terms' sums of a tile's outputs; the other three join them in memory."""
        code = self.code
        tiles = list(product(range(images), range(cut.length), range(self.columns)))

        def channel(v: Value, c: Value, held: list[Value]) -> list[Value]:
            here = code.at(terms, code.linear((v, self.side * self.line), (c, 1)))
            number = code.linear((v, self.block), (c, 1), (1, half * self.c_in))
            taps = code.at(self.taps, code.mul(number, 3 * HALF * self.lanes))
            return self._products(half, images, cut, here, taps, held)

        sums = code.loop(
            self.c_in // self.block,
            lambda v, held: code.loop(self.block, lambda c, held: channel(v, c, held), held),
            [code.const(0.0, self.lanes)] * (HALF * len(tiles)),
        )
        for n, (i, r, t) in enumerate(tiles):
            first = (i * self.side + r) * self.side + t * OUT
            pixels = [code.at(out, (first + k) * self.c_out) for k in range(OUT)]
            values = self._outputs(half, sums[n * HALF : (n + 1) * HALF], pixels)
            for pixel, value in zip(pixels, values, strict=True):
                code.store(value, pixel)

    def _products(
        self, half: int, images: int, cut: Cut, here: Value, taps: Value, held: Sequence[Value]
    ) -> list[Value]:
        code, sums = self.code, list(held)
        rows = range(0 if cut.first else -1, cut.length + (0 if cut.last else 1))
        for f in range(HALF):
            three = [
                code.load(code.at(taps, (dy * HALF + f) * self.lanes), self.lanes)
                for dy in range(3)
            ]
            for i, y, t in product(range(images), rows, range(self.columns)):
                term = (t * TERMS + half * HALF + f) * self.block
                place = code.at(here, i * self.map + y * self.line + term)
                number = code.spread(code.load(place, 1), self.lanes)
                for dy, tap in enumerate(three):  # of every row that this one reaches
                    r = y + 1 - dy
                    if 0 <= r < cut.length:
                        n = ((i * cut.length + r) * self.columns + t) * HALF + f
                        sums[n] = code.fma(number, tap, sums[n])
        return sums

    def _outputs(self, half: int, m: Sequence[Value], pixels: Sequence[Value]) -> list[Value]:
        """Four outputs (A transposed times m): of the first terms, then with the others."""
        code, b = self.code, self.code.b
        if half == 0:
            total, difference = b.fadd(m[1], m[2]), b.fsub(m[1], m[2])
            return [b.fadd(m[0], total), difference, total, difference]
        total, difference = b.fadd(m[0], m[1]), b.fsub(m[0], m[1])
        y = [code.load(pixel, self.lanes) for pixel in pixels]
        return [
            b.fadd(y[0], total),
            times(code, 2, difference, y[1]),
            times(code, 4, total, y[2]),
            b.fadd(times(code, 8, difference, y[3]), m[2]),
        ]
