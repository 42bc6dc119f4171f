"""The economy of the gene: how much of the whole ancestor's gain a learngene carries.

Beside it stands how little of the weights that takes. The whole ancestor, fine-tuned, is the
positive control: what could have been inherited at most. Its gain is over its own architecture from
scratch, a learngene's over the descendant's architecture from scratch. Both are paired by
downstream task. Gains are percentage points, shares are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.report.curves import (
    Descent,
    Generation,
    Interval,
    LineageRecord,
    differences,
    evolved,
    pooled_interval,
)
from evolve.report.trends import Array, ratio_interval, side

DECIMALS = 1  # of a gain in points, as it is printed here
ROUNDING = 1e-9  # two means of the same accuracies may differ by less


@dataclass(frozen=True)
class Economy:
    """One lineage length of pooled seeds, or the mean over all trained lengths measured.

    Attributes:
        lineage: the length; None: the mean.
        weights: share of the ancestor's weights that is inherited.
        gain: the learngene's, points over from-scratch.
        whole: the whole ancestor's, points over from-scratch.
        share: gain / whole; its bounds are NaN where whole is not above 0, when a share means
            nothing.
    """

    lineage: int | None
    weights: float
    gain: Interval
    whole: Interval
    share: Interval

    @property
    def decided(self) -> bool:
        """Whether the positive control is there: whole's gain lies above 0, as printed."""
        return above(self.whole) > 0


@dataclass(frozen=True)
class Learning:
    """How fast descendants learn: means over descendants, trained lengths and seeds.

    Accuracies are in %; NaN where nothing was measured.

    Attributes:
        newborn: accuracy before any training (nearest class mean).
        newborn_scratch: the same, from scratch.
        newborn_whole: the same, of the whole ancestor.
        area: mean height of the learning curve between the first and the last tested epoch.
        area_scratch: the same, from scratch.
        epochs: the first tested epoch at which the inherited reach the from-scratch's final
            accuracy, mean over the generations in which they do.
        epochs_scratch: the same of the from-scratch, in those generations.
        reached: in how many generations they do.
        asked: of how many.
    """

    newborn: float
    newborn_scratch: float
    newborn_whole: float
    area: float
    area_scratch: float
    epochs: float
    epochs_scratch: float
    reached: int
    asked: int


def above(interval: Interval) -> int:
    """On which side of 0 an interval lies, as it is printed here.

    Args:
        interval: in points.

    Returns:
        1 above, -1 below, else 0 (also without bounds).
    """
    return 0 if math.isnan(interval.low) else side(interval.low, interval.high, DECIMALS)


def whole_gains(g: Generation) -> tuple[float, ...]:
    """The whole ancestor minus its own architecture from scratch, by descendant.

    Args:
        g: the generation.

    Returns:
        Fractions; empty without these controls.
    """
    return (
        differences(g.full_ancestor, g.full_scratch) if g.full_ancestor and g.full_scratch else ()
    )


def economies(records: Sequence[LineageRecord]) -> tuple[Economy, ...]:
    """One economy for every trained lineage length that has all it needs.

    Args:
        records: lineages of one scenario that differ in their seed.

    Returns:
        By length; only lengths that all seeds have measured with all controls.
    """
    complete = [{g.lineage: g for g in evolved(record) if _complete(g)} for record in records]
    common = sorted(set.intersection(*map(set, complete))) if complete else []
    return tuple(_economy(length, [[seed[length]] for seed in complete]) for length in common)


def economy(records: Sequence[LineageRecord]) -> Economy | None:
    """The mean over the lengths of :func:`economies`.

    Args:
        records: lineages of one scenario that differ in their seed.

    Returns:
        None where there are no such lengths.
    """
    lengths = {point.lineage for point in economies(records)}
    return (
        _economy(None, [[g for g in evolved(r) if g.lineage in lengths] for r in records])
        if lengths
        else None
    )


def learning(records: Sequence[LineageRecord]) -> Learning:
    """How fast descendants learn, over all trained generations of the records."""
    generations = [g for record in records for g in evolved(record)]

    def mean(
        pick: Callable[[Generation], Descent | None], value: Callable[[Descent], float]
    ) -> float:
        values = [value(descent) for g in generations if (descent := pick(g)) is not None]
        return 100 * float(np.mean(values)) if values else math.nan

    def newborn(descent: Descent) -> float:
        return float(np.mean(descent.newborn)) if descent.newborn else math.nan

    controlled = [
        (g.inherited, g.scratch) for g in generations if g.scratch and len(g.scratch.tested) > 1
    ]
    pairs = [(_epochs_to(own, other), _epochs_to(other, other)) for own, other in controlled]
    reached = [pair for pair in pairs if math.isfinite(pair[0])]
    return Learning(
        newborn=mean(lambda g: g.inherited, newborn),
        newborn_scratch=mean(lambda g: g.scratch, newborn),
        newborn_whole=mean(lambda g: g.full_ancestor, newborn)
        if all(g.full_ancestor for g in generations)
        else math.nan,
        area=mean(lambda g: g.inherited, area),
        area_scratch=mean(lambda g: g.scratch, area),
        epochs=float(np.mean([own for own, _ in reached])) if reached else math.nan,
        epochs_scratch=float(np.mean([other for _, other in reached])) if reached else math.nan,
        reached=len(reached),
        asked=len(pairs),
    )


def area(descent: Descent) -> float:
    """Mean height of the learning curve between its first and last tested epoch.

    Args:
        descent: one method's descendants.

    Returns:
        A fraction; NaN from fewer than two tests.
    """
    heights = areas(descent)
    return float(np.mean(heights)) if heights else math.nan


def areas(descent: Descent) -> tuple[float, ...]:
    """Every descendant's area under its learning curve, by the trapezoid rule.

    Args:
        descent: one method's descendants.

    Returns:
        Fractions, divided by the span between the first and the last tested epoch; none from fewer
        than two tests.
    """
    if len(descent.tested) < 2:
        return ()
    curves, spans = np.array(descent.curves), np.diff(descent.tested)
    heights = (spans * (curves[:, 1:] + curves[:, :-1]) / 2).sum(axis=1) / spans.sum()
    return tuple(map(float, heights))


def _epochs_to(descent: Descent, goal: Descent) -> float:
    """The first tested epoch at which the mean accuracy reaches ``goal``'s final one.

    NaN if none does.
    """
    curve, wanted = np.mean(np.array(descent.curves), axis=0), np.mean(goal.accuracy) - ROUNDING
    return next(
        (
            float(epoch)
            for epoch, height in zip(descent.tested, curve, strict=True)
            if height >= wanted
        ),
        math.nan,
    )


def _complete(g: Generation) -> bool:
    return (
        g.share is not None
        and g.scratch is not None
        and bool(whole_gains(g))
        and bool(np.isfinite([*g.inherited.accuracy, *whole_gains(g)]).all())
    )


def _economy(lineage: int | None, seeds: Sequence[Sequence[Generation]]) -> Economy:
    gain = [
        _mean_by_task([differences(g.inherited, g.scratch) for g in generations if g.scratch])
        for generations in seeds
    ]
    whole = [_mean_by_task([whole_gains(g) for g in generations]) for generations in seeds]
    held, pairs = pooled_interval(whole), sum(map(len, whole))
    share = (
        Interval(*ratio_interval(gain, whole), pairs)
        if above(held) > 0
        else Interval(math.nan, math.nan, math.nan, 0)
    )
    return Economy(
        lineage=lineage,
        weights=float(
            np.mean([g.share for generations in seeds for g in generations if g.share is not None])
        ),
        gain=pooled_interval(gain),
        whole=held,
        share=share,
    )


def _mean_by_task(rows: Sequence[Sequence[float]]) -> Array:
    return 100 * np.mean(np.array(rows, dtype=np.float64), axis=0)


def economy_sentence(point: Economy | None) -> str:
    """What the learngene promises, as one line.

    An example: "12 % of the weights carry 71 % of the whole ancestor's gain".

    Args:
        point: the economy; None: nothing was measured, and the line is empty.
    """
    if point is None:
        return ""
    if not point.decided:
        return _undecided(point)
    weights, whole, gain = _in_words(point)
    if above(point.gain) < 0:
        return (
            f"The ancestor has what is wanted (the whole one gains {whole}), "
            f"the learngene harms ({weights}, {gain})."
        )
    if above(point.gain) == 0:
        return (
            f"The ancestor has what is wanted (the whole one gains {whole}), "
            f"the learngene is not shown to carry any of it ({weights}, {gain})."
        )
    s = point.share
    return (
        f"{weights} carry {100 * s.mean:.0f} % [{100 * s.low:.0f}, {100 * s.high:.0f}] "
        f"of the whole ancestor's gain ({gain} of {whole})."
    )


def _in_words(point: Economy) -> tuple[str, str, str]:
    """Weights, the whole ancestor's gain and the learngene's."""
    share = f"{100 * point.weights:.0f} % of the weights"
    return share, _points(point.whole), _points(point.gain)


def _undecided(point: Economy) -> str:
    """Why no share is named: the positive control is not there."""
    weights, whole, gain = _in_words(point)
    if math.isnan(point.whole.low):
        return (
            f"The learngene ({weights}) gains {gain}, the whole ancestor {whole}: "
            "one task gives no interval, so no share is named."
        )
    if above(point.whole) < 0:
        return (
            f"The whole ancestor harms ({whole}): there was nothing to inherit, "
            f"so this says nothing of the learngene ({gain})."
        )
    return (
        f"Not even the whole ancestor is shown to gain ({whole}), "
        f"so there is nothing that the learngene ({gain}) could carry a share of."
    )


def _points(interval: Interval) -> str:
    bounds = "" if math.isnan(interval.low) else f" [{interval.low:+.1f}, {interval.high:+.1f}]"
    return f"{interval.mean:+.1f}{bounds} points"


def _beside(others: Mapping[str, float]) -> str:
    """ " (from scratch 38.9 %)" of those that were measured."""
    parts = [f"{name} {value:.1f} %" for name, value in others.items() if not math.isnan(value)]
    return f" ({', '.join(parts)})" if parts else ""


def learning_sentence(course: Learning) -> str:
    """How the newborn and the learning compare, as far as it was measured."""
    parts = []
    if not math.isnan(course.newborn):
        others = {
            "from scratch": course.newborn_scratch,
            "the whole ancestor's": course.newborn_whole,
        }
        parts.append(
            f"Before any training the newborn tell {course.newborn:.1f} % apart{_beside(others)}."
        )
    if course.asked and not course.reached:
        parts.append("From-scratch's final accuracy is reached at none of the lengths.")
    if not math.isnan(course.epochs):
        where = (
            ""
            if course.reached == course.asked
            else f" (at {course.reached} of {course.asked} lengths)"
        )
        parts.append(
            f"From-scratch's final accuracy is reached after {course.epochs:.1f} epochs instead "
            f"of {course.epochs_scratch:.1f}{where}."
        )
    if not math.isnan(course.area):
        parts.append(
            f"Area under the learning curve: {course.area:.1f} "
            f"%{_beside({'from scratch': course.area_scratch})}."
        )
    return " ".join(parts)


def sentences(records: Sequence[LineageRecord]) -> list[str]:
    """What a run or several pooled seeds end with, beside gain and verdict.

    Args:
        records: lineages of one scenario that differ in their seed.

    Returns:
        As many lines as were measured.
    """
    return [
        line
        for line in (economy_sentence(economy(records)), learning_sentence(learning(records)))
        if line
    ]
