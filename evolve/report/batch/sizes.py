"""Descendants of several sizes from one learngene: accuracy against size.

SWS, TLEG, LeTs and WAVE, which follow Learngene, report this. One panel for every number of epochs:
x = the descendant's parameters (log scale), y = accuracy.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from evolve.report.batch.arms import bounds
from evolve.report.batch.family import (
    LEARNGENE,
    SCRATCH,
    WHOLE,
    Point,
    Stored,
    points,
    short,
    sizes_of,
    stored,
)
from evolve.report.batch.figure import BatchFigure, Pair
from evolve.report.compare import Batch
from evolve.report.compare_tables import plus_minus
from evolve.report.figures import BLUE, ORANGE, RED, new_figure
from evolve.report.paired import Difference
from evolve.report.table import Row, Table

STYLES = {
    LEARNGENE: (BLUE, "-", "o"),
    SCRATCH: (RED, "--", "s"),
    WHOLE: (ORANGE, (0, (5, 1, 1, 1, 1, 1)), "D"),
}
APART = 1.02  # so that intervals of one size do not cover each other


def sizes(batch: Batch, measured: Sequence[Pair]) -> BatchFigure:
    """Accuracy against size: learngene, from scratch, and the whole ancestor cut down.

    Args:
        batch: each of its cases is a size.
        measured: its cases with what they measured.
    """
    family = sizes_of(measured)
    shown, kept = points(family), stored(family)
    rows = tuple(
        {
            "size": p.size,
            "beginning": p.beginning,
            "parameters": round(p.parameters),
            "epoch": p.epoch,
        }
        | bounds(p.accuracy)
        | _difference(p.difference)
        for p in shown
    )
    return BatchFigure(
        rows,
        (_accuracies(shown), _stored(kept)),
        lambda: _draw(batch.title or batch.name, shown, kept),
        "Accuracy against the descendant's parameters (log scale), mean over seeds and tasks; "
        f"bars: 95 % interval. {kept}",
    )


def _difference(gap: Difference | None) -> dict[str, Any]:
    """The columns of a row that hold its paired difference to from-scratch."""
    mean, low, high, p = (
        (gap.interval.mean, gap.interval.low, gap.interval.high, gap.holm) if gap else (None,) * 4
    )
    return {"minus_scratch": mean, "minus_low": low, "minus_high": high, "p_holm": p}


def _accuracies(shown: Sequence[Point]) -> Table:
    epochs = sorted({point.epoch for point in shown})
    by: dict[tuple[str, str], dict[int, Point]] = {}
    for point in shown:
        by.setdefault((point.size, point.beginning), {})[point.epoch] = point
    rows = []
    for (size, beginning), at in by.items():
        parameters = short(next(iter(at.values())).parameters)
        accuracies = [plus_minus(at[epoch].accuracy) if epoch in at else "" for epoch in epochs]
        last = at.get(epochs[-1])
        gap = last.difference if last else None
        difference = plus_minus(gap.interval, signed=True) if gap else ""
        p = "" if gap is None else "< 0.001" if gap.holm < 0.001 else f"{gap.holm:.3f}"
        rows.append(Row((size, beginning, parameters, *accuracies, difference, p)))
    return Table(
        "Accuracy (%) by size; the difference is after the last epoch, in points, paired with the "
        "same architecture from scratch, p corrected for the number of sizes (Holm)",
        ("size", "begins as", "parameters", *map(_named, epochs), f"minus {SCRATCH}", "p"),
        tuple(rows),
        words=2,
    )


def _stored(kept: Stored) -> Table:
    return Table(
        f"Parameters stored for descendants of all {kept.sizes} sizes, heads left out",
        ("what is stored", "parameters"),
        (
            Row(("one learngene", short(kept.learngene))),
            Row(("every size, trained by itself", short(kept.each))),
        ),
    )


def _named(epoch: int) -> str:
    if epoch == 0:
        return "newborn"
    return f"after {epoch} epoch" + ("s" if epoch > 1 else "")


def _draw(title: str, shown: Sequence[Point], kept: Stored) -> Any:
    epochs = sorted({point.epoch for point in shown})
    columns = min(2, len(epochs))
    rows = -(-len(epochs) // columns)
    figure = new_figure(4.6 * columns, 1.3 + 2.9 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = {epoch: [point for point in shown if point.epoch == epoch] for epoch in epochs}
    for axes, (epoch, there) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, there)
        about = " (nearest class mean)" if epoch == 0 else ""
        axes.set_title(f"{_named(epoch)}{about}", loc="left", fontsize=9)
    for axes in grid.flat[len(epochs) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    for axes in grid[-1]:
        axes.set_xlabel("parameters of the descendant, head left out")
    _make_room(grid[0, 0])
    for axes, there in zip(grid.flat, panels.values(), strict=False):
        _name_sizes(axes, there)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=3, fontsize=8)
    figure.suptitle(textwrap.fill(title, 90), x=0.02, ha="left", fontweight="bold", fontsize=10)
    about = "Mean and 95 % interval (seeds, then tasks); lines join sizes of one width."
    note = textwrap.fill(f"{about} {kept}", 130)
    figure.supxlabel(note, x=0.02, ha="left", fontsize=7.5, color="#333333")
    return figure


def _panel(axes: Any, shown: Sequence[Point]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for shift, (name, (colour, style, marker)) in enumerate(STYLES.items(), start=-1):
        of_all_widths = [point for point in shown if point.beginning == name]
        for number, width in enumerate(sorted({point.width for point in of_all_widths})):
            line = [point for point in of_all_widths if point.width == width]
            line.sort(key=lambda point: point.parameters)
            x = [point.parameters * APART**shift for point in line]
            low, high = [p.accuracy.low for p in line], [p.accuracy.high for p in line]
            means = [point.accuracy.mean for point in line]
            axes.vlines(x, low, high, color=colour, lw=1, alpha=0.6)
            label = "_nolegend_" if number else name
            axes.plot(x, means, color=colour, ls=style, marker=marker, ms=4.5, lw=1.2, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name_sizes(axes: Any, shown: Sequence[Point]) -> None:
    """Along the panel's edge that its curves leave more room at."""
    bottom, top = axes.get_ylim()
    above = top - max(p.accuracy.high for p in shown) > min(p.accuracy.low for p in shown) - bottom
    named = {p.size: p.parameters for p in shown if p.beginning == LEARNGENE}
    for number, (size, at) in enumerate(named.items()):
        axes.annotate(
            size,
            (at, 0.985 if above else 0.015),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=6,
            color="#555555",
            ha="left" if number % 2 else "right",  # neighbours may be almost as large
            va="top" if above else "bottom",
        )


def _make_room(axes: Any) -> None:
    """Below the curves of all panels, for the names of the sizes."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low - 0.4 * (high - low)), min(100, high))
