"""How BN and ReLU change along a direction, forward and back, as machine code.

It is the R-operator of :mod:`evolve.networks.fast.hessian` at one layer. With ^c = (c - mean) /
std: d^c = (dc - mean dc - ^c mean(^c dc)) / std forward, and back the derivative of g_c = (^g -
mean ^g - ^c mean(^g ^c)) / std, where ^g = gamma g_n and g_n is the gradient that the ReLU lets
through. Rows [pixels, channels].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evolve.networks.fast.compiled.emit import Code, Value
from evolve.networks.fast.compiled.kernel import kernel
from evolve.networks.fast.compiled.units import Channels


@dataclass(frozen=True)
class _Layer:
    """What both ways know of a layer.

    ``even`` is mean dc, ``growth`` the derivative of std over std.
    """

    k: Channels
    c: Value
    d_c: Value
    scale: Value
    shift: Value
    mean: Value
    invstd: Value
    even: Value
    growth: Value

    def hat(self, place: Value | int, at: Value | int) -> Value:
        b = self.k.code.b
        return b.fmul(
            b.fsub(self.k.load(self.c, place), self.k.load(self.mean, at)),
            self.k.load(self.invstd, at),
        )

    def d_hat(self, place: Value | int, at: Value | int) -> Value:
        b = self.k.code.b
        own = b.fmul(
            b.fsub(self.k.load(self.d_c, place), self.k.load(self.even, at)),
            self.k.load(self.invstd, at),
        )
        return b.fsub(own, b.fmul(self.k.load(self.growth, at), self.hat(place, at)))

    def masked(self, value: Value, place: Value | int, at: Value | int) -> Value:
        """``value`` where the ReLU lets it through."""
        return self.k.masked(value, self.c, place, self.scale, self.shift, at)


@kernel("ppppppppppppi")
def pushed(code: Code, channels: int, dtype: torch.dtype) -> None:
    """A kernel: the derivative of z = ReLU(BN(c)), given those of c, gamma and beta.

    It takes (d_z, d_c, c, scale, shift, mean, invstd, gamma, v_gamma, v_beta, even, growth, rows).
    Mean d_c and the growth of std are left in ``even`` and ``growth``, [channels].

    Args:
        code: what the kernel is written into.
        channels: of the maps.
        dtype: of all numbers.
    """
    k, b = Channels(code, channels), code.b
    d_z, d_c, c, scale, shift, mean, invstd, gamma, v_gamma, v_beta, even, growth, rows = (
        code.arguments
    )
    layer, sums, count = (
        _Layer(k, c, d_c, scale, shift, mean, invstd, even, growth),
        k.zeroed(2),
        k.number(rows),
    )

    def add(places: Sequence[Value | int], at: Value | int) -> None:
        moved = [k.load(d_c, place) for place in places]
        k.join(sums[0], at, moved)
        k.join(
            sums[1],
            at,
            [b.fmul(d, layer.hat(place, at)) for d, place in zip(moved, places, strict=True)],
        )

    def finish(at: Value | int) -> None:
        k.store(b.fdiv(k.load(sums[0], at), count), even, at)
        k.store(b.fmul(b.fdiv(k.load(sums[1], at), count), k.load(invstd, at)), growth, at)

    def put(places: Sequence[Value | int], at: Value | int) -> None:
        for place in places:
            along = code.fma(k.load(gamma, at), layer.d_hat(place, at), k.load(v_beta, at))
            k.store(
                layer.masked(code.fma(k.load(v_gamma, at), layer.hat(place, at), along), place, at),
                d_z,
                place,
            )

    k.over_rows(rows, add)
    k.each(finish)
    k.over_rows(rows, put)


@kernel("ppppppppppppppppppi")
def pulled(code: Code, channels: int, given: bool, dtype: torch.dtype) -> None:
    """A kernel: the derivative of g_c, given the gradients of z, c, gamma and beta.

    It takes (d_g, g_z, d_z, g_c, d_c, c, scale, shift, mean, invstd, even, growth, gamma, v_gamma,
    g_gamma, g_beta, d_gamma, d_beta, rows). The derivatives of gamma's and beta's gradients are
    written to d_gamma and d_beta.

    Args:
        code: what the kernel is written into.
        channels: of the maps.
        given: whether z's gradient has a derivative d_z; otherwise its address is unread.
        dtype: of all numbers.
    """
    k, b = Channels(code, channels), code.b
    (
        d_g,
        g_z,
        d_z,
        g_c,
        d_c,
        c,
        scale,
        shift,
        mean,
        invstd,
        even,
        growth,
        gamma,
        v_gamma,
        g_gamma,
        g_beta,
        d_gamma,
        d_beta,
        rows,
    ) = code.arguments
    layer, sums, count = (
        _Layer(k, c, d_c, scale, shift, mean, invstd, even, growth),
        k.zeroed(2),
        k.number(rows),
    )

    def moved(place: Value | int, at: Value | int) -> Value:
        return layer.masked(k.load(d_z, place), place, at)

    def through(place: Value | int, at: Value | int) -> Value:
        return layer.masked(k.load(g_z, place), place, at)

    def add(places: Sequence[Value | int], at: Value | int) -> None:
        terms = [b.fmul(through(place, at), layer.d_hat(place, at)) for place in places]
        if given:
            ways = [moved(place, at) for place in places]
            k.join(sums[0], at, ways)
            terms = [
                code.fma(way, layer.hat(place, at), term)
                for way, place, term in zip(ways, places, terms, strict=True)
            ]
        k.join(sums[1], at, terms)

    k.over_rows(rows, add)
    shares = k.zeroed(3)  # what is subtracted evenly, by ^c, and by d^c

    def finish(at: Value | int) -> None:
        own, way, inverse = k.load(gamma, at), k.load(v_gamma, at), k.load(invstd, at)
        k.store(k.load(sums[0], at), d_beta, at)
        k.store(k.load(sums[1], at), d_gamma, at)
        share = b.fdiv(inverse, count)
        for room, before, now in ((shares[0], g_beta, sums[0]), (shares[1], g_gamma, sums[1])):
            k.store(
                b.fmul(share, code.fma(own, k.load(now, at), b.fmul(way, k.load(before, at)))),
                room,
                at,
            )
        k.store(b.fmul(share, b.fmul(own, k.load(g_gamma, at))), shares[2], at)

    def put(places: Sequence[Value | int], at: Value | int) -> None:
        for place in places:
            inverse = k.load(invstd, at)
            along = b.fmul(b.fmul(k.load(v_gamma, at), inverse), through(place, at))
            if given:
                along = code.fma(b.fmul(k.load(gamma, at), inverse), moved(place, at), along)
            taken = code.fma(layer.hat(place, at), k.load(shares[1], at), k.load(shares[0], at))
            taken = code.fma(layer.d_hat(place, at), k.load(shares[2], at), taken)
            taken = code.fma(k.load(g_c, place), k.load(growth, at), taken)
            k.store(b.fsub(along, taken), d_g, place)

    k.each(finish)
    k.over_rows(rows, put)
