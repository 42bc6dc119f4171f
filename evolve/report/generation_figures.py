"""Pictures of one generation: the alpha matrix, and how its descendants learned.

Drawn as :mod:`evolve.report.figures` draws.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evolve.report.curves import Descent, Generation, point_interval
from evolve.report.figures import BLUE, METHODS, new_figure
from evolve.report.trends import Array


def alpha_figure(generation: Generation) -> Any:
    """Draw the alpha matrix (Eq. 8) with the scores a~ (Eq. 9) at its side.

    Args:
        generation: its alpha is [L, K], ancestor layers by pseudo-descendant layers.

    Returns:
        A matplotlib figure.
    """
    alpha: Array = np.array(generation.alpha, dtype=np.float64)
    figure = new_figure(6.4, 1.6 + 0.24 * len(alpha))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    image = left.imshow(alpha, aspect="auto", cmap="cividis", interpolation="nearest")
    figure.colorbar(image, ax=left, pad=0.02, label="alpha")
    left.set(
        xlabel="pseudo-descendant layer k",
        title=f"lineage length {generation.lineage}: {generation.status}",
    )
    left.set_xticks(range(alpha.shape[1]), [str(k + 1) for k in range(alpha.shape[1])])
    left.set_yticks(range(len(alpha)), generation.all_layers[: len(alpha)])
    left.grid(False)
    colours = [
        BLUE if layer in generation.selected else "#bbbbbb" for layer in generation.all_layers
    ]
    right.barh(range(len(generation.scores)), generation.scores, color=colours)
    if generation.scores:
        right.axvline(1 / len(generation.scores), color="black", lw=0.8, ls="--")
        spread = [s for s in (*generation.scores, 1 / len(generation.scores)) if math.isfinite(s)]
        pad = (max(spread) - min(spread)) * 0.1 + 1e-6
        right.set_xlim(min(spread) - pad, max(spread) + pad)
        right.xaxis.get_major_locator().set_params(nbins=3)
    right.set_title("a~ and 1/L (dashed)")
    return figure


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


def has_alpha(generation: Generation) -> bool:
    """Whether there is an alpha to draw; fixed selections have none."""
    return bool(generation.alpha) and bool(generation.alpha[0])
