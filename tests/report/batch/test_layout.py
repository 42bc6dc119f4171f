"""Pictures as a reader sees them: no text off the canvas, across another, or too small to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import made
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from evolve.report.alpha_figure import alpha_figure
from evolve.report.batch.convergence import convergence
from evolve.report.batch.figure import Pair
from evolve.report.batch.heat import heat
from evolve.report.batch.samples import samples
from evolve.report.curves import Descent, Generation, LineageRecord
from evolve.report.economy_figure import economy_figure
from evolve.report.figures import _style, evolution_figure
from evolve.report.genome_figure import genome_figure
from evolve.report.pooling import summarise

pytestmark = pytest.mark.slow  # every picture is rendered
LENGTHS = (0, 1, 2, 3, 5, 8, 12, 18, 25)
LAYERS = tuple(f"conv{n}" for n in range(1, 14))
SMALLEST = 5.5  # points


def descent(rng: np.random.Generator, length: int, method: str, level: float) -> Descent:
    last = tuple(float(v) for v in np.clip(rng.normal(level, 0.06, 8), 0, 1))
    epochs, losses = tuple((0.6 * v, v) for v in last), ((1.0, 0.5),) * 8
    return Descent(length, method, last, last, epochs, losses, (100,) * 8, (5, 15))


def lineage(seed: int, drift: float) -> LineageRecord:
    """A quick profile's lineage with every control, gaining ``drift`` a length."""
    rng = np.random.default_rng(seed)
    points = []
    for place, length in enumerate(LENGTHS):
        alpha = rng.uniform(0.05, 0.1, (13, 5))
        scores = alpha.mean(1) / alpha.mean(1).sum()
        chosen = tuple(n for n, s in zip(LAYERS, scores, strict=True) if s > 1 / 13)
        levels = {"inherited": 0.45 + drift * place, "from-scratch": 0.42}
        controls = {"full-ancestor": 0.5 + drift * place, "shuffled": 0.4}
        drawn = {
            name: descent(rng, length, name, level) for name, level in (levels | controls).items()
        }
        points.append(
            Generation(
                length,
                chosen,
                LAYERS,
                tuple(scores.tolist()),
                tuple(map(tuple, alpha.tolist())),
                0.0003,
                "selected",
                "threshold",
                "64* M 128 M 256 M 512 M 512* 512* 512* M",
                drawn["inherited"],
                drawn["from-scratch"],
                shuffled=drawn["shuffled"],
                full_ancestor=drawn["full-ancestor"],
                full_scratch=descent(rng, length, "from-scratch", 0.4),
                ancestor_accuracy=0.3,
                forgetting=0.4,
                share=0.01 + 0.04 * place,
                sizes=(1 / 13,) * 13,
            )
        )
    return LineageRecord("cifar-seq25", "quick", seed, 25, tuple(points))


def several(drift: float) -> list[LineageRecord]:
    return [lineage(seed, drift) for seed in range(5)]


def curve(records: list[LineageRecord]) -> Any:
    return evolution_figure(records, summarise(records))


def grid(**axes: tuple[Any, ...]) -> list[Pair]:
    """Two methods at every value of one or two settings of [descend]."""
    (first, values), *more = axes.items()
    others = more[0] if more else ("epochs", (30,))
    rows = [[0.3 + 0.02 * epoch + 0.01 * task for epoch in range(15)] for task in range(8)]
    return [
        made.pair(
            method,
            2,
            {f"descend.{first}": a, f"descend.{others[0]}": b},
            made.generation(rows, rows, rows, rows),
            pairing=(f"descend.{first}={a}", f"descend.{others[0]}={b}"),
        )
        for method in ("Heur-Learngene", "Auto-Learngene")
        for a in values
        for b in others[1]
    ]


def batch(code: Callable[..., Any], pairs: list[Pair]) -> Any:
    controls = ("from-scratch", "full-ancestor")
    return code(made.batch(code.__name__, pairs, controls), pairs).draw()


SHOTS = (10, 20, 30, 40, 50, 60)
PICTURES: dict[str, Callable[[], Any]] = {
    "curve": lambda: curve([lineage(0, 0.02)]),
    "curve, no gain": lambda: curve([lineage(1, -0.01)]),
    "curve, five seeds": lambda: curve(several(0.02)),
    "genome": lambda: genome_figure([lineage(0, 0.02)], "cifar-seq25 quick, seed 0"),
    "genome, five seeds": lambda: genome_figure(several(0.02), "cifar-seq25 quick"),
    "alpha": lambda: alpha_figure([lineage(0, 0.02)], "cifar-seq25 quick, seed 0"),
    "alpha, five seeds": lambda: alpha_figure(several(0.02), "cifar-seq25 quick"),
    "economy": lambda: economy_figure({"naive": several(0.01), "replay": several(0.02)}, "a title"),
    "samples": lambda: batch(samples, grid(shots=SHOTS)),
    "convergence": lambda: batch(convergence, grid(shots=SHOTS)),
    "heat": lambda: batch(heat, grid(lr=(0.001, 0.005, 0.01, 0.05), weight_decay=(0.0, 5e-4))),
}


@contextmanager
def drawn_texts() -> Iterator[list[Text]]:
    """Every text that reaches the canvas; ticks outside an axis's view never do."""
    texts: list[Text] = []
    draw = Text.draw

    def record(self: Text, renderer: Any) -> None:
        draw(self, renderer)
        if self.get_visible() and self.get_text().strip():
            texts.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        yield texts


def boxes(picture: Callable[[], Any]) -> tuple[Bbox, dict[Text, Bbox]]:
    """The canvas, and where each text stands on it, in pixels."""
    with _style():
        figure = picture()
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()  # settles the layout
        with drawn_texts() as texts:
            canvas.draw()
        return figure.bbox, {text: text.get_window_extent() for text in dict.fromkeys(texts)}


def faults(canvas: Bbox, texts: dict[Text, Bbox]) -> list[str]:
    """What a reader would stumble over."""
    edge = canvas.padded(1.5)
    out = [
        f"off the canvas: {text.get_text()!r}"
        for text, box in texts.items()
        if not (edge.contains(box.x0, box.y0) and edge.contains(box.x1, box.y1))
    ]
    out += [
        f"{text.get_fontsize():.1f} points: {text.get_text()!r}"
        for text in texts
        if text.get_fontsize() < SMALLEST
    ]
    for (a, first), (b, second) in combinations(texts.items(), 2):
        common = Bbox.intersection(first, second)
        least = min(first.width * first.height, second.width * second.height)
        if common is not None and common.width * common.height > 0.2 * least:
            out.append(f"across each other: {a.get_text()!r}, {b.get_text()!r}")
    return out


@pytest.mark.parametrize("name", PICTURES)
def test_every_text_of_a_picture_can_be_read(name: str) -> None:
    assert faults(*boxes(PICTURES[name])) == []


def test_the_check_sees_what_it_is_for() -> None:
    def poor() -> Any:
        figure = curve([lineage(0, 0.02)])
        figure.text(0.5, 0.5, "one")
        figure.text(0.5, 0.5, "two")
        figure.text(0.99, 0.3, "a text that leaves")
        figure.text(0.1, 0.002, "tiny", fontsize=3)
        return figure

    seen = " ".join(faults(*boxes(poor)))
    assert all(words in seen for words in ("'one', 'two'", "that leaves", "3.0 points: 'tiny'"))
