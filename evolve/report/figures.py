"""Figures of a lineage, drawn without a screen and without global matplotlib state.

Accuracies are in %. Colours are Okabe and Ito's (safe for colour-blind readers); line styles and
markers tell them apart in grey. matplotlib is imported inside the functions: the command line must
start quickly.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np

from evolve.report.curves import (
    Descent,
    Generation,
    Interval,
    LineageRecord,
    Summary,
    aligned,
    gains,
    pooled_interval,
)
from evolve.report.economy import whole_gains
from evolve.report.trends import Array, Trend
from evolve.report.verdict import finding, gain_sentence, verdict

BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#666666",
)
# name in the paper's words -> (field of Generation, colour, line style, marker)
METHODS: dict[str, tuple[str, str, Any, str]] = {
    "from-scratch, same architecture": ("scratch", RED, "--", "s"),
    "shuffled learngene": ("shuffled", PINK, ":", "v"),
    "joint training of the ancestor": ("joint", GREEN, "-.", "^"),
    "whole ancestor, fine-tuned": ("full_ancestor", ORANGE, (0, (5, 1, 1, 1, 1, 1)), "D"),
    "from-scratch with the ancestor's hints": ("distilled", SKY, (0, (1, 1)), "P"),
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
NO_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]")  # as UTF-8
Points = dict[int, list[Array]]  # lineage length -> one array a seed


@contextmanager
def _style() -> Iterator[None]:
    """The same look and the same bytes whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"svg.hashsalt": "evolve", "font.size": 9, "axes.grid": True, "grid.alpha": 0.25}
        )
        matplotlib.rcParams.update(
            {"axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False}
        )
        matplotlib.rcParams.update({"legend.frameon": False, "hatch.linewidth": 0.6})
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def encode(draw: Callable[[], Any], kind: str) -> bytes:
    """Draw a figure and encode it; the same figure gives the same bytes.

    Args:
        draw: makes the figure.
        kind: "png", "svg" or "pdf".
    """
    dated = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}
    with _style():
        figure, out = draw(), io.BytesIO()
        _settle(figure)
        figure.savefig(out, format=kind, metadata={dated[kind]: None})
        return NO_XML.sub(b" ", out.getvalue()) if kind == "svg" else out.getvalue()


def pictures(name: str, draw: Callable[[], Any], kinds: Sequence[str]) -> dict[str, bytes]:
    """Encode a figure in several kinds; it is drawn and laid out once.

    Args:
        name: the files', without suffix.
        draw, kinds: as :func:`encode` takes them.

    Returns:
        File name -> content.
    """
    once = cache(draw)
    return {f"{name}.{kind}": encode(once, kind) for kind in kinds}


def _settle(figure: Any) -> None:
    """Lay a figure out once and round where its axes stand.

    The layout's solver leaves other last bits from one time to the next, and an SVG names its
    clipping paths after all of them.
    """
    from matplotlib.layout_engine import PlaceHolderLayoutEngine
    from matplotlib.transforms import Bbox

    if isinstance(figure.get_layout_engine(), PlaceHolderLayoutEngine):
        return  # it was encoded before
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox(np.round(axes.get_position().get_points(), 9)))


def pixels(draw: Callable[[], Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw a figure.

    Args:
        draw: makes the figure.

    Returns:
        uint8 [height, width, 3].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with _style():
        canvas: Any = FigureCanvasAgg(draw())
        canvas.draw()
        return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]


def evolution_figure(records: Sequence[LineageRecord], summary: Summary) -> Any:
    """Draw the evolution curve: the paired gain over lineage length, large.

    Below it stand the accuracies that it comes from, and the ancestor's own. The title is the
    finding.

    Args:
        records: lineages of one scenario that differ in their seed.
        summary: of the same.

    Returns:
        A matplotlib figure.
    """
    with_ancestor = any(g.ancestor_accuracy is not None for r in records for g in r.generations)
    figure = new_figure(8.2, 9.2 if with_ancestor else 7.8)
    ratios = [3.0, 2.2, 1.1] if with_ancestor else [3.0, 2.2]
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    points = _gathered(records, lambda g: gains(g) if g.scratch is not None else ())
    _draw_gain(panels[0], records, summary, points)
    _draw_accuracy(panels[1], records, summary)
    if with_ancestor:
        _draw_ancestor(panels[2], records)
    panels[-1].set_xlabel("lineage length (tasks the ancestor has learned)")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_title(textwrap.fill(summary.title, 110), loc="left", fontsize=8.5, color=GREY)
    last = pooled_interval(points[max(points)]) if points else None
    headline = finding(summary, max(points, default=0), last)
    figure.suptitle(textwrap.fill(headline, 74), x=0.02, ha="left", fontsize=12, fontweight="bold")
    figure.align_ylabels(panels)
    note = textwrap.fill(f"{gain_sentence(summary)} {verdict(summary)}", 145)
    figure.supxlabel(note, x=0.02, ha="left", fontsize=7.5, color="#333333")
    return figure


def _draw_accuracy(axes: Any, records: Sequence[LineageRecord], summary: Summary) -> None:
    """Thin lines: an interval between tasks says nothing about a paired difference."""
    # A pretrained ancestor that learns no task stands at 0 and is not untrained.
    first = min(1, summary.tasks)
    inherited = _points(records, lambda g: g.inherited, least=first)
    _line(axes, inherited, BLUE, "-", "o", "inherited learngene")
    for label, (name, colour, style, marker) in METHODS.items():
        _line(axes, _points(records, attrgetter(name), least=first), colour, style, marker, label)
    reference = [value for r in records if r.reference for value in r.reference.accuracy]
    if reference:
        level = 100 * float(np.mean(reference))
        label = "from-scratch, paper's architecture"
        axes.axhline(level, color=GREY, lw=1, ls=(0, (1, 1)), label=label, zorder=1)
    classes = records[0].settings.get("descend", {}).get("classes_per_task")
    if classes:
        axes.axhline(100 / classes, color="black", lw=0.8, ls="--", label="chance", zorder=1)
    axes.set_ylabel("descendants' mean\ntest accuracy (%)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.03))


def _draw_gain(
    axes: Any, records: Sequence[LineageRecord], summary: Summary, points: Points
) -> None:
    label = "from-scratch, same architecture"
    axes.axhline(0, color=RED, lw=1.2, ls="--", label=label, zorder=1)
    if points:
        first = min(1, summary.tasks)
        for length, values in points.items():
            label = "" if length != max(points) else "one descendant's gain"
            _dots(axes, length, values, label)
        label = f"inherited learngene: mean of {_count(points)} pairs, 95 % interval of the mean"
        _line_with_band(axes, {x: v for x, v in points.items() if x >= first}, BLUE, label)
        _draw_whole_gain(axes, _gathered(records, whole_gains))
        _mark_zero(axes, points.get(0) if first else None, records)
        _draw_trend(axes, summary.lengths, points, summary.gain)
    else:
        axes.annotate(
            "from-scratch control off",
            (0.5, 0.5),
            xycoords="axes fraction",
            ha="center",
            va="center",
            color=GREY,
        )
    axes.set_ylabel("gain over from-scratch\n(percentage points)")
    axes.legend(fontsize=7.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.02))


def _dots(axes: Any, length: int, values: Sequence[Array], label: str) -> None:
    """Every pair's gain, faintly."""
    axes.plot(
        [length] * sum(map(len, values)),
        np.concatenate(values),
        ".",
        color=BLUE,
        alpha=0.35,
        markersize=5,
        markeredgewidth=0,
        zorder=2,
        label=label or None,
    )


def _draw_whole_gain(axes: Any, points: Points) -> None:
    """What can be inherited at most: the whole ancestor over its own architecture."""
    _, colour, style, marker = METHODS["whole ancestor, fine-tuned"]
    label = "whole ancestor over its architecture: the ceiling"
    _line(axes, points, colour, style, marker, label)


def _draw_ancestor(axes: Any, records: Sequence[LineageRecord]) -> None:
    curves = (
        ("ancestor_accuracy", "average accuracy", "black", "-", "o"),
        ("forgetting", "forgetting", GREY, "--", "x"),
    )
    for name, label, colour, style, marker in curves:

        def values(g: Generation, name: str = name) -> Sequence[float]:
            value = getattr(g, name)
            return (value,) if value is not None and math.isfinite(value) else ()

        _line(
            axes,
            {x: v for x, v in _gathered(records, values).items() if x > 0},
            colour,
            style,
            marker,
            label,
        )
    axes.set_ylabel("ancestor, tasks\nso far (%)")
    axes.legend(fontsize=7.5, ncols=2, loc="best")


def _points(
    records: Sequence[LineageRecord], pick: Callable[[Generation], Descent | None], least: int = 0
) -> Points:
    """Accuracies in %."""

    def values(g: Generation) -> Sequence[float]:
        descent = pick(g)
        return descent.accuracy if descent is not None and g.lineage >= least else ()

    return _gathered(records, values)


def _gathered(
    records: Sequence[LineageRecord], values: Callable[[Generation], Sequence[float]]
) -> Points:
    """A hundred times the values at the lineage lengths where every seed has some.

    The page's tables pool in the same way.
    """
    return aligned(
        [
            {
                g.lineage: row
                for g in record.generations
                if (row := 100 * np.array(values(g), dtype=np.float64)).size
            }
            for record in records
        ]
    )


def _count(points: Points) -> int:
    return max((sum(map(len, values)) for values in points.values()), default=0)


def _line(axes: Any, points: Points, colour: str, style: str, marker: str, label: str) -> None:
    if points:
        means = [float(np.mean([row.mean() for row in values])) for values in points.values()]
        axes.plot(
            list(points),
            means,
            color=colour,
            ls=style,
            marker=marker,
            ms=3.5,
            lw=1.2,
            label=label,
            zorder=3,
        )


def _line_with_band(axes: Any, points: Points, colour: str, label: str) -> None:
    if not points:
        return
    x, intervals = list(points), [pooled_interval(values) for values in points.values()]
    if len(x) > 1:
        axes.fill_between(
            x,
            [i.low for i in intervals],
            [i.high for i in intervals],
            color=colour,
            alpha=0.15,
            lw=0,
            zorder=1,
        )
    else:
        _whisker(axes, x[0], intervals[0], colour)
    axes.plot(
        x,
        [i.mean for i in intervals],
        color=colour,
        ls="-",
        marker="o",
        ms=4.5,
        lw=1.8,
        label=label,
        zorder=4,
    )


def _whisker(axes: Any, x: int, interval: Interval, colour: str) -> None:
    axes.plot([x, x], [interval.low, interval.high], color=colour, lw=1.2, zorder=3)


def _mark_zero(axes: Any, values: list[Array] | None, records: Sequence[LineageRecord]) -> None:
    """Mark lineage length 0: no task of the stream learned.

    That is another thing than untrained where the ancestor began from a checkpoint.
    """
    if values:
        begun = any(record.settings.get("ancestor", {}).get("checkpoint") for record in records)
        interval = pooled_interval(values)
        _whisker(axes, 0, interval, BLUE)
        axes.plot(
            [0],
            [interval.mean],
            marker="o",
            mfc="white",
            mec=BLUE,
            ms=6,
            ls="none",
            label=f"lineage 0: {'pretrained' if begun else 'untrained'} ancestor",
            zorder=5,
        )


def _draw_trend(axes: Any, lengths: Sequence[int], points: Points, t: Trend) -> None:
    """Where a rise or fall is claimed, draw the slope's line through the centre of the curve.

    The fan of its interval stands around it. Nothing is drawn where nothing is claimed: a line
    would claim what the verdict does not.
    """
    lengths = [length for length in lengths if length in points]
    if not (t.rises or t.falls) or not lengths:
        return
    x = np.linspace(lengths[0], lengths[-1], 60)
    away = np.log2(x) - float(np.mean(np.log2(lengths)))
    level = float(np.mean([row.mean() for length in lengths for row in points[length]]))
    for bound in (t.low, t.high):
        axes.plot(x, level + bound * away, color="black", lw=0.6, ls=(0, (2, 3)), zorder=2)
    axes.plot(x, level + t.slope * away, color="black", lw=1, ls=(0, (6, 3)), zorder=3)
    label = f"trend {t.slope:+.2f} {t.unit} [{t.low:+.2f}, {t.high:+.2f}]"
    axes.annotate(
        label, (0.995, 0.02), xycoords="axes fraction", ha="right", va="bottom", fontsize=7.5
    )
