"""Which layers the learngene consisted of along the lineage: the genome picture.

Drawn as :mod:`evolve.report.figures` draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evolve.report.curves import FALLBACKS, Generation, LineageRecord
from evolve.report.figures import new_figure


def genome_figure(records: Sequence[LineageRecord], title: str = "") -> Any:
    """Draw which layers the learngene consisted of: layers by lineage length.

    One panel a seed, shaded by a~ (Eq. 9).

    Args:
        records: the lineages.
        title: the picture's.

    Returns:
        A matplotlib figure.
    """
    drawn = [record for record in records if record.generations]
    rows = max((len(g.all_layers) for r in drawn for g in r.generations), default=1)
    figure = new_figure(8.2, 1.0 + max(1, len(drawn)) * (0.9 + 0.21 * rows))
    panels = figure.subplots(max(1, len(drawn)), 1, squeeze=False)[:, 0]
    for axes, record in zip(panels, drawn, strict=False):
        _draw_genome(figure, axes, record, f"seed {record.seed}")
    panels[-1].set_xlabel("lineage length (tasks the ancestor has learned)")
    panels[0].set_title(title or "the learngene along the lineage", loc="left", fontweight="bold")
    _genome_legend(figure)
    return figure


def _draw_genome(figure: Any, axes: Any, record: LineageRecord, name: str) -> None:
    from matplotlib.colors import Normalize

    scores = [s for g in record.generations for s in g.scores if math.isfinite(s)]
    norm = Normalize(min(scores), max(scores)) if scores and min(scores) < max(scores) else None
    layers = max((g.all_layers for g in record.generations), key=len)
    lengths = sorted({*record.lengths, *(g.lineage for g in record.generations)})
    columns = {length: column for column, length in enumerate(lengths)}
    for g in record.generations:
        _draw_generation(axes, columns[g.lineage], g, norm)
    axes.set(xlim=(-0.6, max(columns.values()) + 0.6), ylim=(len(layers) - 0.5, -0.5), ylabel=name)
    axes.set_xticks(list(columns.values()), [str(length) for length in columns], fontsize=7.5)
    axes.set_yticks(range(len(layers)), layers, fontsize=7.5)
    axes.grid(False)
    if norm is not None:
        from matplotlib.cm import ScalarMappable

        bar = figure.colorbar(ScalarMappable(norm, _dark_greys()), ax=axes, pad=0.01, fraction=0.03)
        bar.set_label("score a~ (darker: higher)", fontsize=7.5)
        bar.ax.tick_params(labelsize=6.5)


def _draw_generation(axes: Any, column: int, g: Generation, norm: Any) -> None:
    """One column: a box a layer. ``norm``: scores -> [0, 1]; None where they do not differ."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    for row, layer in enumerate(g.all_layers):
        held = layer in g.selected
        scored = norm is not None and row < len(g.scores) and math.isfinite(g.scores[row])
        shade = float(norm(g.scores[row])) if scored else 0.5
        colour = (
            colormaps["Blues"](0.45 + 0.5 * shade)
            if held
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
        if held:
            axes.plot(column, row, "o", color="white", ms=3)


def _dark_greys() -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["Greys"](np.linspace(0.03, 0.75, 128)))


def _genome_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    held = (Patch(facecolor="#3787c0"), Line2D([], [], marker="o", color="white", ms=3, ls="none"))
    names = ["inherited", "not inherited", "condenser tied or collapsed: fallback layers"]
    handles = [
        held,
        Patch(facecolor="#dddddd"),
        Patch(facecolor="#6baed6", edgecolor="white", hatch="////", lw=0),
    ]
    figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=7.5)
