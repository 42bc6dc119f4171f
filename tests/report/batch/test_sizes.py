"""Accuracy against size: numbers, picture and what is stored."""

from __future__ import annotations

from dataclasses import replace

import made
import pytest

from evolve.report.batch.family import EPOCHS, epochs_of, points, sizes_of, stored
from evolve.report.batch.figure import batch_figure
from evolve.report.batch.sizes import sizes
from evolve.report.curves import Descent, Generation, Parameters

SIZES = {"large": (4_000, 6_000), "small": (1_000, 1_000)}  # of the heir, of the whole ancestor


def curves(start: float) -> list[list[float]]:
    """Three tasks, tested after each of seven epochs: a point more each."""
    return [[start + 0.01 * epoch + spread for epoch in range(7)] for spread in (-0.1, 0, 0.12)]


def born(descent: Descent | None, share: float) -> Descent | None:
    return descent and replace(descent, newborn=(share,) * 3)


def generation(seed: int, heir: int, whole: int) -> Generation:
    up = 0.01 * seed
    g = made.generation(curves(0.5 + 2 * up), curves(0.4 + up), whole=curves(0.6 + up))
    return replace(
        g,
        parameters=Parameters(heir, 500, whole),
        inherited=born(g.inherited, 0.3),
        scratch=born(g.scratch, 0.2),
        full_ancestor=born(g.full_ancestor, 0.35),
    )


def pairs() -> list:
    return [
        made.pair(name, seed, {"inherit.width": 0.5}, generation(seed, *counted), pairing=(name,))
        for name, counted in SIZES.items()
        for seed in range(3)
    ]


def test_every_size_stands_beside_itself_from_scratch_at_few_epochs() -> None:
    family = sizes_of(pairs())
    assert epochs_of(family) == [*EPOCHS, 7]
    shown = {(p.parameters, p.beginning, p.epoch): p for p in points(family)}
    assert [p.size.split()[0] for p in points(family)] == ["small"] * 12 + ["large"] * 12
    mean = 100 * 0.02 / 3  # of the tasks' spread
    for heir, whole in SIZES.values():
        last = shown[heir, "learngene", 7]
        assert last.accuracy.mean == pytest.approx(58 + mean)
        assert shown[heir, "from-scratch", 1].accuracy.mean == pytest.approx(41 + mean)
        assert shown[heir, "learngene", 0].accuracy.mean == pytest.approx(30)
        assert last.difference is not None and last.difference.interval.mean == pytest.approx(11)
        assert shown[heir, "from-scratch", 7].difference is None
        # Only where it is the same network is the whole ancestor paired with from-scratch.
        beside = shown[whole, "whole ancestor cut down", 7].difference
        assert (beside is not None) == (heir == whole)


def test_one_learngene_is_stored_for_all_sizes() -> None:
    kept = stored(sizes_of(pairs()))
    assert (kept.sizes, kept.learngene, kept.each) == (2, 500, 5_000)
    assert "one learngene of 0.5 k parameters, against 5 k" in str(kept) and "(10 %)" in str(kept)


def test_the_picture_and_its_table() -> None:
    measured = pairs()
    batch = made.batch("sizes", measured)
    shown = batch_figure(batch, measured)
    assert shown is not None and len(shown.rows) == 2 * 3 * 4
    panels = shown.draw().axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "newborn (nearest class mean)",
        "after 1 epoch",
        "after 5 epochs",
        "after 7 epochs",
    ]
    for axes in panels:
        assert axes.get_xscale() == "log" and len(axes.lines) == 3
        assert all(len(line.get_xdata()) == len(SIZES) for line in axes.lines)
    table = sizes(batch, measured).tables[0]
    assert len(table.rows) == 6 and all(len(row.cells) == len(table.heads) for row in table.rows)
    half = [
        (case, replace(record, generations=())) if case.method == "large" else (case, record)
        for case, record in measured
    ]
    assert len(sizes(batch, half).rows) == 3 * 4  # an unfinished batch shows what there is
