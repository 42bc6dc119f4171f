"""A family: descendants of several sizes from one learngene, as numbers.

Every case of a batch is one size. Its descendants are compared with the same network from scratch,
after few epochs and after the last. The whole ancestor, cut down to the same depth and width, is
the upper end. Accuracies are in %, differences in points; a value is one downstream task of one
seed, averaged over the generations, as in :mod:`evolve.report.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.report.batch.figure import Pair
from evolve.report.compare import task_means
from evolve.report.curves import Descent, Generation, Interval, evolved, pooled_interval
from evolve.report.paired import Difference, corrected, paired_test
from evolve.report.trends import Array

EPOCHS = (0, 1, 5)  # after which accuracy is asked for, beside the last
BEGINNINGS: dict[str, Callable[[Generation], Descent | None]] = {
    "learngene": lambda g: g.inherited,
    "from-scratch": lambda g: g.scratch,
    "whole ancestor cut down": lambda g: g.full_ancestor,
}
LEARNGENE, SCRATCH, WHOLE = BEGINNINGS
Sizes = Mapping[str, Sequence[Pair]]  # a size's name -> its cases, which differ in their seed


@dataclass(frozen=True)
class Point:
    """One way to begin descendants of one size, after so many epochs.

    Attributes:
        size: the case's name.
        width: the case's ``inherit.width``.
        beginning: one of :data:`BEGINNINGS`.
        parameters: of such a descendant without its head, mean over seeds and generations.
        epoch: 0 is the newborn (nearest class mean of its features).
        accuracy: in %.
        difference: to from-scratch descendants of the same architecture, paired; corrected for the
            number of sizes. None for those themselves, and where there are none.
    """

    size: str
    width: float
    beginning: str
    parameters: float
    epoch: int
    accuracy: Interval
    difference: Difference | None


@dataclass(frozen=True)
class Stored:
    """What is stored for descendants of all sizes together, in parameters without heads.

    Attributes:
        sizes: how many.
        learngene: one learngene, from which all are made; mean over seeds.
        each: all networks, where each size is trained and kept by itself.
    """

    sizes: int
    learngene: float
    each: float

    def __str__(self) -> str:
        share = 100 * self.learngene / self.each if self.each else 0.0
        return (
            f"Stored for all {self.sizes} sizes: one learngene of {short(self.learngene)} "
            f"parameters, against {short(self.each)} where each size is trained and kept by itself "
            f"({share:.0f} %). Heads are left out."
        )


def sizes_of(measured: Sequence[Pair]) -> Sizes:
    """A batch's cases by size, the smallest descendants first."""
    sizes: dict[str, list[Pair]] = {}
    for case, record in measured:
        if any(g.parameters for g in evolved(record)):
            sizes.setdefault(case.name, []).append((case, record))
    return dict(sorted(sizes.items(), key=lambda item: _mean(item[1], "descendant")))


def points(sizes: Sizes) -> list[Point]:
    """Accuracies by size, then epoch, then beginning; none where nothing was measured."""
    result: list[Point] = []
    for epoch in epochs_of(sizes):
        means = {
            (size, name): task_means(pairs, _after(pick, epoch))
            for size, pairs in sizes.items()
            for name, pick in BEGINNINGS.items()
        }
        gaps = {name: _gaps(sizes, means, name) for name in (LEARNGENE, WHOLE)}
        result += [
            Point(
                size,
                sizes[size][0][0].scenario.settings.inherit.width,
                name,
                _mean(sizes[size], "whole" if name == WHOLE else "descendant"),
                epoch,
                pooled_interval(list(by_seed.values())),
                gaps.get(name, {}).get(size),
            )
            for (size, name), by_seed in means.items()
            if by_seed
        ]
    return sorted(result, key=lambda point: list(sizes).index(point.size))


def stored(sizes: Sizes) -> Stored:
    """What is stored for descendants of all sizes."""
    genes = [_mean(pairs, "learngene") for pairs in sizes.values()]
    each = sum(_mean(pairs, "descendant") for pairs in sizes.values())
    return Stored(len(sizes), float(np.mean(genes)) if genes else 0.0, each)


def epochs_of(sizes: Sizes) -> list[int]:
    """Those of :data:`EPOCHS`, and the last, that all lineages were tested after."""
    tested = [
        {*g.inherited.tested, *([0] if g.inherited.newborn else [])}
        for pairs in sizes.values()
        for _, record in pairs
        for g in evolved(record)
    ]
    common = set.intersection(*tested) if tested else set()
    return sorted(common.intersection({*EPOCHS, max(common, default=0)}))


def _after(
    pick: Callable[[Generation], Descent | None], epoch: int
) -> Callable[[Generation], Sequence[float]]:
    """How to read accuracies after an epoch; none where nothing was measured."""

    def values(g: Generation) -> Sequence[float]:
        descent = pick(g)
        if descent is None:
            return ()
        if epoch == 0:
            return descent.newborn
        return [curve[descent.tested.index(epoch)] for curve in descent.curves]

    return values


def _gaps(
    sizes: Sizes, means: Mapping[tuple[str, str], Mapping[int, Array]], name: str
) -> Mapping[str, Difference]:
    """Each size's paired difference to from-scratch descendants of the same architecture."""
    pairs: dict[str, dict[int, Array]] = {}
    for size, cases in sizes.items():
        mine, theirs = means[size, name], means[size, SCRATCH]
        same = name == LEARNGENE or _mean(cases, "whole") == _mean(cases, "descendant")
        if same and (seeds := mine.keys() & theirs.keys()):
            pairs[size] = {seed: mine[seed] - theirs[seed] for seed in sorted(seeds)}
    return corrected({size: paired_test(by_seed) for size, by_seed in pairs.items()})


def _mean(pairs: Sequence[Pair], name: str) -> float:
    """A number of :class:`evolve.report.curves.Parameters`, averaged over seeds and generations."""
    generations = [g for _, record in pairs for g in evolved(record)]
    return float(np.mean([getattr(g.parameters, name) for g in generations if g.parameters]))


def short(number: float) -> str:
    """Parameters as people write them: "912 k", "1.83 M"."""
    return f"{number / 1e6:.3g} M" if number >= 999_500 else f"{number / 1e3:.3g} k"
