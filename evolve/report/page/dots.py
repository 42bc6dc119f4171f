"""The comparison of a batch as dots and whiskers: what stands in its tables, seen at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolve.report.compare import Batch, Row
from evolve.report.compare_tables import TITLES, cells, reference_of
from evolve.report.curves import Interval
from evolve.report.figures import BLUE, GREY, RED, new_figure
from evolve.report.page.tips import add_tips


def dots_figure(batch: Batch, tables: Mapping[str, Sequence[Row]]) -> Any:
    """Draw every row's mean, and beside it the paired difference to the reference.

    A difference is filled where the corrected test supports it, blue above and red below, and
    hollow where it does not.

    Args:
        batch: the batch.
        tables: metric -> rows of the comparison.

    Returns:
        A matplotlib figure.
    """
    shown = {metric: rows for metric, rows in tables.items() if rows}
    heights = [len(rows) + 2.2 for rows in shown.values()]
    figure = new_figure(8.2, 0.25 * sum(heights) + 0.4)
    panels = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
    for (left, right), (metric, rows) in zip(panels, shown.items(), strict=True):
        _means(left, rows)
        _differences(right, rows)
        left.set_xlabel(TITLES[metric])
        right.set_xlabel(f"minus {reference_of(batch, rows)}, paired (points)")
        right.set_yticklabels([])
    return figure


def _means(axes: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        colour = "black" if row.best else GREY
        _whisker(axes, place, row.interval, colour, filled=True)
    _rows(axes, rows)
    texts = (f"{row.method}: {cells(row)[0]}" for row in rows)
    add_tips(axes, _tips(enumerate(row.interval for row in rows), texts))


def _differences(axes: Any, rows: Sequence[Row]) -> None:
    axes.axvline(0, color="black", lw=0.8)
    held = [(place, row.difference) for place, row in enumerate(rows) if row.difference]
    for place, difference in held:
        colour = {1: BLUE, -1: RED, 0: GREY}[difference.side]
        _whisker(axes, place, difference.interval, colour, filled=difference.side != 0)
    _rows(axes, rows)
    texts = []
    for place, _ in held:
        _, gap, p, _ = cells(rows[place])
        texts.append(f"{rows[place].method}: {gap}" + (f", corrected p {p}" if p else ""))
    add_tips(axes, _tips(((place, d.interval) for place, d in held), texts))


def _tips(places: Any, texts: Any) -> Any:
    return ((i.mean, place, text) for (place, i), text in zip(places, texts, strict=True))


def _whisker(axes: Any, place: int, i: Interval, colour: str, filled: bool) -> None:
    axes.plot([i.low, i.high], [place, place], color=colour, lw=1.4, solid_capstyle="butt")
    face = colour if filled else "white"
    axes.plot([i.mean], [place], "o", color=colour, mfc=face, ms=6)


def _rows(axes: Any, rows: Sequence[Row]) -> None:
    names = [f"{row.method} (reference)" if row.is_reference else row.method for row in rows]
    axes.set_yticks(range(len(rows)), names)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.best else "normal")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
