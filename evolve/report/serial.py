"""How sure a least-squares slope is when the noise along the curve may be correlated: drift of one
lineage's ancestor.

The noise is taken to be one of a family: independent, AR(1), a random walk over tasks, a random
walk that slows as the ancestor learns, and mixtures with independent noise. Eight points cannot say
which. So the standard error is averaged over the family, weighted by restricted likelihood
(Harville 1974), and the critical value is the largest over the family of the 95 % quantiles of
|slope| / error, by simulation: coverage is at least 95 % whichever member is true. At the eight
lengths of a quick lineage that is 4.9 errors. Noise is what a parabola leaves, not a straight line:
gains saturate, or fall late, and a curve that bends is not noisy for that; the slope is the
least-squares line's all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
POWER = 0.8
DRAWS = 4_000
RHOS = (0.5, 0.8, 0.95)  # AR(1), by task
SHARES = (0.3, 0.6, 0.9, 1.0)  # of the correlated part in the noise's variance
BENDS_FROM = 5  # points; fewer leave too little beside a parabola, so there a bend counts as noise
LEAST_SPREAD = 1e-9  # points: what is left of a curve that has no noise


@dataclass(frozen=True)
class Calibration:
    """How wide an interval must be, and what it resolves.

    Attributes:
        critical: half-width of the interval in standard errors.
        resolution: the slope that is told from 0 in POWER of the samples, in half-widths of a typical
            (median) interval.
    """

    critical: float
    resolution: float


@dataclass(frozen=True)
class _Model:
    """One member of the family at T given points.

    F = T - 3 of them tell of noise (see :func:`_residual_basis`).
    """

    root: Array  # [T, T], root @ root.T is the covariance
    whitener: Array  # [T, F]: a curve -> independent numbers of equal variance
    logdet: float  # of the residuals' covariance
    variance: float  # of the least-squares slope, where the covariance is as it stands


@dataclass(frozen=True)
class _Design:
    weights: Array  # [T]: a curve's least-squares slope is weights @ curve
    models: tuple[_Model, ...]


def slope(x: tuple[float, ...], curves: Array) -> Array:
    """Least-squares slopes, per unit of x.

    Args:
        x: [T].
        curves: [..., T].

    Returns:
        [...].
    """
    return np.asarray(curves @ _weights(x), dtype=np.float64)


def slope_error(lengths: tuple[int, ...], x: tuple[float, ...], curves: Array) -> Array:
    """Standard error of the mean slope of k curves, averaged over the family of noises.

    Args:
        lengths: tasks learned at the T points, at least 3, rising: the noise's clock.
        x: the same on the scale against which the slope is taken.
        curves: the seeds' mean curves [..., k, T], in any unit.

    Returns:
        The errors [...] in the curves' unit per unit of x; 0 where no curve has any noise.
    """
    return _errors(_design(lengths, x), np.asarray(curves, dtype=np.float64))


@lru_cache(maxsize=64)
def calibration(lengths: tuple[int, ...], x: tuple[float, ...], count: int) -> Calibration:
    """The calibration for the mean slope of ``count`` curves.

    It is the largest of the family's quantiles (see the module's text).

    Args:
        lengths: as for :func:`slope_error`.
        x: as for :func:`slope_error`.
        count: how many curves, k.
    """
    design = _design(lengths, x)
    drawn = [_simulated(design, model, count, number) for number, model in enumerate(design.models)]
    critical = max(float(np.quantile(np.abs(slopes) / errors, LEVEL)) for slopes, errors in drawn)
    resolved = max(
        float(np.quantile(critical * e - s, POWER) / np.median(critical * e)) for s, e in drawn
    )
    return Calibration(critical, resolved)


def covariances(lengths: tuple[int, ...]) -> list[Array]:
    """The family of noises at T lineage lengths.

    Args:
        lengths: rising, at least 1.

    Returns:
        Covariances [T, T] of mean variance 1: independent noise, then AR(1), a random walk and one
        that slows, each mixed with independent noise.
    """
    t = np.asarray(lengths, dtype=np.float64)
    gap = np.abs(np.subtract.outer(t, t))
    slowing = np.minimum.outer(1 + np.log(t), 1 + np.log(t))  # steps of variance 1 / task
    walks = [walk / np.mean(np.diag(walk)) for walk in (np.minimum.outer(t, t), slowing)]
    parts = [*(rho**gap for rho in RHOS), *walks]
    alone = np.eye(len(t))
    return [alone] + [(1 - share) * alone + share * part for part in parts for share in SHARES]


@lru_cache(maxsize=64)
def _design(lengths: tuple[int, ...], x: tuple[float, ...]) -> _Design:
    weights, basis = _weights(x), _residual_basis(x)
    return _Design(weights, tuple(_models(covariances(lengths), weights, basis)))


def _models(family: list[Array], weights: Array, basis: Array) -> Iterator[_Model]:
    for covariance in family:
        inner = np.linalg.cholesky(basis.T @ covariance @ basis)
        logdet = 2 * float(np.log(np.diag(inner)).sum())
        whitener: Array = np.asarray(basis @ np.linalg.inv(inner).T, dtype=np.float64)
        root: Array = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        yield _Model(root, whitener, logdet, float(weights @ covariance @ weights))


def _weights(x: tuple[float, ...]) -> Array:
    centred = np.asarray(x, dtype=np.float64) - np.mean(x)
    return np.asarray(centred / (centred @ centred), dtype=np.float64)


def _residual_basis(x: tuple[float, ...]) -> Array:
    """Orthonormal columns [T, F] that are blind to every parabola.

    Where T < BENDS_FROM, to every straight line only.
    """
    degree = 2 if len(x) >= BENDS_FROM else 1
    trends = np.vander(np.asarray(x, dtype=np.float64), degree + 1)
    return np.asarray(np.linalg.qr(trends, mode="complete")[0][:, degree + 1 :], dtype=np.float64)


def _errors(design: _Design, curves: Array) -> Array:
    count = curves.shape[-2]
    freedom = count * design.models[0].whitener.shape[-1]
    squares = np.stack(
        [((curves @ m.whitener) ** 2).sum(axis=(-2, -1)) for m in design.models], axis=-1
    )
    scale = np.maximum(squares / freedom, LEAST_SPREAD**2)
    logdets = np.array([m.logdet for m in design.models])
    likelihood = -0.5 * (count * logdets + freedom * np.log(scale))
    weight = np.exp(likelihood - likelihood.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    variances = np.array([m.variance for m in design.models])
    errors = np.sqrt((weight * scale * variances).sum(axis=-1) / count)
    return np.where(squares.min(axis=-1) / freedom > LEAST_SPREAD**2, errors, 0.0)


def _simulated(design: _Design, model: _Model, count: int, number: int) -> tuple[Array, Array]:
    """Mean slopes [DRAWS] of curves of this noise alone, and their errors.

    The draws are always the same.
    """
    import torch

    from evolve.core.randomness import generator

    points = len(design.weights)
    source = generator(0, "serial", number, count, points)
    noise = torch.randn(DRAWS, count, points, generator=source, dtype=torch.float64).numpy()
    curves = noise @ model.root.T
    return (curves @ design.weights).mean(axis=-1), _errors(design, curves)
