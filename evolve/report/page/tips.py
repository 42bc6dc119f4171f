"""Values on hover: the page's pictures say what a point is when the pointer rests on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evolve.report.compare_tables import plus_minus
from evolve.report.curves import Interval
from evolve.report.page.pictures import Curve

MARK = "tip:"  # begins the SVG id of a point; svg.py makes a <title> of the rest
REACH = 11  # points; as wide as a finger's tip on a phone would like, narrow enough between lengths


def add_tips(axes: Any, tips: Iterable[tuple[float, float, str]]) -> None:
    """Lay invisible points over a picture that say a text each.

    Args:
        axes: matplotlib's.
        tips: (x, y, text).
    """
    for x, y, text in tips:
        axes.plot([x], [y], "o", ms=REACH, mew=0, alpha=0, gid=f"{MARK}{text}", zorder=9)


def curve_tips(curves: Iterable[Curve], metric: str) -> Iterable[tuple[float, float, str]]:
    """What the points of evolution curves say.

    Args:
        curves: the lines.
        metric: "accuracy" or "gain".
    """
    unit = "%" if metric == "accuracy" else "points"
    for line in curves:
        points: dict[int, Interval] = dict(getattr(line, metric))
        for length, interval in points.items():
            value = plus_minus(interval, signed=metric == "gain")
            yield length, interval.mean, f"{line.label}, length {length}: {metric} {value} {unit}"
