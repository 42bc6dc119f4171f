"""GELU in its exact form as machine code, with its slope for the way back.

gelu(x) = x Phi(x). The normal distribution's tail is erfcx(z) exp(-z^2) / 2 for z = |x| / sqrt(2),
so that one exponential serves Phi and its density. erfcx is a Chebyshev series in
(2 - z) / (2 + z), as in Shepherd and Laframboise (Math. Comp. 36, 1981); :data:`SERIES` are its
terms by mpmath, as many as the dtype's rounding asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, log, pi, sqrt

import numpy as np
import torch
from llvmlite import ir
from numpy.polynomial.chebyshev import cheb2poly

from evolve.networks.fast.compiled import emit
from evolve.networks.fast.compiled.emit import Code, Value
from evolve.networks.fast.compiled.kernel import kernel
from evolve.networks.fast.compiled.parameters import numbers

SERIES = (
    *(0.37737609962585944, 0.4825091196506807, 0.12232459533097705, 0.017831149719276792),
    *(0.00032117365249439837, -0.0003503952564796157, -2.243880650620326e-05),
    *(1.0537433119356064e-05, 5.671331132647553e-07, -4.297681576665876e-07),
    *(5.104952512865141e-09, 1.8899699318179606e-08, -2.242755529856193e-09),
    *(-6.855254370550185e-10, 2.1487959525733994e-10, 5.515409718485674e-12),
    *(-1.3477495048063452e-11, 2.0863894672105994e-12, 4.481881445148601e-13),
    *(-2.268417577787569e-13, 1.85058675197488e-14, 1.1509611397547365e-14),
    *(-4.009890147070909e-15, 1.3982845705744687e-16),
)
# By a number's bytes: terms of the series, degree of exp's polynomial, the z from which on nothing
# changes, and bits of a fraction.
PRECISION = {4: (10, 7, 9.0, 23), 8: (24, 13, 26.0, 52)}


@kernel("ppi")
def gelu(code: Code, dtype: torch.dtype) -> None:
    """A kernel (out, x, count): out = gelu(x), and x becomes the slope there, gelu'(x).

    Args:
        code: what the kernel is written into.
        dtype: of all numbers.
    """
    out, x, count = code.arguments

    def some(at: Value, lanes: int, _: Sequence[Value]) -> None:
        place = code.at(x, at)
        value = code.load(place, lanes)
        phi, density = _normal(code, value, lanes)
        code.store(code.b.fmul(value, phi), code.at(out, at))
        code.store(code.fma(value, density, phi), place)

    numbers(code, count, emit.processor().width // dtype.itemsize, some)


def _normal(code: Code, x: Value, lanes: int) -> tuple[Value, Value]:
    """The standard normal distribution and its density at x.

    Far out both are next to nothing; what is no number shows when they are multiplied by x.
    """
    terms, _, most, _ = PRECISION[code.size]
    b = code.b

    def const(value: float) -> Value:
        return code.const(value, lanes)

    positive = code.greater(x, const(0.0))
    z = b.fmul(b.select(positive, x, b.fneg(x)), const(sqrt(0.5)))
    z = b.select(code.greater(const(most), z), z, const(most))
    t = b.fdiv(b.fsub(const(2.0), z), b.fadd(const(2.0), z))
    density = _exp(code, b.fneg(b.fmul(z, z)), lanes)
    series = [float(term) for term in cheb2poly(np.array(SERIES[:terms]))]
    half = b.fmul(density, const(0.5))
    tail = b.fmul(_polynomial(code, series, t, lanes), half)
    phi = b.select(positive, b.fsub(const(1.0), tail), tail)
    return phi, b.fmul(density, const(1 / sqrt(2 * pi)))


def _exp(code: Code, x: Value, lanes: int) -> Value:
    """exp(x) where it is a normal number."""
    _, degree, _, bits = PRECISION[code.size]
    b = code.b
    word: ir.Type = ir.IntType(8 * code.size)
    if lanes > 1:
        word = ir.VectorType(word, lanes)
        shift = ir.Constant(word, [bits] * lanes)
    else:
        shift = ir.Constant(word, bits)
    # Added to so large a number, x / ln 2 is rounded to a whole one, in the last bits.
    large = code.const(1.5 * 2**bits, lanes)
    rounded = code.fma(x, code.const(1 / log(2), lanes), large)
    whole = b.fneg(b.fsub(rounded, large))
    high = float(np.float32(log(2)))
    low = log(2) - high
    rest = code.fma(whole, code.const(low, lanes), code.fma(whole, code.const(high, lanes), x))
    series = [1 / factorial(n) for n in range(degree + 1)]
    value = b.bitcast(_polynomial(code, series, rest, lanes), word)
    return b.bitcast(b.add(value, b.shl(b.bitcast(rounded, word), shift)), code.kind(lanes))


def _polynomial(code: Code, series: Sequence[float], x: Value, lanes: int) -> Value:
    """The sum of series[n] x^n."""
    value = code.const(series[-1], lanes)
    for term in series[-2::-1]:
        value = code.fma(value, x, code.const(term, lanes))
    return value
