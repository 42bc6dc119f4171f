"""The alpha matrices of a lineage, a panel a generation: the paper's Figure 2.

Drawn as :mod:`evolve.report.figures` draws. Colours are on the scale of a~ (Eq. 9) with the
threshold 1/L (Eq. 10) as its middle, the same in all panels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evolve.report.curves import FALLBACKS, Generation, LineageRecord
from evolve.report.figures import BLUE, new_figure
from evolve.report.trends import Array

MOST = 45  # panels on a screen
WIDE = 9  # panels in a row
TALL = 6.2  # inches of all panels
GAP = 0.6  # between matrix and bars, in cells


def has_scores(records: Sequence[LineageRecord]) -> bool:
    """Whether any layer was scored: a fixed set has nothing to draw."""
    return any(_is_scored(g) for record in records for g in record.generations)


def _is_scored(g: Generation) -> bool:
    return bool(g.alpha) and bool(g.alpha[0])


def pair_scores(g: Generation) -> Array:
    """Every pair's alpha on the scale of a~, so that the largest of a row is the layer's a~.

    Of a softmax over the layers (Eq. 9) that is exp(alpha^{l,k}) / sum_j exp(alpha^j). Scores that
    were standardised before the softmax (top-k) are divided by their standard deviation here, too.

    Args:
        g: a generation whose layers were scored.

    Returns:
        [L, K], ancestor layers by pseudo-descendant layers.
    """
    alpha, weights = np.array(g.alpha, dtype=np.float64), np.array(g.scores, dtype=np.float64)
    best = alpha.max(axis=1)
    positive = weights > 0
    spread = float(np.log(weights[positive]).std())
    scale = float(best[positive].std()) / spread if spread > 0 else 1.0
    pairs: Array = weights[:, None] * np.exp((alpha - best[:, None]) / (scale or 1.0))
    return pairs


def alpha_rows(records: Sequence[LineageRecord]) -> Iterator[dict[str, Any]]:
    """What the picture shows: one row a seed, generation and pair of layers."""
    for record in records:
        for g in record.generations:
            if _is_scored(g):
                yield from _pairs(record, g)


def _pairs(record: LineageRecord, g: Generation) -> Iterator[dict[str, Any]]:
    place = {"scenario": record.scenario, "profile": record.profile, "seed": record.seed}
    for layer, alphas, score in zip(g.all_layers, g.alpha, g.scores, strict=True):
        about = {
            "score": score,
            "threshold": 1 / len(g.scores),
            "inherited": int(layer in g.selected),
            "status": g.status,
        }
        for k, alpha in enumerate(alphas, start=1):
            pair = {"lineage": g.lineage, "layer": layer, "k": k, "alpha": alpha}
            yield {**place, **pair, **about}


def alpha_figure(records: Sequence[LineageRecord], title: str = "") -> Any:
    """Draw the matrices with a~ as bars at their side; chosen layers are blue.

    One lineage's panels are wrapped; several have a row a seed. Where they would not fit on a
    screen, lengths spread over the lineage are drawn. Methods that score layers alone (K = 1) have
    bars only.

    Args:
        records: lineages of one scenario, :func:`has_scores`.
        title: the picture's.

    Returns:
        A matplotlib figure.
    """
    rows = _grid([record for record in records if record.generations])
    drawn = [g for row in rows for _, g in row if _is_scored(g)]
    layers, columns = max(len(g.all_layers) for g in drawn), max(map(len, rows))
    height = min(max(1.4, 0.4 + 0.115 * layers), TALL / len(rows))
    figure = new_figure(min(8.2, 2.4 + 1.9 * columns), 1.0 + height * len(rows))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    look = _Look(drawn)
    for axes, row in zip(panels, rows, strict=True):
        for place, axis in enumerate(axes):
            if place < len(row):
                _draw(axis, look, row[place][1], first=place == 0)
            else:
                axis.set_visible(False)
        if len(rows) > 1 and len(records) > 1:
            axes[0].set_ylabel(f"seed {row[0][0].seed}", fontsize=7.5)
    figure.suptitle(
        title or "alpha, the choice of the learngene",
        x=0.02,
        ha="left",
        fontsize=9,
        fontweight="bold",
    )
    look.explain(figure, panels)
    return figure


def _grid(records: Sequence[LineageRecord]) -> list[list[tuple[LineageRecord, Generation]]]:
    """Rows of panels: one lineage's wrapped, of several a row a seed."""
    most = MOST if len(records) == 1 else max(3, min(WIDE, MOST // len(records)))
    kept = [[(record, g) for g in _spread(record.generations, most)] for record in records]
    if len(records) > 1:
        return kept
    panels = kept[0]
    rows = math.ceil(len(panels) / (5 if len(panels) <= 10 else WIDE))
    width = math.ceil(len(panels) / rows)
    return [panels[start : start + width] for start in range(0, len(panels), width)]


def _spread(generations: Sequence[Generation], most: int) -> list[Generation]:
    """At most so many generations, the first and the last among them."""
    places = np.linspace(0, len(generations) - 1, min(most, len(generations)))
    return [generations[round(place)] for place in places]


class _Look:
    """What all panels share: the scales of colours and bars."""

    def __init__(self, drawn: Sequence[Generation]) -> None:
        from matplotlib.colors import TwoSlopeNorm

        pairs = [pair_scores(g) for g in drawn]
        self.threshold = 1 / len(drawn[0].scores)
        decided = [g.selected_by for g in drawn if g.status == "selected"]
        ranked = decided and not any(rule.startswith("threshold") for rule in decided)
        self.rule = "the mean" if ranked else "Eq. 10"
        self.k = max(len(g.alpha[0]) for g in drawn)
        least = min(float(table.min()) for table in pairs)
        largest = max(float(table.max()) for table in pairs)
        pad = 1e-3 * self.threshold  # where all scores are equal
        self.norm = TwoSlopeNorm(
            self.threshold,
            min(least, self.threshold - pad),
            max(largest, self.threshold + pad),
        )
        scores = [score for g in drawn for score in g.scores]
        self.low = min(*scores, self.threshold - pad)
        self.high = max(*scores, self.threshold + pad)
        self.start = self.k + GAP if self.k > 1 else 0.0
        self.width = max(4.0, 0.7 * self.k)

    def at(self, score: float) -> float:
        """Where a score lies on the x axis, whose unit is a cell."""
        return self.start + self.width * (score - self.low) / (self.high - self.low)

    def explain(self, figure: Any, panels: Any) -> None:
        """The colours' scale, and below the picture what is what."""
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        line = f"1/L = {self.threshold:.3g} ({self.rule})"
        handles = [
            Patch(facecolor=BLUE),
            Patch(facecolor="#bbbbbb"),
            Patch(facecolor=BLUE, edgecolor="white", hatch="////", lw=0),
            Line2D([], [], color="black", lw=0.8),
        ]
        names = ["a~ of a layer, inherited", "not inherited", "fallback layers", line]
        wide = panels.shape[1] > 2
        figure.legend(
            handles, names, loc="outside lower left", ncols=4 if wide else 2, fontsize=7.5
        )
        if self.k == 1:
            return
        bar = figure.colorbar(
            ScalarMappable(self.norm, colormaps["RdBu"]), ax=panels, pad=0.01, fraction=0.025
        )
        ends = (self.norm.vmin, self.threshold, self.norm.vmax)
        bar.set_ticks(ends, labels=[f"{ends[0]:.2g}", "1/L", f"{ends[2]:.2g}"])
        bar.set_label("alpha of a pair, as a~", fontsize=7.5)
        bar.ax.tick_params(labelsize=6.5)


def _draw(axes: Any, look: _Look, g: Generation, first: bool) -> None:
    """One panel: the matrix, and a bar a layer that begins at 1/L."""
    layers = len(g.all_layers)
    undecided = f": {g.status}" if g.status != "selected" else ""
    length = f"length {g.lineage}" if first else str(g.lineage)
    axes.set_title(f"{length}{undecided}", fontsize=7.5, loc="left", pad=3)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    if _is_scored(g):
        _draw_matrix(axes, look, g)
        _draw_bars(axes, look, g)
    else:
        axes.annotate("no scores", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=7.5)
    axes.set(xlim=(0, look.start + look.width), ylim=(layers - 0.5, -0.5))
    axes.tick_params(length=0, labelsize=6)
    axes.set_yticks(range(layers), g.all_layers if first else [""] * layers)
    ticks: dict[float, str] = {look.at(look.threshold): "1/L"}
    if look.k > 1:
        ticks |= {0.5: "1", look.k - 0.5: f"k={look.k}"}
    axes.set_xticks(list(ticks), list(ticks.values()))


def _draw_matrix(axes: Any, look: _Look, g: Generation) -> None:
    if look.k > 1:
        axes.imshow(
            pair_scores(g),
            extent=(0, len(g.alpha[0]), len(g.alpha) - 0.5, -0.5),
            aspect="auto",
            cmap="RdBu",
            norm=look.norm,
            interpolation="nearest",
        )


def _draw_bars(axes: Any, look: _Look, g: Generation) -> None:
    foot = look.at(look.threshold)
    for row, (layer, score) in enumerate(zip(g.all_layers, g.scores, strict=True)):
        held = layer in g.selected
        axes.barh(
            row,
            look.at(score) - foot,
            left=foot,
            height=0.8,
            color=BLUE if held else "#bbbbbb",
            edgecolor="white",
            lw=0,
            hatch="////" if held and g.status in FALLBACKS else None,
        )
        if held and look.k > 1:
            axes.plot(look.start - GAP / 2, row, ".", color=BLUE, ms=3.5, clip_on=False)
    axes.axvline(foot, color="black", lw=0.8)
