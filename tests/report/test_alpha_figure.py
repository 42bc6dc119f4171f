"""Figure 2 of a lineage: what the colours mean, what is marked, and that nothing is left out."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from evolve.condensers.selection import Selection, select, select_scores
from evolve.report.alpha_figure import alpha_figure, has_scores, pair_scores
from evolve.report.curves import Descent, Generation, LineageRecord
from evolve.report.files import write_report

LAYERS = ("conv1", "conv2", "conv3", "conv4")
DESCENT = Descent(0, "inherited", (0.5, 0.6), (0.5, 0.6), (), (), (10, 10))


def generation(length: int, choose: Callable[[torch.Tensor], Selection], k: int = 3) -> Generation:
    """What a condenser's own rule makes of a random alpha."""
    alpha = torch.rand(len(LAYERS), k, generator=torch.Generator().manual_seed(length)).double()
    chosen = choose(alpha)
    return Generation(
        length,
        tuple(LAYERS[index] for index in chosen.selected),
        LAYERS,
        tuple(chosen.weights.tolist()),
        tuple(map(tuple, alpha.tolist())),
        chosen.margin,
        chosen.status,
        chosen.selected_by,
        "8*",
        DESCENT,
    )


def by_threshold(alpha: torch.Tensor) -> Selection:
    return select(alpha, "threshold", 0, (0,))


def by_top_2(alpha: torch.Tensor) -> Selection:
    return select_scores(alpha.max(1).values, "top-k", 2, (0,))


def lineage(*generations: Generation, seed: int = 0) -> LineageRecord:
    return LineageRecord("toy", "paper", seed, 25, generations)


def test_a_pair_stands_on_the_scale_of_equation_9() -> None:
    g = generation(1, by_threshold)
    alpha, pairs = np.array(g.alpha), pair_scores(g)
    assert pairs.max(1) == pytest.approx(softmax(alpha.max(1)), rel=1e-12)
    assert pairs == pytest.approx(np.exp(alpha) / np.exp(alpha.max(1)).sum(), rel=1e-12)


def test_standardised_scores_stand_on_theirs() -> None:
    g = generation(1, by_top_2)
    best = np.array(g.alpha).max(1)
    standard = (np.array(g.alpha) - best.mean()) / best.std()
    expected = np.exp(standard) / np.exp(standard.max(1)).sum()
    assert pair_scores(g) == pytest.approx(expected, rel=1e-9)
    equal = replace(g, alpha=((0.5,) * 3,) * 4, scores=(0.25,) * 4)
    assert pair_scores(equal).tolist() == [[0.25] * 3] * 4


def test_what_was_chosen_is_marked_and_one_over_l_is_the_middle() -> None:
    tied = replace(generation(2, by_threshold), status="tied", selected=("conv2",))
    record = lineage(generation(1, by_threshold), tied)
    figure = alpha_figure([record])
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) == 2 and {float(image.norm(1 / 4)) for image in images} == {0.5}
    assert images[0].norm is images[1].norm, "one scale"
    panels = [axes for axes in figure.axes if axes.images]
    for axes, g in zip(panels, record.generations, strict=True):
        foot = axes.lines[-1].get_xdata()[0]
        above = {LAYERS[row] for row, bar in enumerate(axes.patches) if bar.get_width() > 0}
        assert above == {name for name, a in zip(LAYERS, g.scores, strict=True) if a > 1 / 4}
        assert all(bar.get_x() == pytest.approx(foot) for bar in axes.patches)
        dots = {LAYERS[int(line.get_ydata()[0])] for line in axes.lines[:-1]}
        assert dots == set(g.selected)
        hatched = {LAYERS[row] for row, bar in enumerate(axes.patches) if bar.get_hatch()}
        assert hatched == (set(g.selected) if g is tied else set())
    assert "tied" in panels[1].get_title(loc="left")


def test_a_lineage_shows_every_generation_and_many_seeds_the_ends() -> None:
    record = lineage(*(generation(length, by_threshold) for length in range(26)))
    assert sum(bool(axes.images) for axes in alpha_figure([record]).axes) == 26
    several = alpha_figure([replace(record, seed=seed) for seed in range(5)])
    titles = [axes.get_title(loc="left") for axes in several.axes if axes.images]
    assert len(titles) == 45 and titles[0] == "length 0" and titles[8] == "25"
    assert [axes.get_ylabel() for axes in several.axes][:1] == ["seed 0"]


def test_layers_scored_alone_have_bars_and_a_fixed_set_nothing(tmp_path: Path) -> None:
    alone = lineage(generation(1, by_top_2, k=1))
    figure = alpha_figure([alone])
    assert not figure.axes[0].images and len(figure.axes[0].patches) == len(LAYERS)
    fixed = lineage(replace(alone.generations[0], alpha=((),) * 4, status="fixed"))
    assert not has_scores([fixed])
    assert not [path for path in write_report(fixed, tmp_path) if path.stem == "alpha"]


def test_files_hold_every_number(tmp_path: Path) -> None:
    record = lineage(generation(1, by_threshold), generation(2, by_threshold))
    written = {path.name for path in write_report(record, tmp_path)}
    assert {"alpha.png", "alpha.svg", "alpha.pdf", "alpha.csv"} <= written
    assert (tmp_path / "alpha.pdf").read_bytes().startswith(b"%PDF")
    with (tmp_path / "alpha.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for g in record.generations:
        mine = [row for row in rows if int(row["lineage"]) == g.lineage]
        assert [float(row["alpha"]) for row in mine] == np.array(g.alpha).ravel().tolist()
        assert {row["layer"] for row in mine if row["inherited"] == "1"} == set(g.selected)
        assert {float(row["threshold"]) for row in mine} == {1 / 4}
