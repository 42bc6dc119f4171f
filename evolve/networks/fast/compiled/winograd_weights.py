"""The gradient of a 3x3 convolution's weight by the terms of
:mod:`evolve.networks.fast.compiled.winograd`: six products where the taps have twelve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

from evolve.networks.fast.compiled import emit
from evolve.networks.fast.compiled.emit import Code, Value, lanes_of
from evolve.networks.fast.compiled.tiling import divisor, stretches
from evolve.networks.fast.compiled.winograd import (
    BLOCK,
    OUT,
    TERMS,
    images_at_once,
    pixel_terms,
    spread,
    terms_of_map,
    times,
)


def gradient_terms(code: Code, pixel: Callable[[int], Value]) -> list[Value]:
    """The terms of four pixels of an output's gradient (A times g)."""
    g, b = [pixel(n) for n in range(OUT)], code.b
    even, odd = b.fadd(g[0], g[2]), b.fadd(g[1], g[3])
    near, far = times(code, 4, g[2], g[0]), times(code, 2, times(code, 4, g[3], g[1]))
    return [g[0], b.fadd(even, odd), b.fsub(even, odd), b.fadd(near, far), b.fsub(near, far), g[3]]


def taps_of(code: Code, m: Sequence[Value]) -> list[Value]:
    """A row of three taps from the sums of six terms (G transposed times m)."""
    b = code.b
    middle = times(code, -1 / 6, b.fadd(m[1], m[2]))
    wide = b.fadd(m[3], m[4])
    return [
        times(code, 1 / 4, m[0], times(code, 1 / 24, wide, middle)),
        times(code, 1 / 12, b.fsub(m[3], m[4]), times(code, 1 / 6, b.fsub(m[2], m[1]))),
        b.fadd(times(code, 1 / 6, wide, middle), m[5]),
    ]


class WinogradWeightGradient:
    """Lanes are inputs. ``given``: g, x, room and N; ``join(value, final, offset, lanes)`` adds."""

    def __init__(
        self,
        code: Code,
        side: int,
        c_in: int,
        c_out: int,
        join: Callable[[Value, bool, Value, int], None],
        given: Sequence[Value],
    ) -> None:
        self.code, self.side, self.c_in, self.c_out, self.join = code, side, c_in, c_out, join
        self.g, self.x, self.room, self.images = given
        self.lanes, self.tiles = lanes_of(c_in, code.dtype), side // OUT
        self.singles = divisor(gcd(c_out, BLOCK), (emit.processor().registers - 4) // 3)
        self.some = images_at_once(side, c_in + c_out)
        self.g_terms = code.at(self.room, self.some * terms_of_map(side, c_in))
        self.sums = code.room(TERMS * 3 * self.singles * self.lanes)

    def written(self) -> None:
        """Some images after the other: their terms stay in the cache while all channels go
        through them.
        """
        code = self.code

        def stretch(start: Value, count: Value | int, final: bool) -> None:
            code.loop(count, lambda i, _: self._spread(code.add(start, i), i))
            code.loop(
                self.c_out // self.singles,
                lambda block, _: code.loop(
                    self.c_in // self.lanes, lambda v, _: self._sum(count, final, block, v)
                ),
            )

        stretches(code, self.images, self.some, stretch)

    def _spread(self, image: Value, place: Value) -> None:
        code, side = self.code, self.side
        for channels, maps, terms, terms_of in (
            (self.c_in, self.x, self.room, pixel_terms),
            (self.c_out, self.g, self.g_terms, gradient_terms),
        ):
            here = code.at(maps, code.mul(image, side**2 * channels))
            into = code.at(terms, code.mul(place, terms_of_map(side, channels)))
            spread(code, side, channels, here, into, terms_of)

    def _sum(self, count: Value | int, final: bool, block: Value, vector: Value) -> None:
        """Each term's sums over the images, then the taps; behind the final images the step."""
        code, number = self.code, 3 * self.singles

        def term(f: Value, _: Sequence[Value]) -> None:
            zeros = [code.const(0.0, self.lanes)] * number
            sums = code.loop(count, lambda i, held: self._image(i, f, block, vector, held), zeros)
            for n, value in enumerate(sums):
                place = code.linear((f, number * self.lanes), (n, self.lanes))
                code.store(value, code.at(self.sums, place))

        code.loop(TERMS, term)
        code.loop(
            self.singles,
            lambda s, _: code.loop(3, lambda dy, _: self._taps(final, block, vector, s, dy)),
        )

    def _taps(self, final: bool, block: Value, vector: Value, s: Value, dy: Value) -> None:
        """A row of taps, from the sums of its terms."""
        code, number = self.code, 3 * self.singles
        here = code.at(self.sums, code.linear((s, 3 * self.lanes), (dy, self.lanes)))
        places = [code.at(here, f * number * self.lanes) for f in range(TERMS)]
        taps = taps_of(code, [code.load(place, self.lanes) for place in places])
        row = code.linear((block, self.singles * 9 * self.c_in), (s, 9 * self.c_in))
        first = code.linear((1, row), (dy, 3 * self.c_in), (vector, self.lanes))
        for dx, value in enumerate(taps):
            self.join(value, final, code.add(first, dx * self.c_in), self.lanes)

    def _image(
        self, image: Value, f: Value, block: Value, vector: Value, sums: list[Value]
    ) -> list[Value]:
        code, b, last = self.code, self.code.b, self.side - 1

        def of_term(terms: Value, channels: int, first: Value) -> tuple[Value, int]:
            """Where a term's lie, and how far apart two tiles' are."""
            wide = gcd(channels, BLOCK)
            number, lane = (op(first, code.index(wide)) for op in (b.sdiv, b.srem))
            place = code.linear(
                (image, terms_of_map(self.side, channels)),
                (number, terms_of_map(self.side, wide)),
                (f, wide),
                (1, lane),
            )
            return code.at(terms, place), TERMS * wide

        x, x_tile = of_term(self.room, self.c_in, code.mul(vector, self.lanes))
        g, g_tile = of_term(self.g_terms, self.c_out, code.mul(block, self.singles))

        def tile(number: Value, down: Sequence[int], held: Sequence[Value]) -> list[Value]:
            sums, here = list(held), code.at(x, code.mul(number, x_tile))
            rows = [code.load(code.at(here, dy * self.tiles * x_tile), self.lanes) for dy in down]
            there = code.at(g, code.mul(number, g_tile))
            for s in range(self.singles):
                grad = code.spread(code.load(code.at(there, s), 1), self.lanes)
                for dy, row in zip(down, rows, strict=True):
                    n = 3 * s + dy + 1
                    sums[n] = code.fma(grad, row, sums[n])
            return sums

        def tiles(start: int, end: int, down: Sequence[int], held: list[Value]) -> list[Value]:
            return code.loop(
                end * self.tiles,
                lambda number, held: tile(number, down, held),
                held,
                start=start * self.tiles,
            )

        sums = tiles(0, 1, [0, 1], sums)
        sums = tiles(1, last, [-1, 0, 1], sums)
        return tiles(last, self.side, [-1, 0], sums)
