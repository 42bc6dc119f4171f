"""t-tests of paired differences, corrected for their number by Holm's procedure.

Pure functions on plain arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.report.curves import Interval
from evolve.report.serial import LEVEL
from evolve.report.trends import SEEDS_AS_UNITS, Array, t_found, t_quantile

ALPHA = 1 - LEVEL
NO_SPREAD = 1e-9  # points


@dataclass(frozen=True)
class Difference:
    """A method minus the reference, paired, in points.

    Attributes:
        interval: the deciding t-test's own, at the level at which Holm's procedure tests this
            difference (at least 95 %). So it excludes 0 exactly where ``holm`` is below ALPHA.
        p: two-sided.
        holm: the same, corrected for all methods of the metric.
        seeds: how many pair; with 1 or 2 the test counts tasks, so it speaks of these ancestors
            only.
        resolvable: the difference that the test would find 8 times in 10.
    """

    interval: Interval
    p: float
    holm: float
    seeds: int  # 1 or 2: the test counts tasks, so it speaks of these ancestors only
    resolvable: float

    @property
    def side(self) -> int:
        """1: shown to be above the reference, -1: below, 0: not shown to differ."""
        return int(math.copysign(1, self.interval.mean)) if self.holm < ALPHA else 0


@dataclass(frozen=True)
class Paired:
    """What the t-test of one paired difference needs, before any correction.

    Attributes:
        mean: in points.
        error: the mean's standard error in points; 0: nothing spreads.
        freedom: degrees of freedom.
        tasks: how many it rests on.
        seeds: how many it rests on.
    """

    mean: float
    error: float
    freedom: int
    tasks: int
    seeds: int

    @property
    def p(self) -> float:
        """The two-sided p.

        1 where all differences are 0. NaN where nothing else spreads: two or three equal numbers
        prove nothing.
        """
        from scipy.stats import t

        if self.freedom < 1:
            return math.nan
        if self.error <= NO_SPREAD:
            return 1.0 if abs(self.mean) <= NO_SPREAD else math.nan
        return float(2 * t.sf(abs(self.mean) / self.error, self.freedom))

    def interval(self, alpha: float) -> Interval:
        """The difference with its bounds.

        Args:
            alpha: the interval's level is 1 - ``alpha``.

        Returns:
            In points; without bounds where p says nothing.
        """
        half = self._half(alpha)
        return Interval(self.mean, self.mean - half, self.mean + half, self.tasks)

    def resolvable(self, alpha: float) -> float:
        """The difference that a test finds in 8 of 10 repetitions.

        Args:
            alpha: at which is tested.

        Returns:
            In points; NaN where nothing spreads.
        """
        spread = self.freedom > 0 and self.error > NO_SPREAD
        return self._half(alpha) * t_found(self.freedom, 1 - alpha) if spread else math.nan

    def _half(self, alpha: float) -> float:
        return math.nan if math.isnan(self.p) else self.error * t_quantile(self.freedom, 1 - alpha)


def paired_test(groups: Mapping[int, Array]) -> Paired:
    """The t-test of paired differences.

    From SEEDS_AS_UNITS seeds on it counts the seeds' means, else the tasks. Three means may lie
    close together by chance, and then look like a certain effect. Their variance holds that of the
    tasks they are means of, so it is taken to be at least what the tasks' spread within seeds says
    it is. That can only make p larger.

    Args:
        groups: seed -> differences in points, [tasks].
    """
    parts = [np.round(part, 9) for part in groups.values()]  # float noise is no effect
    tasks = sum(map(len, parts))
    if len(parts) < SEEDS_AS_UNITS:
        values = np.concatenate(parts)
        error = float(values.std(ddof=1)) / math.sqrt(tasks) if tasks > 1 else 0.0
        return Paired(float(values.mean()), error, tasks - 1, tasks, len(parts))
    means = np.array([part.mean() for part in parts])
    spreads = [part.var(ddof=1) / len(part) for part in parts if len(part) > 1]
    error = math.sqrt(
        max(float(means.var(ddof=1)), float(np.mean(spreads)) if spreads else 0.0) / len(parts)
    )
    return Paired(float(means.mean()), error, len(parts) - 1, tasks, len(parts))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979).

    Args:
        ps: uncorrected; NaN is left out.

    Returns:
        In the same order: the sorted p times the number not yet passed, never falling, at most 1.
    """
    finite = [i for i, p in enumerate(ps) if not math.isnan(p)]
    adjusted, highest = list(ps), 0.0
    for rank, i in enumerate(sorted(finite, key=lambda i: ps[i])):
        highest = max(highest, min(1.0, ps[i] * (len(finite) - rank)))
        adjusted[i] = highest
    return adjusted


def corrected(tests: Mapping[str, Paired]) -> dict[str, Difference]:
    """Correct the tests of one metric by Holm's procedure.

    Every interval stands at the level of Holm's own step: ALPHA over the number of tests not yet
    passed. Those that do not pass stand at ALPHA over the number left where the procedure stopped.
    What could be resolved is told at the first, hardest step.

    Args:
        tests: by method.

    Returns:
        The differences by method, in points.
    """
    ps = holm([test.p for test in tests.values()])
    count = sum(not math.isnan(test.p) for test in tests.values())
    held = dict(zip(tests, ps, strict=True))
    order = sorted((m for m, p in held.items() if p < ALPHA), key=lambda m: tests[m].p)
    passed = {m: ALPHA / (count - rank) for rank, m in enumerate(order)}
    stopped, first = ALPHA / max(1, count - len(passed)), ALPHA / max(1, count)
    differences = {}
    for m, test in tests.items():
        interval = test.interval(passed.get(m, stopped))
        differences[m] = Difference(interval, test.p, held[m], test.seeds, test.resolvable(first))
    return differences
