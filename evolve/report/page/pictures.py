"""Evolution curves side by side: one a method, pooled over seeds, for one pairing of a batch.

Accuracies are in %, gains in points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from evolve.report.compare import (
    CONTROLS,
    METRICS,
    Batch,
    Case,
    control_name,
    control_values,
    pooled,
)
from evolve.report.curves import Interval, LineageRecord
from evolve.report.figures import MARKERS, new_figure

# Okabe and Ito's colours without the yellow, which is too pale for a line. The lengths of the three
# lists have no common divisor, so 252 curves differ.
COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
CONTROL_COLOUR = "#666666"
Points = Mapping[int, Interval]  # lineage length -> mean with its interval
Pair = tuple[Case, LineageRecord]


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    label: str
    accuracy: Points
    gain: Points
    control: bool = False


@dataclass(frozen=True)
class Panel:
    """The curves that may be compared: lineages that differ in the method and the seed only."""

    title: str  # the values of the other axes; "" where there are none
    curves: tuple[Curve, ...]


def panels(batch: Batch, measured: Sequence[Pair]) -> list[Panel]:
    """A panel for every pairing that has measured anything.

    The controls are those of the reference's lineages.

    Args:
        batch: the batch.
        measured: its cases with what they measured.
    """
    grouped: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    for case, record in measured:
        grouped[case.pairing].append((case, record))
    return [
        Panel(", ".join(pairing), tuple(_curves(batch, pairs)))
        for pairing, pairs in grouped.items()
    ]


def _curves(batch: Batch, pairs: Sequence[Pair]) -> list[Curve]:
    by_method = {method: [r for c, r in pairs if c.method == method] for method in batch.methods}
    curves = [curve(method, records) for method, records in by_method.items() if records]
    reference = (
        by_method.get(batch.reference, [])
        if batch.reference
        else next((records for records in by_method.values() if records), [])
    )
    return curves + _controls(reference, batch.controls)


def curve(label: str, records: Sequence[LineageRecord]) -> Curve:
    """The inherited descendants of lineages that differ in their seed."""
    return Curve(label, pooled(records, METRICS["accuracy"]), pooled(records, METRICS["gain"]))


def lineage_curves(records: Sequence[LineageRecord]) -> list[Curve]:
    """The inherited descendants and every control that was measured."""
    return [curve("inherited", records), *_controls(records, CONTROLS)]


def _controls(records: Sequence[LineageRecord], names: Sequence[str]) -> list[Curve]:
    """Those of the controls that were measured."""
    curves = (
        Curve(control_name(name), pooled(records, control_values(name)), {}, control=True)
        for name in names
    )
    return [control for control in curves if control.accuracy]


def panel_figure(panel: Panel, untrained: bool) -> Any:
    """Draw accuracy above, gain over from-scratch below, against lineage length.

    Bars are 95 % intervals, set side by side so that none hides another.

    Args:
        panel: the curves.
        untrained: lineage length 0 is an untrained ancestor, drawn hollow and apart.

    Returns:
        A matplotlib figure.
    """
    gains = any(line.gain for line in panel.curves)
    figure = new_figure(8.2, 6.4 if gains else 4.2)
    axes = figure.subplots(
        2 if gains else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 2] if gains else [1]
    )[:, 0]
    handles = _draw(axes[0], panel, "accuracy", untrained)
    axes[0].set_ylabel("descendants' test accuracy (%)")
    if gains:
        _draw(axes[1], panel, "gain", untrained)
        axes[1].axhline(0, color="black", lw=0.8)
        axes[1].set_ylabel("gain over\nfrom-scratch (points)")
    axes[-1].set_xlabel("lineage length (tasks the ancestor has learned)")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    if panel.title:
        axes[0].set_title(panel.title, loc="left", fontsize=9)
    figure.legend(
        handles, [_visible(line.label) for line in panel.curves], loc="outside lower left", ncols=3
    )
    return figure


def _draw(axes: Any, panel: Panel, metric: str, untrained: bool) -> list[Any]:
    """Draw every curve; their handles for the legend."""
    handles, looks = [], zip(cycle(COLOURS), cycle(MARKERS), cycle(STYLES), strict=False)
    lengths = {length for line in panel.curves for length in getattr(line, metric)}
    span = max(lengths, default=0) - min(lengths, default=0)
    step = min(0.012 * (span or 1), 0.5 / len(panel.curves))
    for number, (line, (colour, marker, style)) in enumerate(
        zip(panel.curves, looks, strict=False)
    ):
        points: Points = getattr(line, metric)
        look = {
            "color": CONTROL_COLOUR if line.control else colour,
            "marker": marker,
            "ms": 4.5,
            "elinewidth": 1,
            "capsize": 2,
        }
        shift = (number - (len(panel.curves) - 1) / 2) * step
        first = 1 if untrained else 0
        stroke = {"ls": (0, (1, 1)) if line.control else style, "lw": 1.4}
        handles.append(
            _bars(axes, {x: i for x, i in points.items() if x >= first}, shift, look | stroke)
        )
        _bars(
            axes,
            {x: i for x, i in points.items() if x < first},
            shift,
            look | {"ls": "none", "mfc": "white"},
        )
    return handles


def _bars(axes: Any, points: Points, shift: float, look: Mapping[str, Any]) -> Any:
    means = np.array([i.mean for i in points.values()])
    bounds = np.array([[i.low for i in points.values()], [i.high for i in points.values()]])
    return axes.errorbar([x + shift for x in points], means, np.abs(bounds - means), **look)


def _visible(label: str) -> str:
    """matplotlib hides labels that start with an underscore."""
    return f"\u200b{label}" if label.startswith("_") else label
