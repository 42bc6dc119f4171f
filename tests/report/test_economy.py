"""The economy of the gene: gains over their own architectures from scratch, shares only where there
is something to share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolve.lineage.collect import mean_descent
from evolve.report import economy
from evolve.report.curves import Descent, Generation, LineageRecord, Tried
from evolve.report.economy_figure import economy_figure, frontier, has_economy
from evolve.report.figures import encode

TASK = np.array([0.40, 0.50, 0.60, 0.70])  # how hard the tasks are


def descent(method: str, accuracy: Sequence[float], tested: Sequence[int] = (2, 4)) -> Descent:
    values = tuple(float(a) for a in accuracy)
    curves = tuple(tuple(a * epoch / tested[-1] for epoch in tested) for a in values)
    losses = tuple((1.0,) * tested[-1] for _ in values)
    return Descent(
        1,
        method,
        values,
        values,
        curves,
        losses,
        (50,) * len(values),
        tuple(tested),
        tuple(a / 2 for a in values),
    )


def generation(
    length: int, gain: float, whole: float, share: float = 0.12, spread: float = 0.01
) -> Generation:
    noise = spread * np.array([-1, 1, 1, -1])
    layers = ("conv1", "conv2")
    inherited, scratch = descent("inherited", TASK + gain + noise), descent("from-scratch", TASK)
    g = Generation(
        length,
        ("conv1",),
        layers,
        (0.6, 0.4),
        ((1.0,),) * 2,
        0.1,
        "selected",
        "Eq. 10",
        "8* M",
        inherited,
        scratch,
    )
    whole_descent, whole_scratch = (
        descent("full-ancestor", TASK - 0.1 + whole + noise),
        descent("from-scratch", TASK - 0.1),
    )
    return replace(g, share=share, full_ancestor=whole_descent, full_scratch=whole_scratch)


def record(*generations: Generation, seed: int = 0) -> LineageRecord:
    return LineageRecord(
        "toy", "quick", seed, 3, generations, lengths=tuple(g.lineage for g in generations)
    )


def test_the_share_is_of_gains_over_their_own_architectures() -> None:
    result = economy.economy(
        [record(generation(1, 0.05, 0.10), generation(3, 0.15, 0.20, share=0.24))]
    )
    assert result is not None and result.decided
    assert (result.gain.mean, result.whole.mean) == pytest.approx((10.0, 15.0))
    assert result.share.mean == pytest.approx(10 / 15)
    assert result.weights == pytest.approx(0.18)
    assert result.share.low < result.share.mean < result.share.high
    text = economy.economy_sentence(result)
    assert text.startswith("18 % of the weights carry 67 %") and "+10.0" in text and "+15.0" in text


def test_noise_that_learngene_and_whole_share_cancels_in_the_share() -> None:
    """Both gains move alike from task to task, so their ratio is surer than either: they are
    resampled together.
    """
    wide = generation(1, 0.10, 0.10, spread=0.04)
    result = economy.economy([record(wide)])
    assert result is not None
    assert result.share.high - result.share.low == pytest.approx(0, abs=1e-9)
    assert result.gain.high - result.gain.low > 5


def test_no_share_is_named_where_even_the_whole_ancestor_gains_nothing() -> None:
    result = economy.economy([record(generation(1, 0.02, 0.001))])
    assert result is not None and not result.decided and math.isnan(result.share.mean)
    assert economy.economy_sentence(result).startswith(
        "Not even the whole ancestor is shown to gain"
    )
    assert not has_economy([record(generation(1, 0.02, 0.001))])


def test_an_ancestor_that_has_it_and_a_learngene_that_lacks_it() -> None:
    result = economy.economy([record(generation(1, 0.0, 0.2))])
    assert "the learngene is not shown to carry any of it" in economy.economy_sentence(result)


@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(0, 0.05))
@settings(deadline=None, max_examples=60)
def test_no_sentence_contradicts_the_intervals_printed_in_it(
    gain: float, whole: float, spread: float
) -> None:
    result = economy.economy([record(generation(1, gain, whole, spread=spread))])
    assert result is not None
    text = economy.economy_sentence(result)
    low, high = (f"{bound:+.1f}" for bound in (result.whole.low, result.whole.high))
    assert f"[{low}, {high}]" in text and "nan" not in text
    assert ("harms" in text.split("(")[0]) == (float(high) < 0)
    assert ("Not even" in text) == (float(low) <= 0 <= float(high))
    assert ("carry" in text and "weights carry" in text) == (
        float(low) > 0 and float(f"{result.gain.low:+.1f}") > 0
    )


def test_one_task_names_its_numbers_and_no_share() -> None:
    g = generation(1, 0.1, 0.2)

    def first(d: Descent | None) -> Descent | None:
        return d and replace(d, accuracy=d.accuracy[:1], newborn=d.newborn[:1])

    alone = replace(
        g,
        **{
            name: first(getattr(g, name))
            for name in ("inherited", "scratch", "full_ancestor", "full_scratch")
        },
    )
    text = economy.economy_sentence(economy.economy([record(alone)]))
    assert "+9.0 points" in text and "no interval" in text and "nan" not in text


def test_without_from_scratch_nothing_is_compared_with_it() -> None:
    g = replace(generation(1, 0.1, 0.2), scratch=None, full_scratch=None)
    text = economy.learning_sentence(economy.learning([record(g)]))
    assert "nan" not in text and "from scratch" not in text and "newborn" in text


def test_only_lengths_with_every_control_count() -> None:
    bare = replace(generation(2, 0.5, 0.5), full_ancestor=None)
    points = economy.economies([record(generation(1, 0.05, 0.1), bare, generation(3, 0.1, 0.1))])
    assert [point.lineage for point in points] == [1, 3]
    assert economy.economies([record(bare)]) == () and economy.economy([record(bare)]) is None
    assert economy.economy_sentence(None) == ""


def test_seeds_are_pooled_at_common_lengths() -> None:
    first, second = (
        record(generation(1, 0.05, 0.1), generation(2, 0.05, 0.1)),
        record(generation(1, 0.15, 0.1), seed=1),
    )
    (point,) = economy.economies([first, second])
    assert point.lineage == 1 and point.gain.mean == pytest.approx(10) and point.gain.n == 8


def test_learning_curves_newborns_and_the_epoch_that_reaches_from_scratch() -> None:
    g = generation(1, 0.2, 0.3, spread=0)
    quick = replace(
        g, inherited=replace(g.inherited, curves=tuple((a, a) for a in g.inherited.accuracy))
    )
    result = economy.learning([record(quick)])
    assert (result.epochs, result.epochs_scratch) == (2, 4)
    assert result.area == pytest.approx(75) and result.area_scratch == pytest.approx(
        100 * 0.55 * 0.75
    )
    assert result.newborn == pytest.approx(37.5) and result.newborn_scratch == pytest.approx(27.5)
    assert "2.0 epochs instead of 4.0." in economy.learning_sentence(result)


def test_lengths_that_never_reach_from_scratch_are_counted_and_not_averaged() -> None:
    result = economy.learning([record(generation(1, 0.2, 0.3), generation(2, -0.2, 0.3))])
    assert (result.reached, result.asked) == (1, 2) and result.epochs == 4
    assert "(at 1 of 2 lengths)" in economy.learning_sentence(result)


def test_one_test_gives_no_curve() -> None:
    g = generation(1, 0.2, 0.3)
    single = replace(
        g, inherited=descent("inherited", TASK, (4,)), scratch=descent("from-scratch", TASK, (4,))
    )
    result = economy.learning([record(single)])
    assert math.isnan(result.area) and math.isnan(result.epochs) and result.asked == 0
    assert "epochs" not in economy.learning_sentence(result)


def test_the_mean_of_draws_is_place_by_place() -> None:
    first, second = descent("from-scratch", [0.2, 0.4]), descent("from-scratch", [0.4, 0.8])
    mean = mean_descent([first, second])
    assert mean.accuracy == pytest.approx((0.3, 0.6)) and mean.draws == 2
    assert mean.curves == (
        pytest.approx((0.15, 0.3)),
        pytest.approx((0.3, 0.6)),
    ) and mean.newborn == pytest.approx((0.15, 0.3))
    assert mean_descent([first]) is first


def test_a_whole_ancestor_beside_all_its_layers_is_a_candidate_of_its_own() -> None:
    """ResNets and ViTs hold more than their layers: front 17 and the whole ancestor name the same
    layers.
    """
    sets = (
        ("front 1", ("a",), 0.1, 0.05),
        ("front 2", ("a", "b"), 0.97, 0.08),
        ("whole ancestor", ("a", "b"), 1.0, 0.10),
    )
    trials = tuple(Tried(origin, layers, share, gain, 0.01) for origin, layers, share, gain in sets)
    shown = record(
        replace(generation(1, 0.05, 0.1), trials=trials),
        replace(generation(2, 0.05, 0.1), trials=trials),
    )
    assert frontier([shown]) == [pytest.approx(point) for point in [(10, 50), (97, 80), (100, 100)]]


def test_the_picture_names_what_it_leaves_out() -> None:
    trials = (
        Tried("front 1", ("conv1",), 0.1, 0.05, 0.01),
        Tried("whole ancestor", ("conv1", "conv2"), 1.0, 0.1, 0.01),
    )
    shown = record(replace(generation(1, 0.05, 0.1), trials=trials), generation(2, 0.05, 0.0))
    svg = encode(lambda: economy_figure({"toy condenser": [shown]}), "svg").decode()
    assert (
        "toy condenser" in svg and "frontier of the trials" in svg and "1 length is left out" in svg
    )
