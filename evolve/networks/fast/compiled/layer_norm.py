"""LayerNorm of rows of tokens as machine code made for their width, forward and back."""

from __future__ import annotations

from math import gcd

import torch
from llvmlite import ir

from evolve.networks.fast.compiled.emit import Code, Value
from evolve.networks.fast.compiled.kernel import kernel
from evolve.networks.fast.compiled.units import Channels

EPS = 1e-6  # timm's
CLASSES = 16  # Numbers of a row are added up by their place modulo this, whatever a vector holds.


@kernel("ppppppi")
def normalised(code: Code, channels: int, dtype: torch.dtype) -> None:
    """A kernel (out, x, weight, bias, mean, invstd, rows): LayerNorm of x [rows, channels].

    Args:
        code: what the kernel is written into.
        channels: numbers of a row.
        dtype: of all numbers.
    """
    k = _Rows(code, channels)
    out, x, weight, bias, mean, invstd, rows = code.arguments
    b = code.b

    def row(place: Value) -> None:
        xs = k.row(x, place)
        centre = k.mean(xs)
        apart = [b.fsub(value, code.spread(centre, k.lanes)) for value in xs]
        variance = k.mean([b.fmul(value, value) for value in apart])
        root = code.sqrt(b.fadd(variance, code.const(EPS)))
        inverse = b.fdiv(code.const(1.0), root)
        code.store(centre, code.at(mean, place))
        code.store(inverse, code.at(invstd, place))
        for n, value in enumerate(apart):
            hat = b.fmul(value, code.spread(inverse, k.lanes))
            at = n * k.lanes
            k.store(code.fma(hat, k.load(weight, at), k.load(bias, at)), out, k.offset(place, n))

    code.loop(rows, lambda place, _: row(place))


@kernel("ppppppppi")
def normalised_gradient(code: Code, channels: int, dtype: torch.dtype) -> None:
    """A kernel: from the gradient g of :func:`normalised`'s output to those of all that it took.

    It takes (g_x, g, x, weight, mean, invstd, g_weight, g_bias, rows). The gradients are added to
    g_x [rows, channels], g_weight and g_bias.

    Args:
        code, channels, dtype: as :func:`normalised`'s.
    """
    k = _Rows(code, channels)
    g_x, g, x, weight, mean, invstd, g_weight, g_bias, rows = code.arguments
    b = code.b

    def row(place: Value) -> None:
        centre, inverse = (
            code.spread(code.load(code.at(part, place), 1), k.lanes) for part in (mean, invstd)
        )
        hats = [b.fmul(b.fsub(value, centre), inverse) for value in k.row(x, place)]
        gs = k.row(g, place)
        scaled = [b.fmul(value, k.load(weight, n * k.lanes)) for n, value in enumerate(gs)]
        even = code.spread(k.mean(scaled), k.lanes)
        products = [b.fmul(a, hat) for a, hat in zip(scaled, hats, strict=True)]
        slope = code.spread(k.mean(products), k.lanes)
        for n, (value, hat) in enumerate(zip(scaled, hats, strict=True)):
            rest = b.fsub(value, code.fma(hat, slope, even))
            here = k.offset(place, n)
            k.store(code.fma(rest, inverse, k.load(g_x, here)), g_x, here)
            at = n * k.lanes
            k.store(code.fma(gs[n], hat, k.load(g_weight, at)), g_weight, at)
            k.store(b.fadd(gs[n], k.load(g_bias, at)), g_bias, at)

    code.loop(rows, lambda place, _: row(place))


class _Rows(Channels):
    """Rows held in registers whole."""

    def offset(self, row: Value, vector: int) -> Value | int:
        """Where a row's vector lies."""
        return self.code.linear((row, self.channels), (1, vector * self.lanes))

    def row(self, pointer: Value, row: Value) -> list[Value]:
        """A row's vectors."""
        return [self.load(pointer, self.offset(row, n)) for n in range(self.vectors)]

    def mean(self, vectors: list[Value]) -> Value:
        """The mean of all numbers in some vectors that are a row."""
        b, word, lanes = self.code.b, ir.IntType(32), self.lanes
        groups = gcd(CLASSES, self.channels) // lanes
        sums = [self.code.total(vectors[first::groups]) for first in range(groups)]
        while len(sums) > 1:  # the classes' sum, by halves
            half = len(sums) // 2
            sums = [b.fadd(*pair) for pair in zip(sums[:half], sums[half:], strict=True)]
        value = sums[0]
        while lanes > 1:
            lanes //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            halves = [
                b.shuffle_vector(
                    value,
                    undefined,
                    ir.Constant(ir.VectorType(word, lanes), list(range(start, start + lanes))),
                )
                for start in (0, lanes)
            ]
            value = b.fadd(*halves)
        if self.lanes > 1:
            value = b.extract_element(value, ir.Constant(word, 0))
        return b.fdiv(value, self.code.const(float(self.channels)))
