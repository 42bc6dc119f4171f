"""Panels of methods as dots with whiskers, the paper's numbers as open diamonds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from evolve.core.words import WHOLE
from evolve.report.batch.sides import ROWS, SCRATCH, Mark, Panel, methods_of
from evolve.report.figures import BLUE, GREEN, GREY, ORANGE, RED, SKY, new_figure

COLOURS = {SCRATCH: RED, ROWS["distilled"]: SKY, WHOLE: ORANGE}
ROW_INCHES = 0.24


def dots(panels: Sequence[Panel], named: Sequence[str], title: str, note: str) -> Any:
    """Draw a panel a network and set of images: accuracy as x, methods as rows.

    Args:
        panels: with their marks; a row of panels for each set of images.
        named: the batch's own methods, the reference last; the others are grey.
        title: the picture's.
        note: what the diamonds are.

    Returns:
        A matplotlib figure.
    """
    images = list(dict.fromkeys(panel.images for panel in panels))
    grid = [[panel for panel in panels if panel.images == name] for name in images]
    methods, wide = methods_of(panels), max(map(len, grid))
    height = len(grid) * (ROW_INCHES * len(methods) + 0.65) + 0.8
    figure = new_figure(max(6.4, 2.6 * wide + 1.4), height)
    axes = figure.subplots(len(grid), wide, sharex=True, sharey=True, squeeze=False)
    colours = COLOURS | dict.fromkeys(named, GREEN) | dict.fromkeys(named[-1:], BLUE)
    for row, line in zip(grid, axes, strict=True):
        for panel, place in zip(row, line, strict=False):
            _draw_panel(place, panel, methods, colours)
        for place in line[len(row) :]:
            place.set_visible(False)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold")
    wrapped = textwrap.fill(note, round(14 * figure.get_figwidth()))
    figure.supxlabel(f"test accuracy (%); bars: 95 % interval\n{wrapped}".strip(), fontsize=8)
    return figure


def _draw_panel(axes: Any, panel: Panel, methods: Sequence[str], colours: dict[str, str]) -> None:
    axes.set_title(f"{panel.column}: {panel.images}", loc="left", fontsize=8.5)
    axes.tick_params(labelbottom=True, labelsize=8)
    axes.grid(axis="y", visible=False)
    for mark in panel.marks:
        place = methods.index(mark.method)
        if not mark.trouble:
            _draw_mark(axes, mark, place - 0.12, colours.get(mark.method, GREY))
        if mark.paper:
            half = mark.paper[1] if len(mark.paper) > 1 else 0.0
            axes.errorbar(
                mark.paper[0],
                place + 0.16,
                xerr=half or None,
                marker="D",
                ms=4.5,
                color="#222222",
                mfc="white",
                elinewidth=0.7,
                zorder=3,
            )


def _draw_mark(axes: Any, mark: Mark, y: float, colour: str) -> None:
    i = mark.interval
    ends = None if math.isnan(i.low) else [[i.mean - i.low], [i.high - i.mean]]
    axes.errorbar(
        i.mean, y, xerr=ends, marker="o", ms=5.5, color=colour, elinewidth=1.4, capsize=2, zorder=4
    )
