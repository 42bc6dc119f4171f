"""Descendants of several sizes from one learngene: accuracy against size, as rows and a table.

SWS, TLEG, LeTs and WAVE, which follow Learngene, report this: one learngene, stored once, begins
descendants of many sizes, each compared with the same network from scratch after few epochs. Every
case of a batch is one size. The whole ancestor, cut down to the same depth and width, is the upper
end. Accuracies are in %, differences in points; a value is one downstream task of one seed,
averaged over the generations, as in :mod:`evolve.report.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.report.compare import points
from evolve.report.curves import (
    Descent,
    Generation,
    Interval,
    LineageRecord,
    Parameters,
    evolved,
    pooled_interval,
)
from evolve.report.paired import Difference, corrected, paired_test
from evolve.report.trends import Array

EPOCHS = (0, 1, 5)  # after which accuracy is asked for, beside the last
BEGINNINGS: dict[str, Callable[[Generation], Descent | None]] = {
    "learngene": lambda g: g.inherited,
    "from-scratch": lambda g: g.scratch,
    "whole ancestor cut down": lambda g: g.full_ancestor,
}
LEARNGENE, SCRATCH, WHOLE = BEGINNINGS


@dataclass(frozen=True)
class Point:
    """One way to begin descendants of one size, after so many epochs.

    Attributes:
        size: the case's name.
        beginning: one of :data:`BEGINNINGS`.
        parameters: of such a descendant without its head, mean over seeds and generations.
        epoch: 0 is the newborn (nearest class mean of its features).
        accuracy: in %.
        difference: to from-scratch descendants of the same size, paired; corrected for the number
            of sizes. None for those themselves, and where the architectures are not the same.
    """

    size: str
    beginning: str
    parameters: float
    epoch: int
    accuracy: Interval
    difference: Difference | None


@dataclass(frozen=True)
class Family:
    """What is stored for descendants of all sizes together, in parameters without heads.

    Attributes:
        sizes: how many.
        learngene: one learngene, from which all are made; mean over seeds.
        each: all networks, where each size is trained and kept by itself.
    """

    sizes: int
    learngene: float
    each: float


def sizes_points(varieties: Mapping[str, Sequence[LineageRecord]]) -> list[Point]:
    """Accuracies by size, beginning and epoch.

    Args:
        varieties: a size's name -> its lineages, which differ in their seed.

    Returns:
        By size, smallest first, then epoch and beginning; none where nothing was measured.
    """
    ordered = sorted(varieties.items(), key=lambda item: _mean(item[1], "descendant"))
    found: list[Point] = []
    for epoch in epochs_of([record for _, records in ordered for record in records]):
        values = {
            (size, name): _by_seed(records, pick, epoch)
            for size, records in ordered
            for name, pick in BEGINNINGS.items()
        }
        gaps = {name: _gaps(ordered, values, name) for name in (LEARNGENE, WHOLE)}
        found += [
            Point(
                size,
                name,
                _mean(records, "whole" if name == WHOLE else "descendant"),
                epoch,
                pooled_interval(list(values[size, name].values())),
                gaps.get(name, {}).get(size),
            )
            for size, records in ordered
            for name in BEGINNINGS
            if values[size, name]
        ]
    place = {size: number for number, (size, _) in enumerate(ordered)}
    return sorted(found, key=lambda point: (place[point.size], point.epoch))


def family(varieties: Mapping[str, Sequence[LineageRecord]]) -> Family:
    """What is stored for descendants of all sizes.

    Args:
        varieties: as :func:`sizes_points` takes them.
    """
    return Family(
        len(varieties),
        float(np.mean([_mean(records, "learngene") for records in varieties.values()])),
        sum(_mean(records, "descendant") for records in varieties.values()),
    )


def epochs_of(records: Sequence[LineageRecord]) -> list[int]:
    """Those of :data:`EPOCHS` and the last that all lineages were tested after."""
    tested = [
        {0, *g.inherited.tested} if g.inherited.newborn else set(g.inherited.tested)
        for record in records
        for g in evolved(record)
    ]
    common = set.intersection(*tested) if tested else set()
    return sorted(common.intersection({*EPOCHS, max(common, default=0)}))


def _by_seed(
    records: Sequence[LineageRecord], pick: Callable[[Generation], Descent | None], epoch: int
) -> dict[int, Array]:
    """Seed -> every downstream task's mean over the generations, in %."""

    def values(g: Generation) -> Sequence[float]:
        descent = pick(g)
        if descent is None:
            return ()
        if epoch == 0:
            return descent.newborn
        return [curve[descent.tested.index(epoch)] for curve in descent.curves]

    tables = {record.seed: points(evolved(record), values) for record in records}
    return {seed: np.mean(list(table.values()), axis=0) for seed, table in tables.items() if table}


def _gaps(
    ordered: Sequence[tuple[str, Sequence[LineageRecord]]],
    values: Mapping[tuple[str, str], Mapping[int, Array]],
    name: str,
) -> Mapping[str, Difference]:
    """Each size's paired difference to from-scratch descendants of the same architecture."""
    pairs: dict[str, dict[int, Array]] = {}
    for size, records in ordered:
        mine, theirs = values[size, name], values[size, SCRATCH]
        same = name == LEARNGENE or _mean(records, "whole") == _mean(records, "descendant")
        if same and (seeds := mine.keys() & theirs.keys()):
            pairs[size] = {seed: mine[seed] - theirs[seed] for seed in sorted(seeds)}
    return corrected({size: paired_test(by_seed) for size, by_seed in pairs.items()})


def _mean(records: Sequence[LineageRecord], name: str) -> float:
    """A field of :class:`Parameters`, averaged over seeds and generations."""
    held: list[Parameters] = [
        g.parameters for record in records for g in evolved(record) if g.parameters
    ]
    return float(np.mean([getattr(p, name) for p in held])) if held else 0.0


def family_sentence(stored: Family) -> str:
    """What the family costs to store, in words."""
    share = 100 * stored.learngene / stored.each if stored.each else 0.0
    return (
        f"Stored for all {stored.sizes} sizes: one learngene of {short(stored.learngene)} "
        f"parameters, against {short(stored.each)} where each size is trained and kept by itself "
        f"({share:.0f} %). Heads are left out."
    )


def short(number: float) -> str:
    """Parameters as people write them: "912 k", "1.83 M"."""
    return f"{number / 1e6:.3g} M" if number >= 999_500 else f"{number / 1e3:.3g} k"
