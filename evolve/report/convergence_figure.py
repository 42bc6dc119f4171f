"""How the condensations of a run went, a line a generation.

Losses, alpha and the gradient of the meta-network stand against the iteration. Drawn as
:mod:`evolve.report.figures` draws; the curves are
:mod:`evolve.condensers.meta_network.convergence`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evolve.report.curves import LineageRecord, Summary
from evolve.report.figures import new_figure
from evolve.report.trends import Array

NEEDED = (
    "iteration",
    "classification",
    "matching",
    "alpha_mean",
    "alpha_min",
    "alpha_max",
    "gradient",
)


def courses(records: Sequence[LineageRecord]) -> list[tuple[int, dict[str, Array]]]:
    """Lineage length and curves of every condensation that kept them.

    Only the meta-network's condensations do.

    Args:
        records: the lineages.

    Returns:
        (length, curve's name -> values at the ends of stretches of iterations).
    """
    return [
        (g.lineage, {name: np.array(g.history[name], dtype=np.float64) for name in NEEDED})
        for record in records
        for g in record.generations
        if all(g.history.get(name) for name in NEEDED)
    ]


def convergence_figure(records: Sequence[LineageRecord], summary: Summary) -> Any:
    """Draw how the condensations went, in four panels.

    L_cls, L_meta, alpha (mean over the pairs, with the band from the least to the largest), and the
    mean over the iterations so far of |grad phi|^2, which Theorem 1 bounds by a constant / sqrt(T).

    Args:
        records: the lineages.
        summary: of the same, for the title.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: :func:`courses` has none.
    """
    drawn = courses(records)
    if not drawn:
        raise ValueError("no condensation of these records kept its course")
    figure = new_figure(8.2, 6.6)
    panels = figure.subplots(2, 2)
    longest = max(lineage for lineage, _ in drawn)
    for lineage, curves in sorted(drawn, key=lambda course: course[0]):
        _draw_course(panels.flat, curves, _shade(lineage, longest), min(0.2, 0.6 / len(drawn)))
    _theorem(panels[1][1], [curves for _, curves in drawn])
    _label(panels)
    _lengths(figure, panels, longest)
    figure.suptitle(
        f"{summary.title}: how the condensations went",
        x=0.02,
        ha="left",
        fontsize=9,
        fontweight="bold",
    )
    return figure


def _draw_course(panels: Any, curves: Mapping[str, Array], colour: Any, alpha: float) -> None:
    """One condensation's line in each of the four panels; ``alpha``: how opaque its band is."""
    upper_left, upper_right, lower_left, lower_right = panels
    style = {"color": colour, "lw": 1.0}
    x = curves["iteration"]
    upper_left.plot(x, curves["classification"], **style)
    upper_right.plot(x, curves["matching"], **style)
    lower_left.fill_between(
        x, curves["alpha_min"], curves["alpha_max"], color=colour, alpha=alpha, lw=0
    )
    lower_left.plot(x, curves["alpha_mean"], **style)
    lower_right.plot(x, running_mean(curves), **style)


def _label(panels: Any) -> None:
    labels = (
        "$L_{cls}$, training batches",
        "$L_{meta}$, meta-data",
        "alpha of the pairs",
        r"mean of $|\nabla_\phi|^2$ so far",
    )
    for axes, label in zip(panels.flat, labels, strict=True):
        axes.set_ylabel(label)
    panels[0][1].set_yscale("log")
    for axes in panels[1]:
        axes.set_xlabel("iteration of Algorithm 1")
    panels[1][0].annotate(
        "line: mean; band: least to largest pair",
        (0.02, 0.03),
        xycoords="axes fraction",
        fontsize=7.5,
        color="#333333",
    )


def running_mean(curves: Mapping[str, Array]) -> Array:
    """Theorem 1's left side: (1 / T) sum over the first T iterations of |grad phi|^2.

    Args:
        curves: "iteration" and "gradient" of one condensation, a value a stretch of iterations.

    Returns:
        Its value at every T where a stretch ends.
    """
    counts = np.diff(curves["iteration"], prepend=0)
    mean: Array = np.cumsum(curves["gradient"] * counts) / curves["iteration"]
    return mean


def _theorem(axes: Any, drawn: Sequence[Mapping[str, Array]]) -> None:
    """Draw Theorem 1's 1 / sqrt(T).

    Its constant is not known, so the line starts where the steepest curve does. Only its slope says
    something.
    """
    last = max(float(curves["iteration"][-1]) for curves in drawn)
    first = min(float(curves["iteration"][0]) for curves in drawn)
    height = max(float(running_mean(curves)[0]) for curves in drawn)
    x = np.array([first, max(last, first + 1)])
    axes.set(xscale="log", yscale="log")
    if height > 0:
        axes.plot(
            x,
            height * np.sqrt(first / x),
            color="black",
            lw=1.2,
            ls="--",
            label=r"Theorem 1's slope, $1/\sqrt{T}$",
        )
        axes.legend(fontsize=7.5, loc="lower left")


def _shade(lineage: int, longest: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.95 * lineage / max(1, longest))


def _lengths(figure: Any, panels: Any, longest: int) -> None:
    """The colours' legend."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    shades = ListedColormap(colormaps["viridis"](np.linspace(0, 0.95, 128)))
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, max(1, longest)), shades), ax=panels, pad=0.01, fraction=0.025
    )
    bar.set_label("lineage length", fontsize=7.5)
    bar.ax.tick_params(labelsize=6.5)
    bar.ax.yaxis.get_major_locator().set_params(integer=True)
