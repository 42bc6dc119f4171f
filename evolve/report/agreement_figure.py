"""Do repeated condensations agree? The paper claims 10 of 10 (section 4.2).

Each starts from another random pseudo-descendant. Null tests stand beside them. Drawn as
:mod:`evolve.report.figures` draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evolve.report.figures import BLUE, GREY, ORANGE, new_figure, pictures
from evolve.report.files import csv_bytes
from evolve.report.trends import Array

LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREY, "^"))


@dataclass(frozen=True)
class Draws:
    """Condensations of one kind that differ in their random draws.

    Attributes:
        kind: such as "other pseudo-descendants".
        layers: the L names.
        sets: the layers that each chose; empty where it decided nothing, whatever was inherited.
        scores: a~ (Eq. 9) of each, [draws, L].
    """

    kind: str
    layers: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...]
    scores: tuple[tuple[float, ...], ...]

    @property
    def chosen(self) -> dict[str, int]:
        """How often each layer was chosen."""
        return {layer: sum(layer in choice for choice in self.sets) for layer in self.layers}

    @cached_property
    def commonest(self) -> tuple[tuple[str, ...], int]:
        """The set that was chosen most often, and how often; nothing, 0 where none decided."""
        decided = Counter(choice for choice in self.sets if choice)
        return decided.most_common(1)[0] if decided else ((), 0)

    @property
    def margins(self) -> Array:
        """a~ less 1/L, [draws, L]: above 0 Eq. 10 keeps the layer."""
        margins: Array = np.array(self.scores, dtype=np.float64) - 1 / len(self.layers)
        return margins


def agreement_rows(kinds: Sequence[Draws]) -> Iterator[dict[str, Any]]:
    """What the picture shows: one row a kind and layer.

    ``margin_low`` and ``margin_high`` are the least and largest a~ - 1/L of the draws.
    """
    for draws in kinds:
        low, high = draws.margins.min(0).tolist(), draws.margins.max(0).tolist()
        mean = draws.margins.mean(0).tolist()
        for place, (layer, count) in enumerate(draws.chosen.items()):
            yield {
                "kind": draws.kind,
                "layer": layer,
                "chosen": count,
                "draws": len(draws.sets),
                "margin_mean": mean[place],
                "margin_low": low[place],
                "margin_high": high[place],
                "in_commonest_set": int(layer in draws.commonest[0]),
                "commonest_set": draws.commonest[1],
            }


def sentence(draws: Draws) -> str:
    """How often the same set was chosen, in one line."""
    layers, same = draws.commonest
    undecided = sum(not choice for choice in draws.sets)
    nothing = f"; {undecided} decided nothing" if undecided else ""
    named = f": {', '.join(layers)}" if layers else ""
    return f"{draws.kind}: the same set {same} of {len(draws.sets)}{nothing}{named}"


def agreement_files(kinds: Sequence[Draws], title: str) -> dict[str, bytes]:
    """The picture and its numbers.

    Args:
        kinds: the true condensation's draws first, then null tests of the same layers.
        title: the picture's.

    Returns:
        File name -> content.
    """
    files = pictures("agreement", lambda: agreement_figure(kinds, title), ("png", "svg", "pdf"))
    return files | {"agreement.csv": csv_bytes(agreement_rows(kinds))}


def agreement_figure(kinds: Sequence[Draws], title: str) -> Any:
    """Draw how often each layer was chosen, and every draw's a~ beside the threshold 1/L.

    Args:
        kinds: as in :func:`agreement_files`.
        title: the picture's.

    Returns:
        A matplotlib figure.
    """
    layers = kinds[0].layers
    figure = new_figure(8.2, 1.7 + 0.24 * len(layers))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1.5])
    step = 0.8 / len(kinds)
    for number, (draws, (colour, marker)) in enumerate(zip(kinds, LOOKS, strict=False)):
        rows = np.arange(len(layers)) + step * (number - (len(kinds) - 1) / 2)
        left.barh(rows, list(draws.chosen.values()), height=0.9 * step, color=colour)
        for scores in draws.scores:
            right.plot(scores, rows, marker, color=colour, ms=3, alpha=0.6, mew=0)
    right.axvline(1 / len(layers), color="black", lw=0.8, ls="--")
    left.set(xlabel=f"chosen, of {len(kinds[0].sets)}", xlim=(0, len(kinds[0].sets)))
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_yticks(range(len(layers)), layers, fontsize=7.5)
    left.set_ylim(len(layers) - 0.5, -0.5)
    right.set_xlabel(f"a~ of every draw (Eq. 9); dashed: 1/L = {1 / len(layers):.3g}")
    figure.suptitle(title, x=0.02, ha="left", fontsize=9, fontweight="bold")
    _explain(figure, kinds)
    return figure


def _explain(figure: Any, kinds: Sequence[Draws]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, ls="none")
        for _, (colour, marker) in zip(kinds, LOOKS, strict=False)
    ]
    names = [f"{d.kind}: same set {d.commonest[1]} of {len(d.sets)}" for d in kinds]
    figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=7.5)
