"""Does a curve rise with lineage length? Rank correlation, slope and their uncertainty, on plain arrays.

A table holds one seed's values: rows are lineage lengths, columns the descendants (one downstream task each; the
same tasks in every row). Columns are what gets resampled: the rows of one lineage share their tasks and their
ancestor and are not independent measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
EXACT_UP_TO = 7  # 7! = 5,040 orders are all looked at; beyond that RESAMPLES random ones
LEAST_POINTS = 3
RANKED_POINTS = 5  # with 4, the two-sided p of the best order is 2/24
DECIMALS = 12  # differences of accuracies carry float noise of 1e-17, which must not break ties


POWER = 1.43  # (1.96 + 0.84) / 1.96


@dataclass(frozen=True)
class Trend:
    """A curve against lineage length. Slopes are in the table's unit per 10 tasks; NaN where undefined."""

    points: int
    seeds: int
    columns: int
    rho: float
    p: float
    slope: float
    low: float
    high: float

    @property
    def resolvable(self) -> float:
        """The slope that such a measurement would find in about four of five trials (power 80 %): 1.43 half-widths of its interval. NaN with fewer
        points than the rank test can be significant with.
        """
        if self.points < RANKED_POINTS:
            return math.nan
        return POWER * (self.high - self.low) / 2

    @property
    def rises(self) -> bool:
        """Both tests agree on a rise: rho > 0 with p < 0.05, and the slope's interval lies above 0."""
        return self.rho > 0 and self.p < 0.05 and self.low > 0

    @property
    def falls(self) -> bool:
        return self.rho < 0 and self.p < 0.05 and self.high < 0


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t: 2.776 for 4 degrees of freedom at 95 %."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def mean_interval(values: Sequence[float] | Array, level: float = LEVEL) -> tuple[float, float, float, int]:
    """(mean, low, high, n) by Student's t over the finite values. No interval (NaN) from fewer than two."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    n = len(finite)
    if n == 0:
        return math.nan, math.nan, math.nan, 0
    mean = math.fsum(finite) / n
    if n == 1:
        return mean, math.nan, math.nan, 1
    half = t_quantile(n - 1, level) * math.sqrt(math.fsum((finite - mean) ** 2) / (n - 1) / n)
    return mean, mean - half, mean + half, n


def trend(lengths: Sequence[int], tables: Sequence[Array]) -> Trend:
    """Trend of the mean over seeds and columns.

    ``lengths`` [T] are the rows' lineage lengths; ``tables`` holds one [T, columns] array a seed. Spearman's rho
    is taken on the mean curve, with a permutation p. The slope is the mean of the columns' least-squares slopes
    (equal to the mean curve's slope); its interval comes from resampling columns, or, with several seeds, seeds
    and then columns. The permutation p takes the rows as exchangeable when there is no trend; drift of a single
    ancestor violates that, which only several seeds can show.
    """
    points, seeds, columns = len(lengths), len(tables), sum(table.shape[1] for table in tables)
    if points < LEAST_POINTS or columns == 0:
        return Trend(points, seeds, columns, *[math.nan] * 5)
    curve = np.mean([table.mean(axis=1) for table in tables], axis=0)
    rho, p = rank_correlation(lengths, curve)
    slope, low, high = bootstrap([10 * column_slopes(lengths, table) for table in tables])
    return Trend(points, seeds, columns, rho, p, slope, low, high)


def column_slopes(lengths: Sequence[int], table: Array) -> Array:
    """Least-squares slope of every column [T, n] -> [n], per unit of length."""
    x = np.asarray(lengths, dtype=np.float64)
    x = x - x.mean()
    return np.asarray(np.round(x @ (table - table[:1]) / (x @ x), DECIMALS), dtype=np.float64)


def rank_correlation(lengths: Sequence[int], values: Sequence[float] | Array) -> tuple[float, float]:
    """Spearman's rho and its two-sided permutation p (all orders up to 7 points, else 10,000 fixed random ones).

    Both NaN when the values are constant or fewer than three: there is no correlation to speak of.
    """
    from scipy.stats import rankdata

    rounded = np.round(np.asarray(values, dtype=np.float64), DECIMALS)
    if len(rounded) < LEAST_POINTS or np.all(rounded == rounded[0]):
        return math.nan, math.nan
    x, y = _standard(rankdata(lengths)), _standard(rankdata(rounded))
    rho = float(np.clip(x @ y, -1, 1))
    orders = _orders(len(y))
    extreme = int(np.count_nonzero(np.abs(y[orders] @ x) >= abs(rho) - 1e-9))
    if len(y) <= EXACT_UP_TO:
        return rho, extreme / len(orders)
    return rho, (extreme + 1) / (len(orders) + 1)


def bootstrap(groups: Sequence[Array]) -> tuple[float, float, float]:
    """(mean, low, high) of the mean over groups of each group's mean, by resampling groups, then their members.

    One group (one seed): only its members are resampled. The interval is the expanded percentile interval
    (Hesterberg 2015, "What teachers should know about the bootstrap"): with so few units the plain percentiles
    are too narrow, so their levels are moved out to Phi(-sqrt(n / (n - 1)) t). NaN bounds from a single unit.
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
    """(ratio, low, high) of two means over the same groups and members, resampled together as :func:`bootstrap` does."""
    ratio = float(np.mean([group.mean() for group in tops]) / np.mean([group.mean() for group in bottoms]))
    tail, sizes = _tail(tops), tuple(len(group) for group in tops)
    if math.isnan(tail):
        return ratio, math.nan, math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = _resampled(tops, sizes) / _resampled(bottoms, sizes)
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return ratio, float(low), float(high)


def _tail(groups: Sequence[Array]) -> float:
    """The level at which :func:`bootstrap` cuts its draws; NaN from a single unit."""
    from scipy.special import ndtr

    units = len(groups) if len(groups) > 1 else len(groups[0])
    return float(ndtr(-math.sqrt(units / (units - 1)) * t_quantile(units - 1))) if units > 1 else math.nan


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
def _orders(n: int) -> NDArray[np.int64]:
    """Orders of n things, one a row."""
    if n <= EXACT_UP_TO:
        from itertools import permutations

        return np.array(list(permutations(range(n))), dtype=np.int64)
    import torch

    from evolve.randomness import generator

    keys = torch.rand(RESAMPLES, n, generator=generator(0, "permutation", n), dtype=torch.float64)
    return np.asarray(keys.argsort(dim=1).numpy())


@lru_cache(maxsize=8)
def _draws(sizes: tuple[int, ...]) -> tuple[NDArray[np.int64], Array]:
    """Which groups [RESAMPLES, groups], and a number in [0, 1) for every member drawn from them."""
    import torch

    from evolve.randomness import generator

    made = generator(0, "bootstrap", *sizes)
    groups = len(sizes)
    chosen = torch.randint(groups, (RESAMPLES, groups), generator=made)
    members = torch.rand(RESAMPLES, groups, max(sizes), generator=made, dtype=torch.float64)
    return chosen.numpy(), members.numpy()
