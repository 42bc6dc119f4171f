"""Accuracy against the number of training images a class (paper, Figure 5).

How many images an architecture from scratch needs to match what inherits is read off its own curve,
interpolated between the measured numbers on a log scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evolve.report.batch.arms import (
    INHERITED,
    SAME,
    SCRATCH,
    SIDES,
    Arm,
    arms,
    bounds,
    grouped,
    pooled_mean,
    setting,
    side_values,
)
from evolve.report.batch.figure import BatchFigure, Pair
from evolve.report.compare import Batch, task_means
from evolve.report.compare_tables import plus_minus
from evolve.report.curves import Interval
from evolve.report.figures import new_figure
from evolve.report.table import Row, Table
from evolve.report.trends import Array, statistic_interval

SHOTS = "descend.shots"
Curve = Mapping[int, Interval]  # images a class -> accuracy in %


def samples(batch: Batch, measured: Sequence[Pair]) -> BatchFigure:
    """Accuracy against images a class, all methods in one panel.

    Args:
        batch: varies descend.shots.
        measured: its cases with what they measured.
    """
    shown = arms(batch, measured)
    curves = {(arm.name, side): _curve(arm, side) for arm in shown for side in SIDES}
    rows = tuple(
        {"method": name, "descendants": side, "shots": shots} | bounds(interval)
        for (name, side), curve in curves.items()
        for shots, interval in curve.items()
    )
    return BatchFigure(
        rows,
        (_accuracies(shown, curves), _matches(shown)),
        lambda: _draw(batch, shown, curves),
        "Accuracy against training images a class, mean over seeds and tasks; bars: 95 % interval; "
        f"{SAME}.",
    )


def _curve(arm: Arm, side: str) -> dict[int, Interval]:
    parts = grouped(arm, lambda pair: setting(pair, SHOTS))
    means = {shots: pooled_mean(pairs, side_values(side)) for shots, pairs in parts.items()}
    return {shots: mean for shots, mean in means.items() if mean is not None}


def _accuracies(shown: Sequence[Arm], curves: Mapping[tuple[str, str], Curve]) -> Table:
    columns = {
        name if side == INHERITED else f"{name}: from scratch": curve
        for (name, side), curve in curves.items()
        if curve
    }
    measured = sorted({shots for curve in columns.values() for shots in curve})
    rows = tuple(
        Row(
            (
                str(shots),
                *(plus_minus(curve[shots]) if shots in curve else "" for curve in columns.values()),
            )
        )
        for shots in measured
    )
    return Table("Accuracy (%) by images a class", ("images a class", *columns), rows)


def matching_shots(shots: Sequence[int], goal: Array, scratch: Array) -> Array:
    """How many images a class a curve needs until it reaches a goal.

    Args:
        shots: [X], rising.
        goal: [draws], the accuracy to be reached.
        scratch: [X, draws], the curve.

    Returns:
        [draws], interpolated on log shots where the curve first reaches the goal; the least of
        ``shots`` where it does so at once, infinity where it never does.
    """
    reached = scratch >= goal
    after = np.argmax(reached, axis=0)
    before, draws, logs = np.maximum(after - 1, 0), np.arange(goal.size), np.log(shots)
    low, high = scratch[before, draws], scratch[after, draws]
    part = (goal - low) / np.where(high > low, high - low, 1.0)
    between = np.exp(logs[before] + part * (logs[after] - logs[before]))
    needed = np.where(after > 0, between, shots[0])
    return np.where(reached.any(axis=0), needed, math.inf)


def matches(arm: Arm) -> dict[int, tuple[float, float, float]]:
    """The images a class with which from-scratch matches an arm's descendants.

    Args:
        arm: one method, at several numbers of images a class.

    Returns:
        The arm's images a class -> (from-scratch's, low, high); seeds, then tasks, are resampled.
        Only over seeds that have measured every number.
    """
    parts = grouped(arm, lambda pair: setting(pair, SHOTS))
    tables = {
        side: [task_means(pairs, side_values(side)) for pairs in parts.values()] for side in SIDES
    }
    every = [table for side in tables.values() for table in side]
    seeds = sorted(set.intersection(*map(set, every))) if every else []
    if not seeds:
        return {}
    scratch = [[table[seed] for seed in seeds] for table in tables[SCRATCH]]
    result = {}
    for shots, table in zip(parts, tables[INHERITED], strict=True):
        goal = [table[seed] for seed in seeds]
        means = np.array([[np.mean([g.mean() for g in groups])] for groups in [goal, *scratch]])

        def needed(values: Array) -> Array:
            return matching_shots([*parts], values[0], values[1:])

        result[shots] = (float(needed(means)[0]), *statistic_interval([goal, *scratch], needed))
    return result


def _matches(shown: Sequence[Arm]) -> Table:
    columns = {arm.name: matches(arm) for arm in shown}
    measured = sorted({shots for column in columns.values() for shots in column})
    rows = tuple(
        Row(
            (
                str(shots),
                *(
                    _words(column[shots], measured) if shots in column else ""
                    for column in columns.values()
                ),
            )
        )
        for shots in measured
    )
    return Table(
        "Images a class that the same architecture needs from scratch to match, 95 % interval",
        ("images a class", *columns),
        rows,
    )


def _words(match: tuple[float, float, float], shots: Sequence[int]) -> str:
    def word(value: float) -> str:
        if math.isinf(value):
            return f"more than {shots[-1]}"
        return f"at most {shots[0]}" if value <= shots[0] else f"{value:.0f}"

    mean, low, high = match
    return word(mean) if math.isnan(low) else f"{word(mean)} [{word(low)}, {word(high)}]"


def _draw(batch: Batch, shown: Sequence[Arm], curves: Mapping[tuple[str, str], Curve]) -> Any:
    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    lines = [(arm, side) for arm in shown for side in SIDES]
    for number, (arm, side) in enumerate(lines):
        # side by side, so that no bar hides another
        _bars(axes, arm, curves[arm.name, side], 1.02 ** (number - (len(lines) - 1) / 2), side)
    ticks = sorted({shots for curve in curves.values() for shots in curve})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.minorticks_off()
    axes.set_xlabel(f"training images a class (log scale); {SAME}")
    axes.set_ylabel("descendants' test accuracy (%)")
    axes.set_title(batch.title or batch.name, loc="left", fontweight="bold")
    axes.legend(fontsize=8)
    return figure


def _bars(axes: Any, arm: Arm, curve: Curve, shift: float, side: str) -> None:
    means = [interval.mean for interval in curve.values()]
    ends = np.array([[i.mean - i.low, i.high - i.mean] for i in curve.values()]).reshape(-1, 2).T
    inherits = side == INHERITED
    axes.errorbar(
        [shots * shift for shots in curve],
        means,
        ends,
        color=arm.colour,
        marker=arm.marker,
        mfc=None if inherits else "white",
        ms=5,
        lw=1.6 if inherits else 1.0,
        ls="-" if inherits else "--",
        elinewidth=1,
        capsize=2,
        alpha=1.0 if inherits else 0.7,
        label=arm.name if inherits else None,
    )
