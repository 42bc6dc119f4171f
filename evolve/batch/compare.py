"""What a batch measured: methods side by side, paired with the reference. Pure functions on lineages' records.

The unit is one downstream task of one seed, averaged over the generations (SPEC 8): tasks of one seed share an ancestor, so intervals
resample seeds, then tasks, and a test counts seeds where there are enough of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.batch.file import Batch, Case
from evolve.curves import Generation, Interval, LineageRecord, evolved, gains, pooled_interval
from evolve.trends import Array

SEEDS_FOR_CLUSTERS = 3  # from so many on, a test counts seeds and not tasks
LEVEL = 0.05

Values = Callable[[Generation], Sequence[float]]
METRICS: dict[str, Values] = {
    "accuracy": lambda g: g.inherited.accuracy,
    "gain": gains,
}
Table = Mapping[int, Array]  # lineage length -> [descendants] in points
Measured = Mapping[tuple[str, ...], Mapping[int, Table]]  # pairing -> seed -> table


@dataclass(frozen=True)
class Difference:
    """A method minus the reference, paired, in points. ``p`` is two-sided; ``holm`` the same, corrected for all methods of the metric."""

    interval: Interval
    p: float
    holm: float
    seeds: int  # 1 or 2: the test counts tasks, so it speaks of these ancestors only


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
    measured = {method: _measured([(c, r) for c, r in records if c.method == method], METRICS[metric]) for method in batch.methods}
    there = {method: found for method, found in measured.items() if found}
    reference = batch.reference or next(iter(there), "")
    if metric == "accuracy":
        mine = [(c, r) for c, r in records if c.method == reference]
        controls = {name: _measured(mine, control_values(name)) for name in batch.controls if name not in there}
        there |= {name: found for name, found in controls.items() if found}
    differences = corrected({m: found for m in there if m != reference and (found := difference(there[m], there.get(reference, {})))})
    best = _best(there)
    return [
        Row(method, metric, _pooled(_by_seed(found)), sum(map(len, found.values())), differences.get(method), method == reference, method == best)
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
    return {seed: np.concatenate([np.mean(rows, axis=0) for _, rows in sorted(parts.items())]) for seed, parts in sorted(grouped.items())}


def _pooled(groups: Mapping[int, Array]) -> Interval:
    return pooled_interval(list(groups.values()))


def _paired(one: Measured, other: Measured) -> dict[int, Array]:
    """one - other by seed, over the pairings, seeds and generations that both have."""
    pairs: dict[tuple[str, ...], dict[int, Table]] = defaultdict(dict)
    for pairing in one.keys() & other.keys():
        for seed in one[pairing].keys() & other[pairing].keys():
            a, b = one[pairing][seed], other[pairing][seed]
            if both := {length: a[length] - b[length] for length in a.keys() & b.keys() if len(a[length]) == len(b[length])}:
                pairs[pairing][seed] = both
    return _by_seed(pairs)


def difference(one: Measured, other: Measured) -> Difference | None:
    """The paired difference, not yet corrected; None where nothing pairs."""
    groups = _paired(one, other)
    return Difference(_pooled(groups), p := _p(groups), p, len(groups)) if groups else None


def _p(groups: Mapping[int, Array]) -> float:
    """Two-sided t-test of the paired differences: of the seeds' means from three seeds on, else of the tasks'.

    Three means may lie close together by chance, and then look like a certain effect. Their variance holds that of the tasks they are means
    of, so it is taken to be at least what the tasks' spread within seeds says it is. That can only make p larger. NaN where nothing spreads:
    two or three equal numbers prove nothing.
    """
    from scipy.stats import t, ttest_1samp

    parts = [np.round(part, 9) for part in groups.values()]  # float noise is no effect
    if len(parts) < SEEDS_FOR_CLUSTERS:
        tasks = np.concatenate(parts)
        return float(ttest_1samp(tasks, 0.0).pvalue) if len(set(tasks)) > 1 else _without_spread(tasks)
    means = np.array([part.mean() for part in parts])
    spreads = [part.var(ddof=1) / len(part) for part in parts if len(part) > 1]
    error = math.sqrt(max(float(means.var(ddof=1)), float(np.mean(spreads)) if spreads else 0.0) / len(parts))
    return float(2 * t.sf(abs(means.mean()) / error, len(parts) - 1)) if error > 1e-9 else _without_spread(means)


def _without_spread(values: Array) -> float:
    return 1.0 if len(values) > 1 and not values.any() else math.nan


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the sorted p times the number not yet passed, never falling, at most 1. NaN is left out."""
    finite = [i for i, p in enumerate(ps) if not math.isnan(p)]
    found, highest = list(ps), 0.0
    for rank, i in enumerate(sorted(finite, key=lambda i: ps[i])):
        highest = max(highest, min(1.0, ps[i] * (len(finite) - rank)))
        found[i] = highest
    return found


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same, with Holm's p."""
    ps = holm([d.p for d in differences.values()])
    return {m: Difference(d.interval, d.p, p, d.seeds) for (m, d), p in zip(differences.items(), ps, strict=True)}


def _best(there: Mapping[str, Measured]) -> str | None:
    """The method with the highest mean, if every other one is below it by a corrected test."""
    if len(there) < 2:
        return None
    means = {m: _pooled(_by_seed(found)).mean for m, found in there.items()}
    best = max(means, key=lambda m: means[m])
    found = {m: d for m in there if m != best and (d := difference(there[best], there[m]))}
    beaten = all(d.holm < LEVEL and d.interval.mean > 0 for d in corrected(found).values())
    return best if beaten and len(found) == len(there) - 1 else None
