"""Which layers the learngene consisted of along the lineage: the genome picture.

Drawn as :mod:`evolve.report.figures` draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evolve.report.curves import FALLBACKS, Generation, LineageRecord
from evolve.report.figures import GREY, new_figure

SCREEN = 7.4  # inches; at the page's width no picture is higher than a screen
LABELLED = 16  # lineage lengths a row of panels may name before some are left out
HELD, LEFT = "#3787c0", "#dddddd"


def genome_figure(records: Sequence[LineageRecord], title: str = "") -> Any:
    """Draw which layers the learngene consisted of: layers by lineage length, one panel a seed.

    All are shaded by a~ (Eq. 9) on one scale, on which 1/L is marked. Bars say how large the layers
    are, and the numbers above a panel how much of the ancestor's weights was inherited.

    Args:
        records: the lineages.
        title: the picture's.

    Returns:
        A matplotlib figure.
    """
    drawn = [record for record in records if record.generations]
    columns = 1 if len(drawn) < 3 else 2 if len(drawn) < 7 else 3
    rows = max(1, -(-len(drawn) // columns))
    layers = max((g.all_layers for r in drawn for g in r.generations), key=len, default=())
    panel = min(0.55 + 0.21 * max(len(layers), 3), (SCREEN - 1.5) / rows)
    figure = new_figure(8.2, 1.5 + rows * panel)
    grid = figure.subplots(rows, columns + 1, squeeze=False, width_ratios=[6] * columns + [1.1])
    norm, font = _scale(drawn), min(7.5, max(3.0, 50 * panel / max(len(layers), 1)))
    panels = grid[:, :-1].ravel()
    for axes, record in zip(panels, drawn, strict=False):
        _draw_genome(axes, record, layers, norm, font, columns)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    for number, line in enumerate(grid):
        for axes in line[1:]:
            axes.set_yticklabels([])
        _draw_sizes(line[-1], drawn, layers)
        line[-1].tick_params(labelbottom=number == rows - 1)
    if len(layers):
        grid[-1, -1].set_xlabel("share of the\nweights (%)", fontsize=7.5)
    about = " (tasks the ancestor has learned)" if columns == 1 else ""
    for axes in grid[-1, :-1]:
        axes.set_xlabel(f"lineage length{about}")
    name = title or "the learngene along the lineage"
    figure.suptitle(name, x=0.02, ha="left", fontsize=10.5, fontweight="bold")
    _genome_legend(figure)
    if norm is not None:
        _bar(figure, grid, norm, len(layers))
    return figure


def _scale(drawn: Sequence[LineageRecord]) -> Any:
    """One scale of a~ for all seeds, which holds 1/L; None where the scores do not differ."""
    from matplotlib.colors import Normalize

    generations = [g for record in drawn for g in record.generations]
    scores = [s for g in generations for s in g.scores if math.isfinite(s)]
    if not scores or min(scores) == max(scores):
        return None
    even = 1 / max(len(g.scores) for g in generations)
    return Normalize(min(*scores, even), max(*scores, even))


def _draw_genome(
    axes: Any,
    record: LineageRecord,
    layers: Sequence[str],
    norm: Any,
    font: float,
    columns: int,
) -> None:
    lengths = sorted({*record.lengths, *(g.lineage for g in record.generations)})
    places = {length: place for place, length in enumerate(lengths)}
    for g in record.generations:
        _draw_generation(axes, places[g.lineage], g, norm, font)
    axes.set(xlim=(-0.6, len(lengths) - 0.4), ylim=(len(layers) - 0.5, -0.5))
    step = -(-len(lengths) * columns // LABELLED)
    named = range(0, len(lengths), step)
    axes.set_xticks(list(named), [str(lengths[place]) for place in named], fontsize=7.5)
    axes.set_yticks(range(len(layers)), layers, fontsize=font)
    axes.grid(False)
    shares = {places[g.lineage]: g.share for g in record.generations if g.share is not None}
    for place in shares.keys() & set(named):
        where = (place, -0.6)
        text = f"{100 * shares[place]:.0f}"
        axes.text(*where, text, ha="center", va="bottom", fontsize=6, color=GREY)
    about = ": % of the weights inherited" if shares else ""
    axes.set_title(f"seed {record.seed}{about}", loc="left", fontsize=7.5, pad=9, color=GREY)


def _draw_generation(axes: Any, column: int, g: Generation, norm: Any, font: float) -> None:
    """One column: a box a layer. ``norm``: scores -> [0, 1]; None where they do not differ."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for row, layer in enumerate(g.all_layers):
        scored = norm is not None and row < len(g.scores) and math.isfinite(g.scores[row])
        shade = float(norm(g.scores[row])) if scored else 0.5
        colour = (
            colormaps["Blues"](0.45 + 0.5 * shade)
            if layer in g.selected
            else colormaps["Greys"](0.03 + 0.32 * shade)
        )
        axes.add_patch(
            Rectangle(
                (column - 0.48, row - 0.46),
                0.96,
                0.92,
                facecolor=colour,
                edgecolor="white",
                lw=0,
                hatch="////" if g.status in FALLBACKS else None,
            )
        )
    held = [row for row, layer in enumerate(g.all_layers) if layer in g.selected]
    axes.plot([column] * len(held), held, "o", color="white", ms=0.4 * font)


def _draw_sizes(axes: Any, drawn: Sequence[LineageRecord], layers: Sequence[str]) -> None:
    """Every layer's share of the ancestor's weights; blue: how often it was inherited."""
    sizes: dict[str, float] = {}
    often = dict.fromkeys(layers, 0.0)
    generations = [g for record in drawn for g in record.generations]
    for g in generations:
        sizes |= {name: 100 * size for name, size in zip(g.all_layers, g.sizes, strict=False)}
        for name in g.selected:
            often[name] += 1 / len(generations)
    if not sizes:
        axes.set_axis_off()
        return
    whole = np.array([sizes.get(name, 0.0) for name in layers])
    axes.barh(range(len(layers)), whole, color=LEFT, height=0.7)
    held = whole * np.array([often[name] for name in layers])
    axes.barh(range(len(layers)), held, color=HELD, height=0.7)
    axes.set(ylim=(len(layers) - 0.5, -0.5), yticks=[])
    axes.tick_params(axis="x", labelsize=7)


def _bar(figure: Any, grid: Any, norm: Any, layers: int) -> None:
    """The scale of all panels, with the threshold of Eq. 10 on it."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(norm, _dark_greys()), ax=grid.ravel().tolist(), pad=0.01, fraction=0.02
    )
    bar.set_label("score a~ (darker: higher), all seeds", fontsize=7.5)
    bar.ax.tick_params(labelsize=6.5)
    even = 1 / layers
    bar.ax.axhline(even, color="#D55E00", lw=1.5)
    bar.ax.text(
        -0.15,
        even,
        "1/L",
        ha="right",
        va="center",
        fontsize=7,
        color="#D55E00",
        transform=bar.ax.get_yaxis_transform(),
    )


def _dark_greys() -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["Greys"](np.linspace(0.03, 0.75, 128)))


def _genome_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    held = (Patch(facecolor=HELD), Line2D([], [], marker="o", color="white", ms=3, ls="none"))
    names = ["inherited", "not inherited", "condenser tied or collapsed: fallback layers"]
    handles = [
        held,
        Patch(facecolor=LEFT),
        Patch(facecolor="#6baed6", edgecolor="white", hatch="////", lw=0),
    ]
    figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=7.5)
