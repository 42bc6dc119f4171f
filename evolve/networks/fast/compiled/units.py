"""What stands between two convolutions, as machine code, forward and back.

It is BN in training mode, ReLU and the 2x2 max pool. Maps are rows [pixels, channels] in memory. A
pool's kernels take the rows of N images of ``side`` x ``side`` pixels; an odd last line or column
is left out, as torch does. Nothing but a layer's input and its convolution's output c is kept for
the way back: which pixels the ReLU and the pool let through is found again from scale * c + shift,
to the same bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from evolve.networks.fast.compiled.emit import Code, Value, lanes_of
from evolve.networks.fast.compiled.kernel import kernel

MOMENTUM, EPS = 0.1, 1e-5  # nn.BatchNorm2d's
# Rows whose sum is formed before it joins the total: fewer additions one after the other, and less
# rounding.
ROWS = 8


class Channels:
    """What kernels over maps are written with: vectors of channels, sums over rows."""

    def __init__(self, code: Code, channels: int) -> None:
        self.code, self.channels = code, channels
        self.lanes = lanes_of(channels, code.dtype)
        self.vectors = channels // self.lanes

    def each(self, body: Callable[[Value | int], None]) -> None:
        """``body(offset)`` for every vector of channels."""
        self.code.each(self.vectors, lambda v: body(self.code.mul(v, self.lanes)))

    def load(self, pointer: Value, offset: Value | int) -> Value:
        return self.code.load(self.code.at(pointer, offset), self.lanes)

    def store(self, value: Value, pointer: Value, offset: Value | int) -> None:
        self.code.store(value, self.code.at(pointer, offset))

    def const(self, value: float) -> Value:
        return self.code.const(value, self.lanes)

    def zeroed(self, count: int) -> list[Value]:
        """Addresses of ``count`` sums, one number a channel."""
        rooms = [self.code.room(self.channels) for _ in range(count)]

        def zero(at: Value | int) -> None:
            for room in rooms:
                self.store(self.const(0.0), room, at)

        self.each(zero)
        return rooms

    def affine(
        self, c: Value, place: Value | int, scale: Value, shift: Value, at: Value | int
    ) -> Value:
        """scale * c + shift at a pixel."""
        return self.code.fma(self.load(c, place), self.load(scale, at), self.load(shift, at))

    def masked(
        self,
        value: Value,
        c: Value,
        place: Value | int,
        scale: Value,
        shift: Value,
        at: Value | int,
    ) -> Value:
        """``value`` where ReLU(scale * c + shift) lets it through, 0 elsewhere."""
        passes = self.code.greater(self.affine(c, place, scale, shift, at), self.const(0.0))
        return self.code.b.select(passes, value, self.const(0.0))

    def number(self, count: Value) -> Value:
        """An integer as a number in every lane."""
        return self.code.spread(self.code.b.sitofp(count, self.code.real), self.lanes)

    def join(self, room: Value, at: Value | int, terms: Sequence[Value]) -> None:
        """Add to a sum."""
        self.store(self.code.b.fadd(self.load(room, at), self.code.total(terms)), room, at)

    def over_rows(
        self, rows: Value, body: Callable[[Sequence[Value | int], Value | int], None]
    ) -> None:
        """``body(offsets of some rows, offset of a vector)``, ROWS at a time, then one by one."""
        code, whole = self.code, self.code.multiple(rows, ROWS)

        def some(row: Value, count: int) -> None:
            starts = [code.mul(code.add(row, r), self.channels) for r in range(count)]
            self.each(lambda at: body([code.add(start, at) for start in starts], at))

        code.loop(whole, lambda row, _: some(row, ROWS), step=ROWS)
        code.loop(rows, lambda row, _: some(row, 1), start=whole)


@kernel("pipppppppppi")
def statistics(code: Code, channels: int, dtype: torch.dtype) -> None:
    """A kernel: BN's batch statistics of c [rows, channels].

    It takes (c, rows, gamma, beta, bias, mean, invstd, scale, shift, running_mean, running_var,
    tracked). scale = gamma * invstd and shift = beta - mean * scale. Where ``tracked`` is not 0 the
    running statistics move by MOMENTUM, as those of c + bias.

    Args:
        code: what the kernel is written into.
        channels: of the maps.
        dtype: of all numbers.
    """
    k = Channels(code, channels)
    b = code.b
    c, rows, gamma, beta, bias, mean, invstd, scale, shift, running_mean, running_var, tracked = (
        code.arguments
    )
    (sums, squares), count = k.zeroed(2), k.number(rows)
    k.over_rows(rows, lambda places, at: k.join(sums, at, [k.load(c, place) for place in places]))
    k.each(lambda at: k.store(b.fdiv(k.load(sums, at), count), mean, at))

    def square(place: Value | int, at: Value | int) -> Value:
        apart = b.fsub(k.load(c, place), k.load(mean, at))
        return b.fmul(apart, apart)

    k.over_rows(
        rows, lambda places, at: k.join(squares, at, [square(place, at) for place in places])
    )

    def finish(at: Value | int) -> None:
        variance = b.fdiv(k.load(squares, at), count)
        inverse = b.fdiv(k.const(1.0), code.sqrt(b.fadd(variance, k.const(EPS))))
        scaled = b.fmul(k.load(gamma, at), inverse)
        k.store(inverse, invstd, at)
        k.store(scaled, scale, at)
        k.store(b.fsub(k.load(beta, at), b.fmul(k.load(mean, at), scaled)), shift, at)

    k.each(finish)

    def move(at: Value | int) -> None:
        unbiased = b.fdiv(k.load(squares, at), b.fsub(count, k.const(1.0)))
        for running, new in (
            (running_mean, b.fadd(k.load(mean, at), k.load(bias, at))),
            (running_var, unbiased),
        ):
            old = b.fmul(k.load(running, at), k.const(1 - MOMENTUM))
            k.store(code.fma(new, k.const(MOMENTUM), old), running, at)

    with b.if_then(b.icmp_signed("!=", tracked, code.index(0))):
        k.each(move)


def _relu(k: Channels, y: Value) -> Value:
    """Zero for y <= 0; what is not a number stays so, that a diverged network shows it."""
    return k.code.b.select(k.code.b.fcmp_ordered("<=", y, k.const(0.0)), k.const(0.0), y)


def _larger(k: Channels, y: Value, best: Value) -> Value:
    """The larger one; what is not a number counts as larger, and stays."""
    b = k.code.b
    return b.select(b.or_(k.code.greater(y, best), b.fcmp_unordered("uno", y, y)), y, best)


@kernel("ppppi")
def rectified(code: Code, channels: int, dtype: torch.dtype) -> None:
    """A kernel (out, c, scale, shift, rows): out = ReLU(scale * c + shift), [rows, channels].

    Args:
        code, channels, dtype: as :func:`statistics`'.
    """
    k = Channels(code, channels)
    out, c, scale, shift, rows = code.arguments

    def body(places: Sequence[Value | int], at: Value | int) -> None:
        for place in places:
            k.store(_relu(k, k.affine(c, place, scale, shift, at)), out, place)

    k.over_rows(rows, body)


@kernel("pppppppi")
def joined(code: Code, channels: int, dtype: torch.dtype) -> None:
    """A kernel: the end of a residual block.

    It takes (out, c, scale, shift, past, past_scale, past_shift, rows). out is
    ReLU(scale * c + shift + past_scale * past + past_shift), [rows, channels].

    Args:
        code, channels, dtype: as :func:`statistics`'.
    """
    k = Channels(code, channels)
    out, c, scale, shift, past, past_scale, past_shift, rows = code.arguments

    def body(places: Sequence[Value | int], at: Value | int) -> None:
        for place in places:
            own = k.affine(c, place, scale, shift, at)
            other = k.affine(past, place, past_scale, past_shift, at)
            k.store(_relu(k, code.b.fadd(own, other)), out, place)

    k.over_rows(rows, body)


@kernel("pppppppppi")
def rectified_gradient(code: Code, channels: int, dtype: torch.dtype) -> None:
    """A kernel: from the gradient g of :func:`rectified`'s output to that of c.

    It takes (g_c, g, c, scale, shift, mean, invstd, g_gamma, g_beta, rows). The gradients of gamma
    and beta are added to g_gamma and g_beta.

    Args:
        code, channels, dtype: as :func:`statistics`'.
    """
    k = Channels(code, channels)
    g_c, g, c, scale, shift, mean, invstd, g_gamma, g_beta, rows = code.arguments
    back = _Back(k, g_c, c, scale, mean)

    def masked(places: Sequence[Value | int], at: Value | int) -> list[Value]:
        return [k.masked(k.load(g, place), c, place, scale, shift, at) for place in places]

    k.over_rows(rows, lambda places, at: back.add(masked(places, at), places, at))
    back.finish(invstd, g_gamma, g_beta, rows)
    k.over_rows(rows, lambda places, at: back.put(masked(places, at), places, at))


class _Back:
    """Through BN, in two walks over the pixels: g_c = scale * g - even - slope * (c - mean), where
    the last two come from sums over all.
    """

    def __init__(self, k: Channels, g_c: Value, c: Value, scale: Value, mean: Value) -> None:
        self.k, self.g_c, self.c, self.scale, self.mean = k, g_c, c, scale, mean
        self.even, self.slope = k.zeroed(2)  # until they are finished: sum g and sum g (c - mean)

    def _centred(self, place: Value | int, at: Value | int) -> Value:
        return self.k.code.b.fsub(self.k.load(self.c, place), self.k.load(self.mean, at))

    def add(self, gs: Sequence[Value], places: Sequence[Value | int], at: Value | int) -> None:
        """The first walk: gradients of BN's output at some pixels."""
        self.k.join(self.even, at, gs)
        self.k.join(
            self.slope,
            at,
            [
                self.k.code.b.fmul(g, self._centred(place, at))
                for g, place in zip(gs, places, strict=True)
            ],
        )

    def finish(self, invstd: Value, g_gamma: Value, g_beta: Value, rows: Value) -> None:
        """Between the walks; adds sum g to g_beta and sum g (c - mean) invstd to g_gamma."""
        k, b, count = self.k, self.k.code.b, self.k.number(rows)

        def body(at: Value | int) -> None:
            inverse = k.load(invstd, at)
            beta, gamma = k.load(self.even, at), b.fmul(k.load(self.slope, at), inverse)
            k.store(b.fadd(k.load(g_beta, at), beta), g_beta, at)
            k.store(b.fadd(k.load(g_gamma, at), gamma), g_gamma, at)
            share = b.fdiv(k.load(self.scale, at), count)
            k.store(b.fmul(share, beta), self.even, at)
            k.store(b.fmul(b.fmul(share, gamma), inverse), self.slope, at)

        k.each(body)

    def put(self, gs: Sequence[Value], places: Sequence[Value | int], at: Value | int) -> None:
        """The second walk."""
        for g, place in zip(gs, places, strict=True):
            self._store(self.k.code.b.fmul(g, self.k.load(self.scale, at)), place, at)

    def put_nothing(self, place: Value | int, at: Value | int) -> None:
        """At a pixel that no gradient reaches."""
        self._store(self.k.const(0.0), place, at)

    def _store(self, scaled: Value, place: Value | int, at: Value | int) -> None:
        k = self.k
        correction = k.code.fma(
            self._centred(place, at), k.load(self.slope, at), k.load(self.even, at)
        )
        k.store(k.code.b.fsub(scaled, correction), self.g_c, place)


class _Pools:
    """Walks over the windows of a pool: offsets of the four pixels and of the pooled one."""

    def __init__(self, k: Channels, side: int, images: Value) -> None:
        self.k, self.side, self.images = k, side, images

    def walk(self, body: Callable[[list[Value], Value, Value | int], None]) -> None:
        """``body(offsets of the window's pixels, offset of the pooled pixel, offset of a vector)``,
        in the order of memory.
        """
        code, c, side, half = self.k.code, self.k.channels, self.side, self.side // 2

        def window(n: Value, y: Value, x: Value) -> None:
            first = code.linear((n, side * side * c), (y, 2 * side * c), (x, 2 * c))
            out = code.linear((n, half * half * c), (y, half * c), (x, c))
            corners = [code.add(first, apart * c) for apart in (0, 1, side, side + 1)]
            self.k.each(
                lambda at: body([code.add(corner, at) for corner in corners], code.add(out, at), at)
            )

        code.loop(
            self.images,
            lambda n, _: code.loop(
                half, lambda y, _: code.loop(half, lambda x, _: window(n, y, x))
            ),
        )

    def left_out(self, body: Callable[[Value, Value | int], None]) -> None:
        """``body(offset of a pixel, offset of a vector)`` for the pixels that no window holds."""
        if self.side % 2 == 0:
            return
        code, last = self.k.code, self.side - 1

        def pixel(n: Value, y: Value | int, x: Value | int) -> None:
            here = code.linear(
                (n, self.side * self.side * self.k.channels),
                (y, self.side * self.k.channels),
                (x, self.k.channels),
            )
            self.k.each(lambda at: body(code.add(here, at), at))

        def image(n: Value, _: Sequence[Value]) -> None:
            code.loop(self.side, lambda x, _: pixel(n, last, x))
            code.loop(last, lambda y, _: pixel(n, y, last))

        code.loop(self.images, image)


@kernel("ppppi")
def pooled(code: Code, channels: int, side: int, dtype: torch.dtype) -> None:
    """A kernel (out, c, scale, shift, N): the 2x2 max pool of ReLU(scale * c + shift).

    Args:
        code, channels, dtype: as :func:`statistics`'.
        side: pixels of a map's side.
    """
    k = Channels(code, channels)
    out, c, scale, shift, images = code.arguments

    def body(places: list[Value], target: Value, at: Value | int) -> None:
        best = None
        for place in places:
            y = k.affine(c, place, scale, shift, at)
            best = y if best is None else _larger(k, y, best)
        k.store(_relu(k, best), out, target)

    _Pools(k, side, images).walk(body)


@kernel("pppppppppi")
def pooled_gradient(code: Code, channels: int, side: int, dtype: torch.dtype) -> None:
    """A kernel: as :func:`rectified_gradient`, from the gradient g behind the pool.

    It takes (g_c, g, c, scale, shift, mean, invstd, g_gamma, g_beta, N). The first of a window's
    largest pixels receives it, as in torch.

    Args:
        code, channels, side, dtype: as :func:`pooled`'s.
    """
    k = Channels(code, channels)
    b = code.b
    g_c, g, c, scale, shift, mean, invstd, g_gamma, g_beta, images = code.arguments
    back, pools, zero = _Back(k, g_c, c, scale, mean), _Pools(k, side, images), k.const(0.0)

    def masked(places: list[Value], target: Value, at: Value | int) -> list[Value]:
        """What each pixel of a window receives."""
        ys = [k.affine(c, place, scale, shift, at) for place in places]
        best, taken = ys[0], []
        for y in ys[1:]:
            best = b.select(code.greater(y, best), y, best)
        given = b.select(code.greater(best, zero), k.load(g, target), zero)
        for y in ys:
            is_best = code.greater(y, best, equal=True)
            taken.append(b.select(is_best, given, zero))
            given = b.select(is_best, zero, given)
        return taken

    pools.walk(lambda places, target, at: back.add(masked(places, target, at), places, at))
    back.finish(invstd, g_gamma, g_beta, b.mul(images, code.index(side * side)))
    pools.walk(lambda places, target, at: back.put(masked(places, target, at), places, at))
    pools.left_out(back.put_nothing)
