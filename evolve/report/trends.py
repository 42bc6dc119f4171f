"""Does a curve rise with lineage length? Its slope on a named scale, on plain arrays.

One interval decides. A table holds one seed's values: rows are lineage lengths, columns the
descendants (one downstream task each; the same tasks in every row). Only the seeds' mean curves
count for a trend: what a task adds to all lengths drops out of a slope, and the rows of one lineage
share their ancestor, so they are not independent measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evolve.report import serial
from evolve.report.serial import LEVEL, POWER

Array = NDArray[np.float64]

RESAMPLES = 10_000
LEAST_POINTS = 3
SEEDS_AS_UNITS = 3  # from so many on, a trend's interval is Student's over the seeds' slopes
DECIMALS = 12  # differences of accuracies carry float noise of 1e-17, which must not break ties
# What a slope is taken against, chosen before looking: measured lengths are about geometric, and
# gains saturate, so every doubling counts the same.
SCALE, STEP = "log2 length", "doubling of length"
PRINTED = 2  # decimals of an interval's bounds; claims are made of what is printed


@dataclass(frozen=True)
class Trend:
    """A curve against lineage length. The slope is in points per STEP; NaN where undefined.

    ``low`` and ``high`` bound it at 95 % (see :func:`trend`); this interval alone decides.
    ``resolvable`` is the size of a slope that such an interval would have told from 0 in 8 of 10
    repetitions. ``rho``, Spearman's, only describes.
    """

    points: int
    seeds: int
    columns: int
    scale: str
    rho: float
    slope: float
    low: float
    high: float
    resolvable: float

    @property
    def rises(self) -> bool:
        """The slope's interval lies above 0, as printed."""
        return side(self.low, self.high) > 0

    @property
    def falls(self) -> bool:
        """The slope's interval lies below 0, as printed."""
        return side(self.low, self.high) < 0

    @property
    def unit(self) -> str:
        """The slope's unit in words."""
        return f"points per {STEP}"


def side(low: float, high: float, decimals: int = PRINTED) -> int:
    """1 where an interval lies above 0, -1 below, else 0 (also without bounds).

    Bounds count as they are printed: one that rounds to 0.00 touches 0, so that no sentence
    contradicts the numbers beside it.

    Args:
        low: the interval's lower bound; NaN: none.
        high: its upper bound.
        decimals: with which it is printed.
    """
    return int(round(low, decimals) > 0) - int(round(high, decimals) < 0)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t: 2.776 for 4 degrees of freedom at 95 %.

    Args:
        freedom: degrees of freedom.
        level: of the interval.
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def mean_interval(values: Sequence[float] | Array) -> tuple[float, float, float, int]:
    """The mean of the finite values with its interval by Student's t.

    Args:
        values: in any unit.

    Returns:
        (mean, low, high, n) in that unit; no interval (NaN) from fewer than two values.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    if n == 0:
        return math.nan, math.nan, math.nan, 0
    mean = math.fsum(finite) / n
    if n == 1:
        return mean, math.nan, math.nan, 1
    half = t_quantile(n - 1) * math.sqrt(math.fsum((finite - mean) ** 2) / (n - 1) / n)
    return mean, mean - half, mean + half, n


@lru_cache(maxsize=64)
def t_found(freedom: int, level: float = LEVEL) -> float:
    """The size that a two-sided t-test resolves in POWER of the samples.

    From the noncentral t distribution: 1.43 for many degrees of freedom at 95 %, 1.58 for two.

    Args:
        freedom: degrees of freedom.
        level: of the test's interval.

    Returns:
        The size in half-widths of a typical (median) interval of that level.
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, nct

    critical = t_quantile(freedom, level)
    most = 4 * critical + 4
    size = float(brentq(lambda shift: nct.sf(critical, freedom, shift) - POWER, 0.0, most))
    return size / (critical * math.sqrt(chi2.median(freedom) / freedom))


def trend(lengths: Sequence[int], tables: Sequence[Array]) -> Trend:
    """Trend of the mean over seeds and columns, with its 95 % interval.

    It is the mean of the seeds' least-squares slopes. From SEEDS_AS_UNITS seeds on the interval is
    Student's over the seeds' slopes, whatever the noise within a lineage: it speaks of lineages in
    general. One or two seeds give slopes too few for that. Their interval allows for noise that is
    correlated along the lineage (:mod:`evolve.report.serial`) and speaks of these lineages only.

    Args:
        lengths: the rows' lineage lengths, rising, >= 1 where there are enough of them for a trend.
        tables: one [T, columns] array a seed, in points.
    """
    points, seeds, columns = len(lengths), len(tables), sum(table.shape[1] for table in tables)
    if points < LEAST_POINTS or columns == 0:
        return Trend(points, seeds, columns, SCALE, *[math.nan] * 5)
    at, x = tuple(map(int, lengths)), tuple(map(math.log2, lengths))
    curves = np.stack([table.mean(axis=1) - table[0].mean() for table in tables])
    slopes = np.round(serial.slope(x, curves), DECIMALS)
    mean, low, high, _ = mean_interval(slopes)
    if seeds >= SEEDS_AS_UNITS:
        half, resolved = (high - low) / 2, t_found(seeds - 1)
    else:
        calibrated = serial.calibration(at, x, seeds)
        error = float(serial.slope_error(at, x, curves))
        half, resolved = calibrated.critical * error, calibrated.resolution
    rho = spearman(lengths, np.mean([table.mean(axis=1) for table in tables], axis=0))
    if not half > serial.LEAST_SPREAD:  # numbers without any spread prove nothing
        half = math.nan
    return Trend(
        points, seeds, columns, SCALE, rho, mean, mean - half, mean + half, half * resolved
    )


def spearman(lengths: Sequence[int], values: Sequence[float] | Array) -> float:
    """Spearman's rank correlation.

    Args:
        lengths: [T].
        values: [T], in any unit.

    Returns:
        In [-1, 1]; NaN where the values are constant: there is no order to speak of.
    """
    from scipy.stats import rankdata

    rounded = np.round(np.asarray(values, dtype=np.float64), DECIMALS)
    if np.all(rounded == rounded[0]):
        return math.nan
    x, y = _standard(rankdata(lengths)), _standard(rankdata(rounded))
    return float(np.clip(x @ y, -1, 1))


def bootstrap(groups: Sequence[Array]) -> tuple[float, float, float]:
    """The mean over groups of each group's mean, with a resampled interval.

    Groups are resampled, then their members; of one group (one seed) only its members. The interval
    is the expanded percentile interval (Hesterberg 2015, "What teachers should know about the
    bootstrap"). With so few units the plain percentiles are too narrow, so their levels are moved
    out to Phi(-sqrt(n / (n - 1)) t).

    Args:
        groups: one array of members a group.

    Returns:
        (mean, low, high); NaN bounds from a single unit.
    """
    mean = float(np.mean([group.mean() for group in groups]))
    tail = _tail(groups)
    if math.isnan(tail):
        return mean, math.nan, math.nan
    sizes = tuple(len(group) for group in groups)
    drawn = _resampled(groups, sizes)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return mean, float(low), float(high)


def ratio_interval(tops: Sequence[Array], bottoms: Sequence[Array]) -> tuple[float, float, float]:
    """The ratio of two means over the same groups and members, with its interval.

    Both are resampled together, as :func:`bootstrap` does.

    Args:
        tops: one array of members a group.
        bottoms: the same groups and members.

    Returns:
        (ratio, low, high); NaN bounds from a single unit.
    """
    ratio = float(
        np.mean([group.mean() for group in tops]) / np.mean([group.mean() for group in bottoms])
    )
    tail, sizes = _tail(tops), tuple(len(group) for group in tops)
    if math.isnan(tail):
        return ratio, math.nan, math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = _resampled(tops, sizes) / _resampled(bottoms, sizes)
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return ratio, float(low), float(high)


def statistic_interval(
    tables: Sequence[Sequence[Array]], statistic: Callable[[Array], Array]
) -> tuple[float, float]:
    """The interval of a statistic of several means over the same groups and members.

    All are resampled together, as :func:`bootstrap` does.

    Args:
        tables: k times one array of members a group.
        statistic: [k, draws] means -> [draws]; infinity is a value like any other.

    Returns:
        (low, high); NaN from a single unit, or where the tables differ in their members.
    """
    sizes = {tuple(map(len, groups)) for groups in tables}
    tail = _tail(tables[0]) if len(sizes) == 1 else math.nan
    if math.isnan(tail):
        return math.nan, math.nan
    means = np.stack([_resampled(groups, tuple(map(len, groups))) for groups in tables])
    # the draws' own values: between a number and infinity there is nothing to interpolate
    low, high = np.quantile(statistic(means), [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


def _tail(groups: Sequence[Array]) -> float:
    """The level at which :func:`bootstrap` cuts its draws; NaN from a single unit."""
    from scipy.special import ndtr

    units = len(groups) if len(groups) > 1 else len(groups[0])
    return (
        float(ndtr(-math.sqrt(units / (units - 1)) * t_quantile(units - 1)))
        if units > 1
        else math.nan
    )


def _resampled(groups: Sequence[Array], sizes: tuple[int, ...]) -> Array:
    """Means of RESAMPLES draws of groups and, within each drawn group, of members."""
    chosen, members = _draws(sizes)
    padded = np.zeros((len(groups), max(sizes)))
    for row, group in enumerate(groups):
        padded[row, : len(group)] = group
    counts = np.asarray(sizes)[chosen]
    inside = np.arange(max(sizes)) < counts[..., None]
    index = np.floor(members * counts[..., None]).astype(np.int64)
    picked = np.where(inside, padded[chosen[..., None], index], 0.0)
    return np.asarray((picked.sum(axis=-1) / counts).mean(axis=-1), dtype=np.float64)


def _standard(ranks: Array) -> Array:
    centred = ranks - ranks.mean()
    return np.asarray(centred / np.sqrt(centred @ centred), dtype=np.float64)


@lru_cache(maxsize=8)
def _draws(sizes: tuple[int, ...]) -> tuple[NDArray[np.int64], Array]:
    """Which groups [RESAMPLES, groups], and a number in [0, 1) for every member drawn from them."""
    import torch

    from evolve.core.randomness import generator

    source = generator(0, "bootstrap", *sizes)
    groups = len(sizes)
    chosen = torch.randint(groups, (RESAMPLES, groups), generator=source)
    members = torch.rand(RESAMPLES, groups, max(sizes), generator=source, dtype=torch.float64)
    return chosen.numpy(), members.numpy()
