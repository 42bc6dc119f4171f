"""The gradient of a 3x3 convolution's weight as machine code made for one shape.

Maps are as in :mod:`evolve.networks.fast.compiled.convolution`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evolve.networks.fast.compiled import emit, winograd
from evolve.networks.fast.compiled.convolution import TAPS
from evolve.networks.fast.compiled.emit import Code, Value, lanes_of
from evolve.networks.fast.compiled.kernel import kernel
from evolve.networks.fast.compiled.tiling import divisor, stretches
from evolve.networks.fast.compiled.winograd_weights import WinogradWeightGradient

# Numbers of x and of the output's gradient that a weight gradient goes through at a time, so that
# they stay in the second cache.
CACHED = 1 << 17
# Pixels that a weight gradient adds up at least before it goes to memory, where a batch has them.
FEW = 64


@kernel("ppppi")
def weight_gradient(code: Code, side: int, c_in: int, c_out: int, dtype: torch.dtype) -> None:
    """A kernel (into, g, x, room, N): adds the weight's gradient.

    into [c_out, 9, c_in], given the gradient of the output, g [N, side, side, c_out]; ``room`` is
    :func:`convolution`'s.

    Args:
        code, side, c_in, c_out, dtype: as :func:`convolution`'s.
    """
    into, *rest = code.arguments
    _write((code, side, c_in, c_out), Joined(code, into, None), rest)


@kernel("ppppppi")
def weight_step(code: Code, side: int, c_in: int, c_out: int, dtype: torch.dtype) -> None:
    """A kernel (b, weight, rates, g, x, room, N): adds the weight's gradient to b; makes SGD's step.

    weight += rates[0] * b, then b = rates[1] * b + rates[2] * weight. Each number is then in the
    cache already; where weights outweigh maps, memory takes longer than all arithmetic.

    Args:
        code, side, c_in, c_out, dtype: as :func:`convolution`'s.
    """
    into, weight, rates, *rest = code.arguments
    _write((code, side, c_in, c_out), Joined(code, into, (weight, rates)), rest)


def _write(shape: tuple[Code, int, int, int], join: Joined, given: Sequence[Value]) -> None:
    if winograd.fits(*shape[1:]):
        WinogradWeightGradient(*shape, join, given).written()
    else:
        _WeightGradient(*shape, join, given).written()


class Joined:
    """How sums join those in memory at ``into``; ``step``: the weight and the rates of
    :func:`weight_step`.
    """

    def __init__(self, code: Code, into: Value, step: tuple[Value, Value] | None) -> None:
        self.code, self.into, self.step = code, into, step

    def __call__(self, value: Value, final: bool, offset: Value, lanes: int) -> None:
        """Numbers of a sum join those in memory; behind the final ones comes the step."""
        code, place = self.code, self.code.at(self.into, offset)
        total = code.b.fadd(code.load(place, lanes), value)
        if self.step and final:
            weight, rates = (
                code.at(self.step[0], offset),
                [code.spread(code.load(code.at(self.step[1], n), 1), lanes) for n in range(3)],
            )
            stepped = code.fma(rates[0], total, code.load(weight, lanes))
            code.store(stepped, weight)
            total = code.fma(rates[2], stepped, code.b.fmul(rates[1], total))
        code.store(total, place)


class _WeightGradient:
    """Lanes are inputs, or outputs where the inputs are few (images have three).

    ``given``: g, x, room (not needed here) and N.
    """

    def __init__(
        self,
        code: Code,
        side: int,
        c_in: int,
        c_out: int,
        join: Joined,
        given: Sequence[Value],
    ) -> None:
        self.code, self.side, self.c_in, self.c_out, self.join = code, side, c_in, c_out, join
        self.g, self.x, _, self.images = given
        dtype = code.dtype
        self.by_out = lanes_of(c_in, dtype) < min(4, lanes_of(c_out, dtype))
        vectors, singles = (c_out, c_in) if self.by_out else (c_in, c_out)
        self.lanes = lanes_of(vectors, dtype)
        self.vectors, self.singles = (
            vectors // self.lanes,
            divisor(singles, (emit.processor().registers - 4) // 9),
        )
        self.blocks = singles // self.singles
        self.held = self.code.room(9 * self.singles * self.lanes)
        self.some = max(1, FEW // side**2, CACHED // ((c_in + c_out) * side**2))

    def written(self) -> None:
        """Some images after the other: they stay in the cache while all channels go through them."""
        code = self.code

        def stretch(start: Value, count: Value | int, final: bool) -> None:
            code.loop(
                self.blocks,
                lambda block, _: code.loop(
                    self.vectors, lambda v, _: self._sum(start, count, final, block, v)
                ),
            )

        stretches(code, self.images, self.some, stretch)

    def _sum(
        self, start: Value, count: Value | int, final: bool, block: Value, vector: Value
    ) -> None:
        """Over ``count`` images from ``start`` on, added to memory; behind the ``final`` ones comes
        the step.
        """
        code = self.code
        zeros = [code.const(0.0, self.lanes)] * (9 * self.singles)
        sums = code.loop(
            count, lambda i, held: self._image(code.add(start, i), block, vector, held), zeros
        )
        self._add_by_out(sums, final, block, vector) if self.by_out else self._add(
            sums, final, block, vector
        )

    def _add(self, sums: Sequence[Value], final: bool, block: Value, vector: Value) -> None:
        code = self.code
        for number, value in enumerate(sums):
            single, tap = code.linear((block, self.singles), (1, number // 9)), number % 9
            self.join(
                value,
                final,
                code.linear((single, 9 * self.c_in), (1, tap * self.c_in), (vector, self.lanes)),
                self.lanes,
            )

    def _add_by_out(self, sums: Sequence[Value], final: bool, block: Value, vector: Value) -> None:
        """One by one: the lanes of a vector lie apart in memory."""
        code = self.code
        for number, value in enumerate(sums):
            code.store(value, code.at(self.held, number * self.lanes))

        def lane(single: Value, tap: Value, number: Value) -> None:
            row, column = (
                code.linear((vector, self.lanes), (number, 1)),
                code.linear((block, self.singles), (single, 1)),
            )
            value = code.load(
                code.at(
                    self.held, code.linear((single, 9 * self.lanes), (tap, self.lanes), (number, 1))
                ),
                1,
            )
            self.join(
                value, final, code.linear((row, 9 * self.c_in), (tap, self.c_in), (column, 1)), 1
            )

        def taps(single: Value, tap: Value) -> None:
            code.loop(self.lanes, lambda number, _: lane(single, tap, number))

        code.loop(self.singles, lambda single, _: code.loop(9, lambda tap, _: taps(single, tap)))

    def _image(self, image: Value, block: Value, vector: Value, sums: list[Value]) -> list[Value]:
        last = self.side - 1
        if last == 0:
            return self._row(image, 0, [0], block, vector, sums)
        sums = self._row(image, 0, [0, 1], block, vector, sums)
        if last > 1:
            sums = self.code.loop(
                last,
                lambda y, held: self._row(image, y, [-1, 0, 1], block, vector, held),
                sums,
                start=1,
            )
        return self._row(image, last, [-1, 0], block, vector, sums)

    def _row(
        self,
        image: Value,
        y: Value | int,
        down: Sequence[int],
        block: Value,
        vector: Value,
        sums: list[Value],
    ) -> list[Value]:
        code, last = self.code, self.side - 1
        first = code.linear((image, self.side**2), (y, self.side))
        g_vector, x_vector = (
            (vector, self.lanes) if self.by_out else (block, self.singles),
            (block, self.singles) if self.by_out else (vector, self.lanes),
        )
        g = code.at(self.g, code.linear((first, self.c_out), g_vector))
        x = code.at(self.x, code.linear((first, self.c_in), x_vector))

        def pixel(column: Value | int, across: Sequence[int], held: list[Value]) -> list[Value]:
            taps = [tap for tap, (dy, dx) in enumerate(TAPS) if dy in down and dx in across]
            return self._pixel(
                code.at(g, code.mul(column, self.c_out)),
                code.at(x, code.mul(column, self.c_in)),
                taps,
                held,
            )

        if last == 0:
            return pixel(0, [0], sums)
        sums = pixel(0, [0, 1], sums)
        if last > 1:
            sums = code.loop(last, lambda c, held: pixel(c, [-1, 0, 1], held), sums, start=1)
        return pixel(last, [-1, 0], sums)

    def _pixel(self, g: Value, x: Value, taps: Sequence[int], held: list[Value]) -> list[Value]:
        code, sums = self.code, list(held)
        grads = (
            [code.load(g, self.lanes)]
            if self.by_out
            else [self._one(g, s) for s in range(self.singles)]
        )
        for tap in taps:
            dy, dx = TAPS[tap]
            there = code.at(x, (dy * self.side + dx) * self.c_in)
            moved = None if self.by_out else code.load(there, self.lanes)
            for s in range(self.singles):
                a, b = (self._one(there, s), grads[0]) if self.by_out else (grads[s], moved)
                sums[9 * s + tap] = code.fma(a, b, sums[9 * s + tap])
        return sums

    def _one(self, pointer: Value, offset: int) -> Value:
        return self.code.spread(self.code.load(self.code.at(pointer, offset), 1), self.lanes)
