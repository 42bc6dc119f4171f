"""The economy of the gene as a picture.

The share of the ancestor's weights inherited stands against the share of the whole ancestor's gain,
one mark a condenser and lineage length. Below the diagonal a weight carries less than its part of
the gain, above it more. From scratch and the whole ancestor are the two ends. The line is the
frontier of the trials (condenser "trial"), on condensing classes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from evolve.core.words import WHOLE
from evolve.report.curves import LineageRecord, evolved
from evolve.report.economy import Economy, economies
from evolve.report.figures import MARKERS, new_figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)
# Where the numbers stand beside their mark, in points; neighbours' marks may be the same.
CORNERS = ((4, 3), (-4, -8), (4, -8), (-4, 3))
LEAST = 0.4  # % of the weights at which the axis begins; from scratch stands there


def economy_figure(varieties: Mapping[str, Sequence[LineageRecord]], title: str = "") -> Any:
    """Draw the economy of the gene.

    Args:
        varieties: lineages by what they are called (a condenser, a case), each pooled over its
            seeds. None of them may be drawn twice.
        title: the picture's.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(8.2, 5.2)
    axes = figure.subplots()
    _draw_ends(axes)
    _draw_frontier(axes, [record for records in varieties.values() for record in records])
    left_out = 0
    for (name, records), colour, marker, corner in zip(
        varieties.items(), cycle(COLOURS), cycle(MARKERS), cycle(CORNERS), strict=False
    ):
        points = economies(records)
        shown = [point for point in points if point.decided]
        left_out += len(points) - len(shown)
        _draw_variety(axes, name, shown, colour, marker, corner)
    _finish(axes, title)
    figure.legend(loc="outside right upper", fontsize=7.5)
    note = (
        "Numbers at the marks: lineage length; bars: 95 % interval, "
        "cut where they leave the picture."
    )
    if left_out:
        lengths = "1 length is" if left_out == 1 else f"{left_out} lengths are"
        note += f" {lengths} left out: there the whole ancestor is not shown to gain."
    figure.supxlabel(textwrap.fill(note, 130), x=0.02, ha="left", fontsize=7.5, color="#333333")
    return figure


def has_economy(records: Sequence[LineageRecord]) -> bool:
    """Whether there is anything to draw: a length whose whole ancestor gains."""
    return any(point.decided for point in economies(records))


def _draw_ends(axes: Any) -> None:
    weights = np.geomspace(LEAST, 100, 200)
    axes.plot(
        weights,
        weights,
        color="#999999",
        lw=0.8,
        ls=(0, (1, 2)),
        label="every weight worth the same",
        zorder=1,
    )
    axes.axhline(0, color="black", lw=0.8, zorder=1)
    axes.plot(
        [LEAST],
        [0],
        marker="s",
        mfc="white",
        mec="#D55E00",
        ls="none",
        ms=7,
        label="from scratch",
        zorder=5,
        clip_on=False,
    )
    axes.plot(
        [100],
        [100],
        marker="D",
        mfc="white",
        mec="#E69F00",
        ls="none",
        ms=7,
        label="whole ancestor",
        zorder=5,
        clip_on=False,
    )


def _draw_variety(
    axes: Any,
    name: str,
    points: Sequence[Economy],
    colour: str,
    marker: str,
    corner: tuple[float, float],
) -> None:
    if not points:
        return
    x, y = [100 * p.weights for p in points], [100 * p.share.mean for p in points]
    low, high = [100 * p.share.low for p in points], [100 * p.share.high for p in points]
    axes.vlines(x, low, high, color=colour, lw=0.6, alpha=0.35, zorder=2)
    axes.plot(x, y, color=colour, marker=marker, ms=5.5, ls="none", label=name, zorder=4)
    places: dict[tuple[float, float], list[str]] = {}
    for point, place in zip(points, zip(x, y, strict=True), strict=True):
        beside = next((other for other in places if _one_label(place, other)), place)
        places.setdefault(beside, []).append(str(point.lineage))
    for place, lengths in places.items():
        axes.annotate(
            ", ".join(lengths),
            place,
            xytext=corner,
            textcoords="offset points",
            fontsize=6.5,
            color=colour,
            ha="left" if corner[0] > 0 else "right",
        )


def _one_label(place: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two marks are so near that their numbers would lie on each other."""
    return abs(math.log(place[0] / other[0])) < 0.12 and abs(place[1] - other[1]) < 4


def frontier(records: Sequence[LineageRecord]) -> list[tuple[float, float]]:
    """Of all candidate sets tried, those that no smaller set matches.

    Args:
        records: lineages whose condenser is "trial".

    Returns:
        (% of the weights, mean % of the whole ancestor's gain), by weights.
    """
    parts: dict[tuple[str, ...], list[float]] = {}
    shares: dict[tuple[str, ...], float] = {}
    for g in (g for record in records for g in evolved(record)):
        whole = next((trial.gain for trial in g.trials if WHOLE in trial.origin), 0.0)
        for trial in g.trials if whole > 0 else ():
            # The whole ancestor may hold more than all its layers, so it is a set of its own.
            name = (*trial.layers, *((WHOLE,) if WHOLE in trial.origin else ()))
            parts.setdefault(name, []).append(100 * trial.gain / whole)
            shares[name] = 100 * trial.share
    often = max(map(len, parts.values()), default=0)
    ranked = sorted(
        (shares[layers], float(np.mean(values)))
        for layers, values in parts.items()
        if 2 * len(values) > often
    )
    return [
        (x, y)
        for place, (x, y) in enumerate(ranked)
        if y > max([0.0, *(other for _, other in ranked[:place])])
    ]


def _draw_frontier(axes: Any, records: Sequence[LineageRecord]) -> None:
    best = frontier(records)
    if best:
        axes.plot(
            *zip(*best, strict=True),
            color="#333333",
            lw=1.4,
            marker=".",
            label="frontier of the trials\n(condensing classes)",
            zorder=3,
        )


def _finish(axes: Any, title: str) -> None:
    heights = [float(y) for line in axes.lines for y in line.get_ydata() if np.isfinite(y)]
    axes.set_ylim(min([-10.0, *(y - 8 for y in heights)]), max([115.0, *(y + 10 for y in heights)]))
    axes.set_xscale("log")
    axes.set_xlim(LEAST, 125)
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.xaxis.minorticks_off()
    axes.set_xlabel("share of the ancestor's weights that is inherited (%)")
    axes.set_ylabel("share of the whole ancestor's gain (%)")
    axes.set_title(
        textwrap.fill(title or "The economy of the gene", 60), loc="left", fontweight="bold"
    )
