from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evolve import curves, trends
from evolve.curves import Descent, Generation, LineageRecord
from evolve.errors import UserError
from evolve.trends import Array
from evolve.verdict import gain_sentence, verdict


def descent(lineage: int, method: str, accuracy: Sequence[float]) -> Descent:
    values = tuple(float(a) for a in accuracy)
    epochs, losses = tuple((a / 2, a) for a in values), tuple((1.0, 0.5) for _ in values)
    return Descent(lineage, method, values, values, epochs, losses, (100,) * len(values), tuple(range(1, 1 + len(epochs[0]))) if epochs else ())


def generation(lineage: int, inherited: Sequence[float], scratch: Sequence[float], status: str = "selected") -> Generation:
    layers = ("conv1", "conv2", "conv3")
    pair = descent(lineage, "inherited", inherited), descent(lineage, "from-scratch", scratch)
    return Generation(lineage, ("conv1",), layers, (0.5, 0.3, 0.2), ((1.0, 2.0),) * 3, 0.03, status, "threshold", "8* M", *pair)


def record(table: Array, scratch: Array, seed: int = 0) -> LineageRecord:
    """[T, n] accuracies of lineage lengths 1..T; scratch [n]."""
    points = tuple(generation(t, row, scratch.tolist()) for t, row in enumerate(table.tolist(), start=1))
    return LineageRecord("toy", "full", seed, len(table), points)


def simulated(rng: np.random.Generator, rise: float, points: int = 25, seed: int = 0) -> LineageRecord:
    """Noise of every descendant, and noise that a generation's descendants share (its learngene)."""
    task = rng.normal(0.7, 0.06, 5)
    noise = rng.normal(0, 0.015, (points, 5)) + rng.normal(0, 0.005, (points, 1))
    return record(task + rise * np.arange(points)[:, None] / points + noise, task - 0.02 + rng.normal(0, 0.015, 5), seed)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
@settings(deadline=None)
def test_point_interval_is_students_t(values: list[float]) -> None:
    interval = curves.point_interval(values)
    error = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error) if error > 0 else (values[0], values[0])
    assert (interval.mean, interval.low, interval.high) == pytest.approx((np.mean(values), low, high), abs=1e-9)


def test_intervals_of_too_little_are_nan_and_nan_is_left_out() -> None:
    assert curves.point_interval([]).n == 0 and math.isnan(curves.point_interval([]).mean)
    one = curves.point_interval([0.5, math.nan])
    assert (one.n, one.mean) == (1, 0.5) and math.isnan(one.low)


def test_gain_is_paired_so_the_tasks_difficulty_cancels() -> None:
    point = generation(1, [0.1, 0.5, 0.9], [0.08, 0.48, 0.88])
    gain, raw = curves.paired_gain(point), curves.point_interval(point.inherited.accuracy)
    assert gain.mean == pytest.approx(0.02) and gain.half < 1e-9 < raw.half
    with pytest.raises(ValueError, match="not paired"):
        curves.differences(point.inherited, descent(1, "shuffled", [0.1]))


@given(st.lists(st.integers(0, 5), min_size=3, max_size=6).filter(lambda v: len(set(v)) > 1))
@settings(deadline=None, max_examples=30)
def test_rank_correlation_is_scipys_with_exact_p(values: list[int]) -> None:
    x = np.arange(len(values))
    rho, p = trends.rank_correlation(list(x), values)
    assert rho == pytest.approx(stats.spearmanr(x, values).statistic)
    exact = stats.permutation_test((x,), lambda a: stats.spearmanr(a, values).statistic, permutation_type="pairings", n_resamples=np.inf)
    assert p == pytest.approx(exact.pvalue, abs=1e-9)


def test_long_rank_correlation_agrees_with_the_t_approximation() -> None:
    rng = np.random.default_rng(3)
    for strength in (0.0, 0.05, 0.1):
        values = strength * np.arange(25) + rng.normal(size=25)
        rho, p = trends.rank_correlation(range(1, 26), values)
        expected = stats.spearmanr(np.arange(25), values)
        assert rho == pytest.approx(expected.statistic) and p == pytest.approx(expected.pvalue, abs=0.02)


def test_slope_is_least_squares_of_the_mean_curve_per_ten_tasks() -> None:
    made = simulated(np.random.default_rng(0), 0.1)
    summary = curves.summarise([made])
    means = [100 * np.mean(g.inherited.accuracy) for g in made.generations]
    assert summary.accuracy.slope == pytest.approx(10 * stats.linregress(range(1, 26), means).slope)
    assert summary.accuracy.low < summary.accuracy.slope < summary.accuracy.high


def test_bootstrap_agrees_with_t_where_there_are_many_units() -> None:
    values = np.random.default_rng(1).normal(1, 1, 60)
    mean, low, high = trends.bootstrap([values])
    expected = stats.t.interval(0.95, 59, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean()) and (low, high) == pytest.approx(expected, abs=0.05)


def test_bootstrap_covers_with_five_tasks() -> None:
    rng = np.random.default_rng(2)
    hits = [low <= 0 <= high for _, low, high in (trends.bootstrap([rng.normal(size=5)]) for _ in range(300))]
    assert 0.85 < np.mean(hits)


def test_bootstrap_of_seeds_sees_what_seeds_do_not_share() -> None:
    inside = np.array([-0.01, 0.0, 0.01])
    apart = trends.bootstrap([inside - 1, inside, inside + 1])
    together = trends.bootstrap([inside, inside, inside])
    assert apart[2] - apart[1] > 1 > 0.1 > together[2] - together[1]


def test_flat_truth_is_rarely_called_a_rise() -> None:
    rng = np.random.default_rng(11)
    called = ["do not support a rise" not in verdict(curves.summarise([simulated(rng, 0.0)])) for _ in range(200)]
    assert np.mean(called) < 0.06


def test_drift_of_single_ancestors_is_not_a_rise_of_five() -> None:
    """A random walk shared by a lineage's descendants: trends within a seed, none over seeds."""
    rng = np.random.default_rng(5)
    walks = [[np.cumsum(rng.normal(size=(25, 1)), axis=0) + rng.normal(size=(25, 5)) for _ in range(5)] for _ in range(300)]
    assert np.mean([trends.trend(range(1, 26), tables).rises for tables in walks]) < 0.06


def test_a_rise_is_claimed_from_five_seeds_and_never_from_fewer() -> None:
    rng = np.random.default_rng(5)
    texts = [verdict(curves.summarise([simulated(rng, 0.05, seed=s) for s in range(n)])) for n in (1, 2, 5)]
    assert ["not yet evidence" in text for text in texts] == [True, True, False]
    assert ["The data support a rise" in text for text in texts] == [False, False, True]
    assert "one lineage rises" in texts[0] and "2 lineages rise" in texts[1]


def test_strong_rise_is_nearly_always_seen() -> None:
    rng = np.random.default_rng(12)
    found = [verdict(curves.summarise([simulated(rng, 0.05)])) for _ in range(60)]
    assert np.mean(["one lineage rises with length" in text for text in found]) > 0.95


def test_flat_seeds_say_that_they_are_few() -> None:
    rng = np.random.default_rng(6)
    assert "seeds are few" in verdict(curves.summarise([simulated(rng, 0.0, seed=s) for s in range(2)]))


def test_the_mean_gain_of_several_seeds_is_not_surer_than_its_seeds() -> None:
    """No effect, but each ancestor shifts its five tasks together: an interval over 15 tasks as if independent excludes 0 too often."""
    rng = np.random.default_rng(8)

    def sample() -> bool:
        records = []
        for seed in range(3):
            scratch = rng.normal(0.7, 0.05, 5)
            shift = rng.normal(0, 0.02) + rng.normal(0, 0.02, 5)
            records.append(record(np.tile(scratch + shift, (4, 1)), scratch, seed))
        effect = curves.summarise(records).effect("from-scratch")
        assert effect is not None
        return effect.interval.low > 0 or effect.interval.high < 0

    assert np.mean([sample() for _ in range(150)]) < 0.15


def test_untrained_ancestors_are_compared_by_gain() -> None:
    """Lineage 0 may have another architecture: 10 points easier from scratch must not look like harm by training."""
    easy, hard = [0.8, 0.7], [0.7, 0.6]
    points = (generation(0, [0.81, 0.71], easy), generation(1, [0.74, 0.64], hard), generation(2, [0.74, 0.64], hard))
    effect = curves.summarise([LineageRecord("toy", "full", 0, 2, points)]).effect("lineage 0")
    assert effect is not None and effect.interval.mean == pytest.approx(3.0)


def test_diverged_descendants_are_named() -> None:
    whole = simulated(np.random.default_rng(3), rise=0.0)
    broken = replace(whole.generations[4].inherited, train_loss=((1.0, math.nan),) + whole.generations[4].inherited.train_loss[1:])
    points = tuple(replace(g, inherited=broken) if g.lineage == 5 else g for g in whole.generations)
    assert "diverged" not in verdict(curves.summarise([whole]))
    assert "1 descendant diverged" in verdict(curves.summarise([replace(whole, generations=points)]))


def test_rise_of_accuracy_alone_is_not_a_rise() -> None:
    """Architectures may grow along the lineage: then from-scratch rises too, and the gain does not."""
    rng = np.random.default_rng(4)
    climb = 0.6 + 0.004 * np.arange(25)[:, None] + rng.normal(0, 0.004, (25, 5))
    points = tuple(generation(t + 1, climb[t], climb[t] + rng.normal(0, 0.01, 5)) for t in range(25))
    text = verdict(curves.summarise([LineageRecord("toy", "full", 0, 25, points)]))
    assert "do not support a rise" in text and "accuracy rises, but the gain" in text and "could easily have been missed" in text


def test_fall_is_called_a_fall() -> None:
    rng = np.random.default_rng(0)
    assert "one lineage falls" in verdict(curves.summarise([simulated(rng, -0.1)]))
    assert "support a fall" in verdict(curves.summarise([simulated(rng, -0.1, seed=s) for s in range(5)]))


@pytest.mark.parametrize("points", [0, 1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2])
def test_short_and_constant_lineages_give_words_without_warnings(points: int, columns: int) -> None:
    made = record(np.full((points, columns), 0.5), np.full(columns, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = verdict(curves.summarise([made])) + gain_sentence(curves.summarise([made]))
    assert "nan" not in text
    assert ("Too few generations" in text) == (points < 3)
    assert "support a rise with" not in text.replace("do not support", "")


def test_pairs_are_tasks_averaged_over_generations() -> None:
    table = np.array([[0.6, 0.7], [0.62, 0.74], [0.64, 0.72]])
    effect = curves.summarise([record(table, np.array([0.6, 0.6]))]).effect("from-scratch")
    assert effect is not None and effect.interval.n == 2 and effect.generations == 3
    expected = stats.t.interval(0.95, 1, loc=7.0, scale=stats.sem([2.0, 12.0]))
    assert (effect.interval.low, effect.interval.high) == pytest.approx(expected)


def test_controls_are_compared_where_they_exist() -> None:
    made = record(np.full((4, 2), 0.6), np.full(2, 0.5))
    first = replace(made.generations[1], shuffled=descent(2, "shuffled", [0.5, 0.58]))
    zero = generation(0, [0.4, 0.5], [0.5, 0.5])
    points = (zero, made.generations[0], first, *made.generations[2:])
    made = replace(made, generations=points, reference=descent(0, "from-scratch", [0.6, 0.7]))
    summary = curves.summarise([made])
    found = {effect.over: (effect.interval.mean, effect.generations) for effect in summary.effects}
    expected = {"from-scratch": (10, 4), "shuffled": (6, 1), "lineage 0": (15, 4), "reference": (-5, 4)}
    assert found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(expected[name]) for name in expected)
    assert summary.lengths == (1, 2, 3, 4)


def test_pooling_uses_the_lengths_that_every_seed_has() -> None:
    rng = np.random.default_rng(0)
    long, short = simulated(rng, 0.0, 8, seed=1), replace(simulated(rng, 0.0, 5, seed=2), tasks=8)
    assert curves.summarise([long, short]).lengths == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(("change", "word"), [({"scenario": "other"}, "other"), ({"settings": {"lr": 2}}, "lr"), ({"seed": 0}, "twice")])
def test_what_cannot_be_pooled_is_refused_by_name(change: dict[str, object], word: str) -> None:
    made = simulated(np.random.default_rng(0), 0.0, 3)
    with pytest.raises(UserError, match=word):
        curves.summarise([made, replace(made, **{"seed": 1, **change})])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no lineage"):
        curves.summarise([])


def test_record_survives_json() -> None:
    made = simulated(np.random.default_rng(0), 0.0, 3)
    made = replace(made, reference=descent(0, "from-scratch", [0.1, 0.2]), settings={"a": {"b": 1}}, versions={"evolve": "0"})
    assert curves.record_from_json(json.loads(json.dumps(curves.record_to_json(made)))) == made


def test_a_run_without_the_from_scratch_control_has_no_gain_and_says_so(tmp_path: Path) -> None:
    whole = simulated(np.random.default_rng(3), rise=0.3)
    bare = replace(whole, generations=tuple(replace(g, scratch=None) for g in whole.generations))
    summary = curves.summarise([bare])
    assert math.isnan(summary.gain.slope) and summary.effect("from-scratch") is None
    assert summary.accuracy == curves.summarise([whole]).accuracy and summary.accuracy.rises
    assert "from-scratch control was off" in verdict(summary)
    assert "support a rise" not in verdict(summary)
    from evolve.report import write_report

    assert (tmp_path / "curve.png") in write_report(bare, tmp_path)


def test_a_lineage_of_no_tasks_has_its_gain_at_length_0_and_no_untrained_ancestor() -> None:
    alone = LineageRecord("toy", "full", 0, 0, (generation(0, [0.7, 0.8], [0.6, 0.6]),))
    found = curves.summarise([alone])
    effect = found.effect("from-scratch")
    assert found.measured == 1 and effect is not None and effect.interval.mean == pytest.approx(15) and found.effect("lineage 0") is None
    before = curves.summarise([replace(alone, tasks=3)])
    assert before.measured == 0 and before.effect("from-scratch") is None


def test_too_few_generations_for_the_rank_test_are_called_so() -> None:
    """A perfect rise of four generations has p 2/24: no size can be named that it would have found."""
    rng = np.random.default_rng(0)
    records = [simulated(rng, 1.0, seed=s, points=4) for s in range(5)]
    summary = curves.summarise(records)
    assert math.isnan(summary.accuracy.resolvable) and math.isnan(summary.gain.resolvable)
    assert "4 generations are too few for the rank test" in verdict(summary) and "easily have been missed" not in verdict(summary)
