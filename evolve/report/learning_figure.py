"""How the descendants of one generation learned.

Drawn as :mod:`evolve.report.figures` draws.
"""

from __future__ import annotations

from typing import Any

from evolve.report.curves import Descent, Generation, point_interval
from evolve.report.figures import BLUE, METHODS, new_figure


def learning_figure(generation: Generation) -> Any:
    """Draw test accuracy of one generation's descendants over their epochs, every method.

    The band holds 95 % of the inherited descendants' mean.

    Args:
        generation: the generation.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    methods: list[tuple[str, Descent | None, str, str]] = [
        ("inherited learngene", generation.inherited, BLUE, "-")
    ]
    methods += [
        (label, getattr(generation, name), colour, style)
        for label, (name, colour, style, _) in METHODS.items()
    ]
    for label, descent, colour, style in methods:
        if descent is not None and descent.tested:
            band = descent.method == generation.inherited.method
            _draw_learning(axes, label, descent, colour, style, band)
    axes.set(
        xlabel="epoch",
        ylabel="descendants' test accuracy (%)",
        title=f"lineage length {generation.lineage}",
    )
    if axes.lines:
        axes.legend(fontsize=7.5, loc="lower right")
    return figure


def _draw_learning(
    axes: Any, label: str, descent: Descent, colour: str, style: str, band: bool
) -> None:
    x = descent.tested
    intervals = [
        point_interval([100 * curve[place] for curve in descent.curves]) for place in range(len(x))
    ]
    axes.plot(
        x,
        [i.mean for i in intervals],
        color=colour,
        ls=style,
        lw=1.5,
        label=label,
        marker="." if len(x) < 5 else None,
    )
    if band:
        axes.fill_between(
            x,
            [i.low for i in intervals],
            [i.high for i in intervals],
            color=colour,
            alpha=0.15,
            lw=0,
        )
