"""What a batch measured: methods side by side, paired with the reference. Pure functions.

The unit is one downstream task of one seed, averaged over the generations. Tasks of one seed share
an ancestor. So intervals of means resample seeds, then tasks, and a test counts seeds where there
are enough of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evolve.core.settings import SPARSE, Scenario
from evolve.core.words import slug
from evolve.report.curves import (
    NAMES,
    Generation,
    Interval,
    LineageRecord,
    aligned,
    evolved,
    gains,
    pooled_interval,
)
from evolve.report.paired import Difference, corrected, paired_test
from evolve.report.trends import Array

Values = Callable[[Generation], Sequence[float]]
METRICS: dict[str, Values] = {
    "accuracy": lambda g: g.inherited.accuracy,
    "gain": gains,
}
Table = Mapping[int, Array]  # lineage length -> [descendants] in points
Measured = Mapping[tuple[str, ...], Mapping[int, Table]]  # pairing -> seed -> table


@dataclass(frozen=True)
class Row:
    """One method's row.

    Attributes:
        interval: of the method's mean.
        lineages: how many it rests on.
        difference: None for the reference, and where nothing pairs.
        best: shown to beat every other method.
    """

    method: str
    metric: str
    interval: Interval
    lineages: int
    difference: Difference | None
    is_reference: bool = False
    best: bool = False


def compare(batch: Batch, records: Sequence[tuple[Case, LineageRecord]], metric: str) -> list[Row]:
    """Compare a batch's methods by one metric.

    Args:
        batch: the batch.
        records: cases with what they measured.
        metric: a key of METRICS.

    Returns:
        A row for every method that has measured anything, in the batch's order. By accuracy also
        one for each control of the reference's lineages.
    """
    measured = {
        method: _measured([(c, r) for c, r in records if c.method == method], METRICS[metric])
        for method in batch.methods
    }
    there = {method: table for method, table in measured.items() if table}
    reference = batch.reference or next(iter(there), "")
    if metric == "accuracy":
        mine = [(c, r) for c, r in records if c.method == reference]
        controls = {
            control_name(name): _measured(mine, control_values(name))
            for name in batch.controls
            if name not in there
        }
        there |= {name: table for name, table in controls.items() if table}
    differences = against(there, reference)
    best = _best(there)
    return [
        Row(
            method,
            metric,
            _pooled(_by_seed(table)),
            sum(map(len, table.values())),
            differences.get(method),
            method == reference,
            method == best,
        )
        for method, table in there.items()
    ]


def control_name(name: str) -> str:
    """What reports call a control.

    Args:
        name: of CONTROLS.
    """
    return NAMES.get(name.replace("-", "_"), name)


def control_values(name: str) -> Values:
    """How to read a control's accuracies.

    Args:
        name: of CONTROLS.

    Returns:
        A function of a generation; it gives none where the generation is without the control.
    """
    field = "scratch" if name == "from-scratch" else name.replace("-", "_")

    def values(g: Generation) -> Sequence[float]:
        descent = getattr(g, field)
        return descent.accuracy if descent is not None else ()

    return values


def points(generations: Iterable[Generation], values: Values) -> Table:
    """The values in points, by lineage length.

    Generations are left out that lack them (a control that runs at every n-th length) or diverged,
    and with them their pairs.

    Args:
        generations: of one lineage.
        values: reads one generation's, as fractions.

    Returns:
        Lineage length -> [descendants].
    """
    rows = {g.lineage: 100 * np.array(values(g), dtype=np.float64) for g in generations}
    return {length: row for length, row in rows.items() if row.size and np.isfinite(row).all()}


def pooled(records: Sequence[LineageRecord], values: Values) -> dict[int, Interval]:
    """The mean at every lineage length that all lineages have measured, finite everywhere.

    Its 95 % interval is Student's over the tasks of one seed; of several, seeds are resampled, then
    tasks.

    Args:
        records: lineages that differ in their seed.
        values: reads one generation's, as fractions.

    Returns:
        Lineage length -> interval in points.
    """
    rows = aligned([points(record.generations, values) for record in records])
    return {length: pooled_interval(seeds) for length, seeds in rows.items()}


def _measured(records: Iterable[tuple[Case, LineageRecord]], values: Values) -> Measured:
    tables: dict[tuple[str, ...], dict[int, Table]] = defaultdict(dict)
    for case, record in records:
        if table := points(evolved(record), values):
            tables[case.pairing][case.seed] = table
    return dict(tables)


def _by_seed(tables: Mapping[tuple[str, ...], Mapping[int, Table]]) -> dict[int, Array]:
    """Every downstream task's mean over the generations and the pairings, by seed.

    Task i of a seed is the same in all pairings, so they are no further tasks. Pairings with other
    numbers of tasks stand side by side.
    """
    grouped: dict[int, dict[int, list[Array]]] = defaultdict(lambda: defaultdict(list))
    for _, seeds in sorted(tables.items()):
        for seed, table in seeds.items():
            row = np.mean(list(table.values()), axis=0)
            grouped[seed][len(row)].append(row)
    return {
        seed: np.concatenate([np.mean(rows, axis=0) for _, rows in sorted(parts.items())])
        for seed, parts in sorted(grouped.items())
    }


def task_means(records: Iterable[tuple[Case, LineageRecord]], values: Values) -> dict[int, Array]:
    """Every downstream task's mean over the generations and the pairings.

    Args:
        records: cases of one method with what they measured.
        values: reads one generation's, as fractions.

    Returns:
        Seed -> [tasks] in points; only seeds that have any.
    """
    return _by_seed(_measured(records, values))


def _pooled(groups: Mapping[int, Array]) -> Interval:
    return pooled_interval(list(groups.values()))


def _paired(mine: Measured, theirs: Measured) -> dict[int, Array]:
    """one - other by seed, over the pairings, seeds and generations that both have."""
    pairs: dict[tuple[str, ...], dict[int, Table]] = defaultdict(dict)
    for pairing in mine.keys() & theirs.keys():
        for seed in mine[pairing].keys() & theirs[pairing].keys():
            a, b = mine[pairing][seed], theirs[pairing][seed]
            if both := {
                length: a[length] - b[length]
                for length in a.keys() & b.keys()
                if len(a[length]) == len(b[length])
            }:
                pairs[pairing][seed] = both
    return _by_seed(pairs)


def against(there: Mapping[str, Measured], reference: str) -> dict[str, Difference]:
    """Every other method minus the reference, corrected for their number.

    Args:
        there: what each method measured.
        reference: one of them.

    Returns:
        The differences by method, without those that do not pair.
    """
    groups = {m: _paired(there[m], there.get(reference, {})) for m in there if m != reference}
    return corrected({m: paired_test(pairs) for m, pairs in groups.items() if pairs})


def _best(there: Mapping[str, Measured]) -> str | None:
    """The method with the highest mean, if every other one is below it by a corrected test."""
    if len(there) < 2:
        return None
    means = {m: _pooled(_by_seed(differences)).mean for m, differences in there.items()}
    best = max(means, key=lambda m: means[m])
    differences = against(there, best)
    return (
        best
        if len(differences) == len(there) - 1 and all(d.side < 0 for d in differences.values())
        else None
    )


def power(rows: Sequence[Row]) -> float:
    """The difference to the reference that the table would find 8 times in 10, in points.

    Args:
        rows: of one metric's table.

    Returns:
        The median over its methods, at the correction in force; NaN without any test.
    """
    sizes = [row.difference.resolvable for row in rows if row.difference]
    tested = [size for size in sizes if math.isfinite(size)]
    return float(np.median(tested)) if tested else math.nan


CONTROLS = ("from-scratch", *SPARSE)


@dataclass(frozen=True)
class Case:
    """One lineage of the grid.

    Attributes:
        method: which row of the table it belongs to.
        pairing: the values of the other axes. Cases that agree in them and in the seed differ in
            nothing but the method.
        values: what sets it apart, by axis.
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
    """A whole batch.

    Attributes:
        origin: the file it was read from.
        method: the axis that is compared.
        reference: the method that the others are compared with; "" for the first.
        axes: axis -> its values.
        controls: rows of the table, too.
        figure: the picture that it ends in; "" for none.
    """

    name: str
    title: str
    profile: str
    origin: str
    method: str
    reference: str
    cases: tuple[Case, ...]
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    figure: str = ""

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method once, in the file's order."""
        return tuple(dict.fromkeys(case.method for case in self.cases))
