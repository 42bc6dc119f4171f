"""Evolution curves side by side, a column for every combination of the other axes (Figure 6).

A column is a network, say, and a line an ancestor. Below stands the gain over the same architecture
from scratch. All columns have the same scales.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evolve.report.batch.arms import COLOURS, bounds, pairing_title
from evolve.report.batch.figure import BatchFigure, Pair
from evolve.report.compare import METRICS, Batch, Case, Values, pooled
from evolve.report.compare_tables import plus_minus
from evolve.report.curves import Interval, LineageRecord, evolved
from evolve.report.economy import whole_gains
from evolve.report.figures import GREY, MARKERS, new_figure
from evolve.report.pooling import summarise
from evolve.report.table import Row, Table
from evolve.report.trends import Trend

MEASURES: Mapping[str, Values] = {**METRICS, "whole ancestor's gain": whole_gains}
LABELS = {"accuracy": "descendants' test accuracy (%)", "gain": "gain over from-scratch (points)"}
Curve = Mapping[int, Interval]  # lineage length -> mean
Key = tuple[tuple[str, ...], str]  # pairing and method
Titles = Mapping[tuple[str, ...], str]  # by pairing


def networks(batch: Batch, measured: Sequence[Pair]) -> BatchFigure:
    """Evolution curves by network and ancestor.

    Args:
        batch: whose method is the line; the other axes make the columns.
        measured: its cases with what they measured.
    """
    lineages: dict[Key, list[LineageRecord]] = {}
    for case, record in measured:
        if evolved(record):
            lineages.setdefault((case.pairing, case.method), []).append(record)
    titles = {case.pairing: _title(case) for case, _ in measured}
    curves = {
        key: {name: pooled(records, values) for name, values in MEASURES.items()}
        for key, records in lineages.items()
    }
    return BatchFigure(
        tuple(_rows(curves)),
        (_table(lineages, curves, titles),),
        lambda: _draw(batch, curves, titles),
        "Evolution curves: accuracy and gain over the same architecture from scratch against "
        "lineage length, mean over seeds and tasks; band: 95 % interval; dotted: the whole "
        "ancestor's gain; hollow, at 0: the untrained ancestor.",
    )


def _title(case: Case) -> str:
    """A column's network, and what else tells it from the others."""
    network = case.scenario.settings.ancestor.network
    return ", ".join(part for part in (network, pairing_title(case.pairing)) if part)


def _rows(curves: Mapping[Key, Mapping[str, Curve]]) -> Iterator[dict[str, Any]]:
    for (pairing, method), by_name in curves.items():
        for name, curve in by_name.items():
            for length, interval in curve.items():
                yield {
                    **dict(part.split("=", 1) for part in pairing),
                    "method": method,
                    "measure": name,
                    "lineage": length,
                    **bounds(interval, "points"),
                }


def _table(
    lineages: Mapping[Key, Sequence[LineageRecord]],
    curves: Mapping[Key, Mapping[str, Curve]],
    titles: Titles,
) -> Table:
    rows = []
    for (pairing, method), records in lineages.items():
        by_name = curves[pairing, method]
        gain = {length: mean for length, mean in by_name["gain"].items() if length > 0}
        ends = (min(gain), max(gain)) if gain else ()
        cells = [f"{plus_minus(gain[end], signed=True)} ({end})" for end in ends] or ["", ""]
        whole = by_name["whole ancestor's gain"]
        last = plus_minus(whole[ends[-1]], signed=True) if ends and ends[-1] in whole else ""
        slope = _slope(summarise(records).gain)
        rows.append(Row((titles[pairing], method, *cells, slope, last, str(len(records)))))
    heads = (
        "panel",
        "method",
        "gain at first (lineage length)",
        "gain at last (lineage length)",
        "points per doubling of length",
        "whole ancestor's gain at last",
        "seeds",
    )
    return Table("Gain over the same architecture from scratch (points)", heads, tuple(rows), 2)


def _slope(t: Trend) -> str:
    if math.isnan(t.slope):
        return ""
    return plus_minus(Interval(t.slope, t.low, t.high, t.points), signed=True)


def _draw(batch: Batch, curves: Mapping[Key, Mapping[str, Curve]], titles: Titles) -> Any:
    columns = list(dict.fromkeys(pairing for pairing, _ in curves))
    methods = [m for m in batch.methods if any(method == m for _, method in curves)]
    figure = new_figure(1.2 + 2.8 * max(len(columns), 2), 6.0)
    panels = figure.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
    for column, pairing in enumerate(columns):
        for place, method in enumerate(methods):
            by_name = curves.get((pairing, method), {})
            look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
            for row, name in enumerate(LABELS):
                _line(panels[row][column], by_name.get(name, {}), look)
            whole = by_name.get("whole ancestor's gain", {})
            _whole(panels[1][column], whole, look)
        panels[0][column].set_title(titles[pairing], fontsize=9)
        panels[1][column].axhline(0, color="black", lw=0.8)
        panels[1][column].set_xlabel("lineage length (tasks learned)")
        panels[1][column].xaxis.get_major_locator().set_params(integer=True)
    for row, label in zip(panels, LABELS.values(), strict=True):
        row[0].set_ylabel(label)
    _legend(figure, methods)
    title = textwrap.fill(batch.title or batch.name, 34 * max(len(columns), 2))
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold")
    return figure


def _line(axes: Any, curve: Curve, look: Mapping[str, Any]) -> None:
    """A curve with its band; lineage length 0, an untrained ancestor, hollow and apart."""
    trained = {length: mean for length, mean in curve.items() if length > 0}
    axes.fill_between(
        list(trained),
        [i.low for i in trained.values()],
        [i.high for i in trained.values()],
        color=look["color"],
        alpha=0.15,
        lw=0,
    )
    axes.plot(list(trained), [i.mean for i in trained.values()], ms=4, lw=1.6, **look)
    if 0 in curve:
        axes.plot([0], [curve[0].mean], ms=5, mfc="white", ls="none", **look)


def _whole(axes: Any, curve: Curve, look: Mapping[str, Any]) -> None:
    trained = {length: mean.mean for length, mean in curve.items() if length > 0}
    axes.plot(list(trained), list(trained.values()), ls=":", lw=1.2, color=look["color"])


def _legend(figure: Any, methods: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[n % len(COLOURS)], marker=MARKERS[n % len(MARKERS)], ms=4)
        for n in range(len(methods))
    ]
    handles.append(Line2D([], [], color=GREY, ls=":", lw=1.2))
    names = [*methods, "dotted: the whole ancestor's gain"]
    figure.legend(handles, names, loc="outside lower left", ncols=min(len(names), 4), fontsize=8)
