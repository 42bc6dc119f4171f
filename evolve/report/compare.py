"""What a batch measured: methods side by side, paired with the reference. Pure functions on lineages' records.

The unit is one downstream task of one seed, averaged over the generations: tasks of one seed share an ancestor, so intervals
of means resample seeds, then tasks, and a test counts seeds where there are enough of them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolve.core.settings import SPARSE, Scenario
from evolve.report.curves import (
    Generation,
    Interval,
    LineageRecord,
    evolved,
    gains,
    pooled_interval,
)
from evolve.report.serial import LEVEL
from evolve.report.trends import SEEDS_AS_UNITS, Array, t_found, t_quantile

ALPHA = 1 - LEVEL
NO_SPREAD = 1e-9  # points

Values = Callable[[Generation], Sequence[float]]
METRICS: dict[str, Values] = {
    "accuracy": lambda g: g.inherited.accuracy,
    "gain": gains,
}
Table = Mapping[int, Array]  # lineage length -> [descendants] in points
Measured = Mapping[tuple[str, ...], Mapping[int, Table]]  # pairing -> seed -> table


@dataclass(frozen=True)
class Difference:
    """A method minus the reference, paired, in points. ``p`` is two-sided; ``holm`` the same,
    corrected for all methods of the metric.

    ``interval`` is the deciding t-test's own, taken at the level at which Holm's procedure tests
    this difference (at least 95 %), so it excludes 0 exactly where ``holm`` is below ALPHA.
    ``resolvable``: the difference that would have been found 8 times in 10.
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
    """What the t-test of one paired difference needs, before any correction: mean, standard error
    (0: nothing spreads), its degrees of freedom, and how many tasks and seeds it rests on.
    """

    mean: float
    error: float
    freedom: int
    tasks: int
    seeds: int

    @property
    def p(self) -> float:
        """Two-sided. NaN where nothing spreads: two or three equal numbers prove nothing; 1 where
        they are all 0.
        """
        from scipy.stats import t

        if self.freedom < 1:
            return math.nan
        if self.error <= NO_SPREAD:
            return 1.0 if abs(self.mean) <= NO_SPREAD else math.nan
        return float(2 * t.sf(abs(self.mean) / self.error, self.freedom))

    def interval(self, alpha: float) -> Interval:
        """At level 1 - ``alpha``; without bounds where p says nothing."""
        half = self._half(alpha)
        return Interval(self.mean, self.mean - half, self.mean + half, self.tasks)

    def resolvable(self, alpha: float) -> float:
        """The difference in points that a test at ``alpha`` finds in 8 of 10 repetitions with this
        error; NaN where nothing spreads.
        """
        spread = self.freedom > 0 and self.error > NO_SPREAD
        return self._half(alpha) * t_found(self.freedom, 1 - alpha) if spread else math.nan

    def _half(self, alpha: float) -> float:
        return math.nan if math.isnan(self.p) else self.error * t_quantile(self.freedom, 1 - alpha)


@dataclass(frozen=True)
class Row:
    """One method. ``difference`` is None for the reference, and where nothing pairs. ``best``: shown to beat every other method."""

    method: str
    metric: str
    interval: Interval
    lineages: int
    difference: Difference | None
    is_reference: bool = False
    best: bool = False


def compare(batch: Batch, records: Sequence[tuple[Case, LineageRecord]], metric: str) -> list[Row]:
    """A row for every method that has measured anything, in the batch's order, and for the controls of the reference's lineages."""
    measured = {
        method: _measured([(c, r) for c, r in records if c.method == method], METRICS[metric])
        for method in batch.methods
    }
    there = {method: found for method, found in measured.items() if found}
    reference = batch.reference or next(iter(there), "")
    if metric == "accuracy":
        mine = [(c, r) for c, r in records if c.method == reference]
        controls = {
            name: _measured(mine, control_values(name))
            for name in batch.controls
            if name not in there
        }
        there |= {name: found for name, found in controls.items() if found}
    differences = against(there, reference)
    best = _best(there)
    return [
        Row(
            method,
            metric,
            _pooled(_by_seed(found)),
            sum(map(len, found.values())),
            differences.get(method),
            method == reference,
            method == best,
        )
        for method, found in there.items()
    ]


def control_values(name: str) -> Values:
    """A control's accuracies; none at generations without it."""
    field = "scratch" if name == "from-scratch" else name.replace("-", "_")

    def values(g: Generation) -> Sequence[float]:
        descent = getattr(g, field)
        return descent.accuracy if descent is not None else ()

    return values


def points(generations: Iterable[Generation], values: Values) -> Table:
    """The values in points; generations that lack them (a control that runs every n), or diverged, are left out, and so are pairs with them."""
    rows = {g.lineage: 100 * np.array(values(g), dtype=np.float64) for g in generations}
    return {length: row for length, row in rows.items() if row.size and np.isfinite(row).all()}


def _measured(records: Iterable[tuple[Case, LineageRecord]], values: Values) -> Measured:
    found: dict[tuple[str, ...], dict[int, Table]] = defaultdict(dict)
    for case, record in records:
        if kept := points(evolved(record), values):
            found[case.pairing][case.seed] = kept
    return dict(found)


def _by_seed(found: Mapping[tuple[str, ...], Mapping[int, Table]]) -> dict[int, Array]:
    """Every downstream task's mean over the generations and the pairings: task i of a seed is the same in all of them, so they are no further
    tasks. Pairings with other numbers of tasks stand side by side.
    """
    grouped: dict[int, dict[int, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for _, seeds in sorted(found.items()):
        for seed, table in seeds.items():
            row = np.mean(list(table.values()), axis=0)
            grouped[seed][len(row)].append(row)
    return {
        seed: np.concatenate([np.mean(rows, axis=0) for _, rows in sorted(parts.items())])
        for seed, parts in sorted(grouped.items())
    }


def _pooled(groups: Mapping[int, Array]) -> Interval:
    return pooled_interval(list(groups.values()))


def _paired(one: Measured, other: Measured) -> dict[int, Array]:
    """one - other by seed, over the pairings, seeds and generations that both have."""
    pairs: dict[tuple[str, ...], dict[int, Table]] = defaultdict(dict)
    for pairing in one.keys() & other.keys():
        for seed in one[pairing].keys() & other[pairing].keys():
            a, b = one[pairing][seed], other[pairing][seed]
            if both := {
                length: a[length] - b[length]
                for length in a.keys() & b.keys()
                if len(a[length]) == len(b[length])
            }:
                pairs[pairing][seed] = both
    return _by_seed(pairs)


def against(there: Mapping[str, Measured], reference: str) -> dict[str, Difference]:
    """Every other method minus the reference, corrected for their number; without those that do not
    pair.
    """
    groups = {m: _paired(there[m], there.get(reference, {})) for m in there if m != reference}
    return corrected({m: paired_test(found) for m, found in groups.items() if found})


def paired_test(groups: Mapping[int, Array]) -> Paired:
    """t-test of the paired differences, an array of tasks a seed: of the seeds' means from
    SEEDS_AS_UNITS seeds on, else of the tasks'.

    Three means may lie close together by chance, and then look like a certain effect. Their
    variance holds that of the tasks they are means of, so it is taken to be at least what the
    tasks' spread within seeds says it is. That can only make p larger.
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
    """Holm's step-down correction (1979): the sorted p times the number not yet passed, never falling, at most 1. NaN is left out."""
    finite = [i for i, p in enumerate(ps) if not math.isnan(p)]
    found, highest = list(ps), 0.0
    for rank, i in enumerate(sorted(finite, key=lambda i: ps[i])):
        highest = max(highest, min(1.0, ps[i] * (len(finite) - rank)))
        found[i] = highest
    return found


def corrected(tests: Mapping[str, Paired]) -> dict[str, Difference]:
    """Holm's p, and every interval at the level of Holm's own step: ALPHA over the number of tests
    not yet passed; for those that do not pass, over the number left where the procedure stopped.
    What would have been found is told at the first, hardest step.
    """
    ps = holm([test.p for test in tests.values()])
    count = sum(not math.isnan(test.p) for test in tests.values())
    held = dict(zip(tests, ps, strict=True))
    order = sorted((m for m, p in held.items() if p < ALPHA), key=lambda m: tests[m].p)
    passed = {m: ALPHA / (count - rank) for rank, m in enumerate(order)}
    stopped, first = ALPHA / max(1, count - len(passed)), ALPHA / max(1, count)
    found = {}
    for m, test in tests.items():
        interval = test.interval(passed.get(m, stopped))
        found[m] = Difference(interval, test.p, held[m], test.seeds, test.resolvable(first))
    return found


def _best(there: Mapping[str, Measured]) -> str | None:
    """The method with the highest mean, if every other one is below it by a corrected test."""
    if len(there) < 2:
        return None
    means = {m: _pooled(_by_seed(found)).mean for m, found in there.items()}
    best = max(means, key=lambda m: means[m])
    found = against(there, best)
    return (
        best if len(found) == len(there) - 1 and all(d.side < 0 for d in found.values()) else None
    )


def power(rows: Sequence[Row]) -> float:
    """The difference to the reference, in points, that the table would have found 8 times in 10:
    the median over its methods, at the correction in force. NaN without any test.
    """
    sizes = [row.difference.resolvable for row in rows if row.difference]
    tested = [size for size in sizes if math.isfinite(size)]
    return float(np.median(tested)) if tested else math.nan


CONTROLS = ("from-scratch", *SPARSE)


@dataclass(frozen=True)
class Case:
    """One lineage of the grid.

    ``values``: what sets it apart, by axis; ``method``: which row of the table it belongs to; ``pairing``: the values of the other axes:
    cases that agree in them and in the seed differ in nothing but the method.
    """

    name: str
    seed: int
    method: str
    pairing: tuple[str, ...]
    values: Mapping[str, Any]
    scenario: Scenario

    @property
    def folder(self) -> str:
        """Its run's folder, inside the batch's."""
        return f"{slug(self.name)}-seed{self.seed}"


@dataclass(frozen=True)
class Batch:
    """A whole batch. ``reference``: the method that the others are compared with; "" for the first. ``controls``: rows of the table too."""

    name: str
    title: str
    profile: str
    origin: str
    method: str
    reference: str
    cases: tuple[Case, ...]
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    controls: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method once, in the file's order."""
        return tuple(dict.fromkeys(case.method for case in self.cases))


def slug(name: str) -> str:
    """A name as a folder's; a long one ends in its hash, since file systems allow some 255 bytes."""
    made = re.sub(r"[^\w.]+", "-", name).strip("-.") or "case"
    return (
        made if len(made) <= 60 else f"{made[:50]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )
