"""Accuracy over learning rate and weight decay, a map a method (paper, Figure 4).

All maps have one colour scale. How much a method depends on the two is the spread over its map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evolve.report.batch.arms import (
    INHERITED,
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
from evolve.report.compare import Batch
from evolve.report.compare_tables import plus_minus
from evolve.report.curves import Interval
from evolve.report.figures import new_figure
from evolve.report.table import Row, Table
from evolve.report.trends import Array

RATE, DECAY = "descend.lr", "descend.weight_decay"
Cells = Mapping[tuple[float, float], Interval]  # (rate, decay) -> accuracy in %
Maps = Mapping[tuple[str, str], Cells]  # by method and side


def heat(batch: Batch, measured: Sequence[Pair]) -> BatchFigure:
    """Accuracy over learning rate and weight decay.

    Args:
        batch: varies descend.lr and descend.weight_decay.
        measured: its cases with what they measured.
    """
    maps = {
        (arm.name, side): cells
        for arm in arms(batch, measured)
        for side in SIDES
        if (cells := _cells(arm, side))
    }
    rows = tuple(
        {"method": name, "descendants": side, "lr": rate, "weight_decay": decay} | bounds(interval)
        for (name, side), cells in maps.items()
        for (rate, decay), interval in cells.items()
    )
    return BatchFigure(
        rows,
        (_spreads(maps), _accuracies(maps)),
        lambda: _draw(batch, maps),
        "Accuracy (%) over learning rate and weight decay, mean over seeds and tasks, all maps on "
        "one colour scale. Below: the same architectures from scratch.",
    )


def _cells(arm: Arm, side: str) -> dict[tuple[float, float], Interval]:
    parts = grouped(arm, lambda pair: (setting(pair, RATE), setting(pair, DECAY)))
    means = {place: pooled_mean(pairs, side_values(side)) for place, pairs in parts.items()}
    return {place: mean for place, mean in means.items() if mean is not None}


def spread(cells: Cells) -> tuple[float, float]:
    """How far a map's accuracies lie apart.

    Args:
        cells: one map.

    Returns:
        Range and standard deviation (of a sample) in points; NaN from fewer than two cells.
    """
    means = [interval.mean for interval in cells.values()]
    if len(means) < 2:
        return math.nan, math.nan
    return max(means) - min(means), float(np.std(means, ddof=1))


def _named(name: str, side: str) -> str:
    return name if side == INHERITED else f"{name}: from scratch"


def _spreads(maps: Maps) -> Table:
    rows = []
    for (name, side), cells in maps.items():
        width, deviation = ("" if math.isnan(value) else f"{value:.2f}" for value in spread(cells))
        best = max(cells, key=lambda place: cells[place].mean)
        worst = min(cells, key=lambda place: cells[place].mean)
        ends = (f"{cells[at].mean:.2f} ({at[0]:g}, {at[1]:g})" for at in (best, worst))
        rows.append(Row((_named(name, side), width, deviation, *ends, str(len(cells)))))
    heads = (
        "method",
        "range (points)",
        "standard deviation",
        "best (rate, decay)",
        "worst (rate, decay)",
        "cells",
    )
    return Table("How much accuracy depends on rate and decay", heads, tuple(rows))


def _accuracies(maps: Maps) -> Table:
    places = sorted({place for cells in maps.values() for place in cells})
    rows = tuple(
        Row(
            (
                f"{rate:g}",
                f"{decay:g}",
                *(
                    plus_minus(cells[rate, decay]) if (rate, decay) in cells else ""
                    for cells in maps.values()
                ),
            )
        )
        for rate, decay in places
    )
    heads = ("learning rate", "weight decay", *(_named(name, side) for name, side in maps))
    return Table("Accuracy (%) by learning rate and weight decay", heads, rows)


def _draw(batch: Batch, maps: Maps) -> Any:
    rates = sorted({rate for cells in maps.values() for rate, _ in cells})
    decays = sorted({decay for cells in maps.values() for _, decay in cells})
    methods, sides = list(dict.fromkeys(name for name, _ in maps)), _sides(maps)
    values = [interval.mean for cells in maps.values() for interval in cells.values()]
    figure = new_figure(
        1.4 + len(methods) * (0.9 + 0.5 * len(rates)), 1.2 + len(sides) * (0.7 + 0.42 * len(decays))
    )
    panels = figure.subplots(len(sides), len(methods), sharex=True, sharey=True, squeeze=False)
    drawn = None
    for row, side in zip(panels, sides, strict=True):
        for panel, name in zip(row, methods, strict=True):
            table = _matrix(maps.get((name, side), {}), rates, decays)
            drawn = panel.pcolormesh(
                table, cmap="cividis", vmin=min(values), vmax=max(values), edgecolor="white"
            )
            _numbers(panel, table, (min(values) + max(values)) / 2)
            panel.set_title(_title(name, side, maps), fontsize=8.5)
            panel.grid(visible=False)
    panels[0][0].set_xticks(np.arange(len(rates)) + 0.5, [f"{rate:g}" for rate in rates])
    panels[0][0].set_yticks(np.arange(len(decays)) + 0.5, [f"{decay:g}" for decay in decays])
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel("weight decay", fontsize=9)
    figure.colorbar(drawn, ax=panels, pad=0.01, label="test accuracy (%)")
    figure.suptitle(batch.title or batch.name, x=0.02, ha="left", fontsize=10, fontweight="bold")
    return figure


def _sides(maps: Maps) -> list[str]:
    return [side for side in SIDES if any(drawn == side for _, drawn in maps)]


def _title(name: str, side: str, maps: Maps) -> str:
    """The method and its spread."""
    if (name, side) not in maps:
        return f"{name}: not measured"
    width, deviation = spread(maps[name, side])
    above = name if side == INHERITED else f"{name}'s architecture\nfrom scratch"
    return above if math.isnan(width) else f"{above}\nrange {width:.1f}, sd {deviation:.1f}"


def _matrix(cells: Cells, rates: Sequence[float], decays: Sequence[float]) -> Array:
    """[decays, rates]; NaN, drawn blank, where nothing was measured."""
    rows = [
        [cells[rate, decay].mean if (rate, decay) in cells else math.nan for rate in rates]
        for decay in decays
    ]
    return np.array(rows, dtype=np.float64)


def _numbers(axes: Any, table: Array, middle: float) -> None:
    """Write every cell's accuracy into it."""
    for (y, x), value in np.ndenumerate(table):
        if not math.isnan(value):
            colour = "white" if value < middle else "black"
            axes.text(
                x + 0.5,
                y + 0.5,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color=colour,
            )
