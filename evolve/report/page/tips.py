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
        look = {"color": "black", "ms": REACH, "mew": 0, "alpha": 0, "zorder": 9}
        axes.plot([x], [y], "o", gid=f"{MARK}{text}", **look)


def curve_tips(
    curves: Iterable[Curve], metric: str, least: int = 0
) -> Iterable[tuple[float, float, str]]:
    """What the points of evolution curves say.

    Args:
        curves: the lines.
        metric: "accuracy" or "gain".
        least: the first lineage length that is drawn.
    """
    unit = "%" if metric == "accuracy" else "points"
    for line in curves:
        points: dict[int, Interval] = dict(getattr(line, metric))
        for length, interval in points.items():
            if length < least:
                continue
            value = plus_minus(interval, signed=metric == "gain")
            yield length, interval.mean, f"{line.label}, length {length}: {metric} {value} {unit}"
