"""The picture and the table of a family of descendants (:mod:`evolve.report.sizes`).

One panel for every number of epochs: x = the descendant's size (parameters, log), y = accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evolve.report.figures import BLUE, ORANGE, RED, new_figure
from evolve.report.paired import Difference
from evolve.report.sizes import (
    LEARNGENE,
    SCRATCH,
    WHOLE,
    Family,
    Point,
    family_sentence,
    short,
)

STYLES = {
    LEARNGENE: (BLUE, "-", "o"),
    SCRATCH: (RED, "--", "s"),
    WHOLE: (ORANGE, (0, (5, 1, 1, 1, 1, 1)), "D"),
}


def sizes_figure(shown: Sequence[Point], stored: Family, title: str = "") -> Any:
    """Draw accuracy against size.

    Args:
        shown: what was measured, in the order of :func:`evolve.report.sizes.sizes_points`.
        stored: for the note below.
        title: the picture's.

    Returns:
        A matplotlib figure.
    """
    epochs = sorted({point.epoch for point in shown})
    columns = min(2, len(epochs))
    rows = -(-len(epochs) // columns)
    figure = new_figure(4.6 * columns, 1.1 + 3.1 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, epoch in zip(grid.flat, epochs, strict=False):
        _draw(axes, [point for point in shown if point.epoch == epoch])
        axes.set_title(_after(epoch), loc="left", fontsize=9)
    for axes in grid.flat[len(epochs) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    for axes in grid[-1]:
        axes.set_xlabel("parameters of the descendant (head left out)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize=8)
    figure.suptitle(title or "Descendants of several sizes", x=0.02, ha="left", fontweight="bold")
    note = f"Mean and 95 % interval (seeds, then tasks). {family_sentence(stored)}"
    figure.supxlabel(note, x=0.02, ha="left", fontsize=7, color="#333333", wrap=True)
    return figure


def _draw(axes: Any, shown: Sequence[Point]) -> None:
    for number, (name, (colour, style, marker)) in enumerate(STYLES.items()):
        line = sorted((p for p in shown if p.beginning == name), key=lambda p: p.parameters)
        if not line:
            continue
        # Slightly apart, so that whiskers of the same size do not cover each other.
        x = [point.parameters * 1.015 ** (number - 1) for point in line]
        axes.vlines(
            x,
            [point.accuracy.low for point in line],
            [point.accuracy.high for point in line],
            color=colour,
            lw=1,
            alpha=0.6,
        )
        y = [point.accuracy.mean for point in line]
        axes.plot(x, y, color=colour, ls=style, marker=marker, ms=4.5, lw=1.2, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(_ticks())
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.xaxis.set_minor_formatter("")
    for size, at in {p.size: p.parameters for p in shown if p.beginning == LEARNGENE}.items():
        axes.annotate(
            size,
            (at, 0.01),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=6,
            color="#555555",
            ha="center",
            va="bottom",
        )


def _ticks() -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1, 2, 5))


def _after(epoch: int) -> str:
    if epoch == 0:
        return "newborn (nearest class mean)"
    return f"after {epoch} epoch" + ("s" if epoch > 1 else "")


def sizes_markdown(shown: Sequence[Point], stored: Family) -> str:
    """The table, as Markdown: a row a size and beginning, a column a number of epochs.

    Args:
        shown: what was measured, in the order of :func:`evolve.report.sizes.sizes_points`.
        stored: for the line below.
    """
    epochs = sorted({point.epoch for point in shown})
    last = epochs[-1] if epochs else 0
    heads = ["size", "parameters", "begins as", *map(_after, epochs), f"minus {SCRATCH}", "p"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows: dict[tuple[str, str], dict[int, Point]] = {}
    for point in shown:
        rows.setdefault((point.size, point.beginning), {})[point.epoch] = point
    for (size, beginning), by_epoch in rows.items():
        cells = [_interval(by_epoch.get(epoch)) for epoch in epochs]
        parameters = short(next(iter(by_epoch.values())).parameters)
        gap = by_epoch[last].difference if last in by_epoch else None
        lines.append("| " + " | ".join([size, parameters, beginning, *cells, *_gap(gap)]) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"Accuracy in % with a 95 % interval; the difference is that {_after(last)}, in "
            "points, paired by task and seed, with the interval and p of a t-test corrected for "
            f"the number of sizes (Holm). {family_sentence(stored)}",
            "",
        ]
    )


def _interval(point: Point | None) -> str:
    if point is None:
        return "-"
    i = point.accuracy
    return f"{i.mean:.1f} [{i.low:.1f}, {i.high:.1f}]"


def _gap(gap: Difference | None) -> tuple[str, str]:
    if gap is None:
        return "", ""
    i = gap.interval
    p = "< 0.001" if gap.holm < 0.001 else f"{gap.holm:.3f}"
    return f"{i.mean:+.1f} [{i.low:+.1f}, {i.high:+.1f}]", p
