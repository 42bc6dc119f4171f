"""Pools one or several seeds of one scenario: trends, effects, and what may not be pooled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from evolve.core.errors import UserError
from evolve.report.curves import (
    FALLBACKS,
    NAMES,
    Descent,
    Effect,
    Generation,
    Interval,
    LineageRecord,
    Summary,
    differences,
    evolved,
    gains,
    point_interval,
    pooled_interval,
    untrained,
)
from evolve.report.trends import Array, trend


def summarise(records: Sequence[LineageRecord]) -> Summary:
    """Pool one or several seeds of one scenario.

    Args:
        records: one lineage a seed.

    Raises:
        UserError: they differ in more than their seed.
    """
    _check_poolable(records)
    lengths = _common_lengths(records)
    accuracy = [_table(record, lengths, lambda g: g.inherited.accuracy) for record in records]
    gain = (
        [_table(record, lengths, gains) for record in records]
        if all(g.scratch for record in records for g in evolved(record))
        else []
    )
    effects = (_effect(name, records, other) for name, other in _OTHERS.items())
    generations = [g for record in records for g in evolved(record)]
    return Summary(
        scenario=records[0].scenario,
        profile=records[0].profile,
        seeds=tuple(record.seed for record in records),
        tasks=records[0].tasks,
        lengths=lengths,
        accuracy=trend(lengths, accuracy),
        gain=trend(lengths, gain),
        effects=tuple(effect for effect in effects if effect is not None),
        seed_gain=_seed_gain(records),
        fallbacks=sum(g.status in FALLBACKS for g in generations),
        measured=len(generations),
        changes=records[0].changes,
        diverged=sum(_broken(d) for g in generations for d in (g.inherited, g.scratch) if d),
    )


def _seed_gain(records: Sequence[LineageRecord]) -> Interval:
    """Gain over from-scratch with seeds as units, in points."""
    pairs = (_pairs(record, _OTHERS["from-scratch"]) for record in records)
    return point_interval([float(np.mean(gain)) for gain in pairs if len(gain)])


_Other = Callable[[LineageRecord, Generation], "Descent | None"]


def _untrained_descent(record: LineageRecord, _: Generation) -> Descent | None:
    zero = untrained(record)
    return zero.inherited if zero else None


_OTHERS: dict[str, _Other] = {
    "from-scratch": lambda record, g: g.scratch,
    "shuffled": lambda record, g: g.shuffled,
    "lineage 0": _untrained_descent,
    "joint": lambda record, g: g.joint,
    NAMES["full_ancestor"]: lambda record, g: g.full_ancestor,
    "distilled": lambda record, g: g.distilled,
    "reference": lambda record, g: record.reference,
}


def _pairs(record: LineageRecord, other: _Other) -> Array:
    """Inherited minus other in points, [descendants].

    Averaged over the generations that have both.
    """
    if other is _untrained_descent:
        rows = _over_untrained(record)
    else:
        descents = [
            (g.inherited, descent)
            for g in evolved(record)
            if (descent := other(record, g)) is not None
        ]
        rows = [differences(inherited, descent) for inherited, descent in descents]
    return 100 * np.mean(np.array(rows, dtype=np.float64), axis=0) if rows else np.empty(0)


def _over_untrained(record: LineageRecord) -> list[tuple[float, ...]]:
    """What training the ancestor adds, by generation and descendant.

    The condenser may give lineage 0 another architecture. So gains over from-scratch are compared,
    not accuracies; without the from-scratch control, accuracies.
    """
    zero = untrained(record)
    if zero is None:
        return []
    if zero.scratch and all(g.scratch for g in evolved(record)):
        return [
            tuple(a - b for a, b in zip(gains(g), gains(zero), strict=True))
            for g in evolved(record)
        ]
    return [differences(g.inherited, zero.inherited) for g in evolved(record)]


def _effect(name: str, records: Sequence[LineageRecord], other: _Other) -> Effect | None:
    groups = [pairs for record in records if len(pairs := _pairs(record, other))]
    if not groups:
        return None
    count = sum(other(record, g) is not None for record in records for g in evolved(record))
    return Effect(name, pooled_interval(groups), count)


def _common_lengths(records: Sequence[LineageRecord]) -> tuple[int, ...]:
    """The lengths that all records have measured, with finite numbers.

    A seed that is further along must not bend the pooled curve.
    """
    having = [{g.lineage for g in evolved(r) if _finite(g)} for r in records]
    return tuple(sorted(set.intersection(*having)))


def _broken(d: Descent) -> int:
    """Descendants whose training loss was not finite at the end."""
    return sum(bool(losses) and not math.isfinite(losses[-1]) for losses in d.train_loss)


def _finite(g: Generation) -> bool:
    return bool(
        np.isfinite([*g.inherited.accuracy, *(g.scratch.accuracy if g.scratch else ())]).all()
    )


def _table(
    record: LineageRecord, lengths: Sequence[int], values: Callable[[Generation], Sequence[float]]
) -> Array:
    """[T, descendants] in percent."""
    by_length = {g.lineage: g for g in evolved(record)}
    rows = [values(by_length[length]) for length in lengths]
    return 100 * np.array(rows, dtype=np.float64) if rows else np.empty((0, 0))


def _check_poolable(records: Sequence[LineageRecord]) -> None:
    if not records:
        raise UserError("no lineage to summarise: name at least one run")
    first = records[0]
    for record in records[1:]:
        if (record.scenario, record.profile, record.tasks) != (
            first.scenario,
            first.profile,
            first.tasks,
        ):
            raise UserError(
                f"cannot pool seeds of different scenarios: {first.scenario} ({first.profile}, "
                f"{first.tasks} tasks) and "
                f"{record.scenario} ({record.profile}, {record.tasks} tasks); report them apart"
            )
        changed = sorted(
            key
            for key in {*first.settings, *record.settings}
            if first.settings.get(key) != record.settings.get(key)
        )
        if changed:
            raise UserError(
                f"cannot pool seeds {first.seed} and {record.seed}: "
                f"their settings differ in {changed[0]}; report them apart"
            )
    seeds = [record.seed for record in records]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise UserError(
            f"seed {twice} is given twice: pooling it with itself would make the intervals too "
            "narrow; name each seed once"
        )
