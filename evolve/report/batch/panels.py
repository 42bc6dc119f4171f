"""Panels with one scale, and the legend that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evolve.report.batch.arms import SAME, Arm
from evolve.report.compare import Batch
from evolve.report.figures import GREY, new_figure

COLUMNS = 3


def grid(batch: Batch, count: int, x: str, y: str) -> tuple[Any, list[Any]]:
    """A figure of panels that share both axes, at most COLUMNS side by side.

    Args:
        batch: whose title it has.
        count: of panels.
        x: what their lowest say of the x axis.
        y: what the first of each row says of the y axis.

    Returns:
        The figure and its ``count`` axes.
    """
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    figure = new_figure(1.2 + 2.8 * max(columns, 2), 1.2 + 2.5 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for unused in axes.flat[count:]:
        unused.remove()
    for panel in axes.flat[max(0, count - columns) : count]:
        panel.tick_params(labelbottom=True)
        panel.set_xlabel(x)
    for panel in axes[:, 0]:
        panel.set_ylabel(y)
    figure.suptitle(batch.title or batch.name, x=0.02, ha="left", fontsize=10, fontweight="bold")
    return figure, list(axes.flat[:count])


def legend(figure: Any, shown: Sequence[Arm]) -> None:
    """Name the methods below the panels, and what a dashed line is."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=arm.colour, marker=arm.marker, ms=4, lw=1.6) for arm in shown]
    handles.append(Line2D([], [], color=GREY, ls="--", marker="o", mfc="white", ms=4, lw=1.0))
    names = [*(arm.name for arm in shown), SAME]
    figure.legend(handles, names, loc="outside lower left", ncols=min(len(names), 4), fontsize=8)
