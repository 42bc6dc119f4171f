"""The economy of the gene: gains over their own architectures from scratch, shares only where there is something to share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from evolve import economy
from evolve.collect import mean_descent
from evolve.curves import Descent, Generation, LineageRecord, Tried, record_from_json, record_to_json
from evolve.economy_figure import economy_figure, has_economy
from evolve.figures import encode

TASK = np.array([0.40, 0.50, 0.60, 0.70])  # how hard the tasks are


def descent(method: str, accuracy: Sequence[float], tested: Sequence[int] = (2, 4)) -> Descent:
    values = tuple(float(a) for a in accuracy)
    curves = tuple(tuple(a * epoch / tested[-1] for epoch in tested) for a in values)
    losses = tuple((1.0,) * tested[-1] for _ in values)
    return Descent(1, method, values, values, curves, losses, (50,) * len(values), tuple(tested), tuple(a / 2 for a in values))


def generation(length: int, gain: float, whole: float, share: float = 0.12, spread: float = 0.01) -> Generation:
    noise = spread * np.array([-1, 1, 1, -1])
    layers = ("conv1", "conv2")
    inherited, scratch = descent("inherited", TASK + gain + noise), descent("from-scratch", TASK)
    made = Generation(length, ("conv1",), layers, (0.6, 0.4), ((1.0,),) * 2, 0.1, "selected", "Eq. 10", "8* M", inherited, scratch)
    whole_descent, whole_scratch = descent("full-ancestor", TASK - 0.1 + whole + noise), descent("from-scratch", TASK - 0.1)
    return replace(made, share=share, full_ancestor=whole_descent, full_scratch=whole_scratch)


def record(*generations: Generation, seed: int = 0) -> LineageRecord:
    return LineageRecord("toy", "quick", seed, 3, generations, lengths=tuple(g.lineage for g in generations))


def test_the_share_is_of_gains_over_their_own_architectures() -> None:
    found = economy.economy([record(generation(1, 0.05, 0.10), generation(3, 0.15, 0.20, share=0.24))])
    assert found is not None and found.decided
    assert (found.gain.mean, found.whole.mean) == pytest.approx((10.0, 15.0))
    assert found.share.mean == pytest.approx(10 / 15)
    assert found.weights == pytest.approx(0.18)
    assert found.share.low < found.share.mean < found.share.high
    text = economy.economy_sentence(found)
    assert text.startswith("18 % of the weights carry 67 %") and "+10.0" in text and "+15.0" in text


def test_noise_that_learngene_and_whole_share_cancels_in_the_share() -> None:
    """Both gains move alike from task to task, so their ratio is surer than either: they are resampled together."""
    wide = generation(1, 0.10, 0.10, spread=0.04)
    found = economy.economy([record(wide)])
    assert found is not None
    assert found.share.high - found.share.low == pytest.approx(0, abs=1e-9)
    assert found.gain.high - found.gain.low > 5


def test_no_share_is_named_where_even_the_whole_ancestor_gains_nothing() -> None:
    found = economy.economy([record(generation(1, 0.02, 0.001))])
    assert found is not None and not found.decided and math.isnan(found.share.mean)
    assert economy.economy_sentence(found).startswith("Even the whole ancestor gains nothing")
    assert not has_economy([record(generation(1, 0.02, 0.001))])


def test_an_ancestor_that_has_it_and_a_learngene_that_lacks_it() -> None:
    found = economy.economy([record(generation(1, 0.0, 0.2))])
    assert "the learngene lacks it" in economy.economy_sentence(found)


def test_only_lengths_with_every_control_count() -> None:
    bare = replace(generation(2, 0.5, 0.5), full_ancestor=None)
    points = economy.economies([record(generation(1, 0.05, 0.1), bare, generation(3, 0.1, 0.1))])
    assert [point.lineage for point in points] == [1, 3]
    assert economy.economies([record(bare)]) == () and economy.economy([record(bare)]) is None
    assert economy.economy_sentence(None) == ""


def test_seeds_are_pooled_at_common_lengths() -> None:
    first, second = record(generation(1, 0.05, 0.1), generation(2, 0.05, 0.1)), record(generation(1, 0.15, 0.1), seed=1)
    (point,) = economy.economies([first, second])
    assert point.lineage == 1 and point.gain.mean == pytest.approx(10) and point.gain.n == 8


def test_learning_curves_newborns_and_the_epoch_that_reaches_from_scratch() -> None:
    g = generation(1, 0.2, 0.3, spread=0)
    quick = replace(g, inherited=replace(g.inherited, curves=tuple((a, a) for a in g.inherited.accuracy)))
    found = economy.learning([record(quick)])
    assert (found.epochs, found.epochs_scratch) == (2, 4)
    assert found.area == pytest.approx(75) and found.area_scratch == pytest.approx(100 * 0.55 * 0.75)
    assert found.newborn == pytest.approx(37.5) and found.newborn_scratch == pytest.approx(27.5)
    assert "2.0 epochs instead of 4.0." in economy.learning_sentence(found)


def test_lengths_that_never_reach_from_scratch_are_counted_and_not_averaged() -> None:
    found = economy.learning([record(generation(1, 0.2, 0.3), generation(2, -0.2, 0.3))])
    assert (found.reached, found.asked) == (1, 2) and found.epochs == 4
    assert "(at 1 of 2 lengths)" in economy.learning_sentence(found)


def test_one_test_gives_no_curve() -> None:
    g = generation(1, 0.2, 0.3)
    single = replace(g, inherited=descent("inherited", TASK, (4,)), scratch=descent("from-scratch", TASK, (4,)))
    found = economy.learning([record(single)])
    assert math.isnan(found.area) and math.isnan(found.epochs) and found.asked == 0
    assert "epochs" not in economy.learning_sentence(found)


def test_the_mean_of_draws_is_place_by_place() -> None:
    first, second = descent("from-scratch", [0.2, 0.4]), descent("from-scratch", [0.4, 0.8])
    mean = mean_descent([first, second])
    assert mean.accuracy == pytest.approx((0.3, 0.6)) and mean.draws == 2
    assert mean.curves == (pytest.approx((0.15, 0.3)), pytest.approx((0.3, 0.6))) and mean.newborn == pytest.approx((0.15, 0.3))
    assert mean_descent([first]) is first


def test_the_picture_names_what_it_leaves_out_and_the_record_survives_json() -> None:
    trials = (Tried("front 1", ("conv1",), 0.1, 0.05, 0.01), Tried("whole ancestor", ("conv1", "conv2"), 1.0, 0.1, 0.01))
    shown = record(replace(generation(1, 0.05, 0.1), trials=trials), generation(2, 0.05, 0.0))
    svg = encode(lambda: economy_figure({"toy condenser": [shown]}), "svg").decode()
    assert "toy condenser" in svg and "frontier of the trials" in svg and "1 lengths are left out" in svg
    assert record_from_json(record_to_json(shown)) == shown
