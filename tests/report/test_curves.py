from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evolve.core.errors import UserError
from evolve.report import curves, trends
from evolve.report.curves import Descent, Generation, Interval, LineageRecord
from evolve.report.pooling import summarise
from evolve.report.trends import Array
from evolve.report.verdict import finding, gain_sentence, verdict

QUICK = (1, 2, 3, 5, 8, 12, 18, 25)  # the lengths that quick profiles measure


def descent(lineage: int, method: str, accuracy: Sequence[float]) -> Descent:
    values = tuple(float(a) for a in accuracy)
    epochs, losses = tuple((a / 2, a) for a in values), tuple((1.0, 0.5) for _ in values)
    return Descent(
        lineage,
        method,
        values,
        values,
        epochs,
        losses,
        (100,) * len(values),
        tuple(range(1, 1 + len(epochs[0]))) if epochs else (),
    )


def generation(
    lineage: int, inherited: Sequence[float], scratch: Sequence[float], status: str = "selected"
) -> Generation:
    layers = ("conv1", "conv2", "conv3")
    pair = descent(lineage, "inherited", inherited), descent(lineage, "from-scratch", scratch)
    return Generation(
        lineage,
        ("conv1",),
        layers,
        (0.5, 0.3, 0.2),
        ((1.0, 2.0),) * 3,
        0.03,
        status,
        "threshold",
        "8* M",
        *pair,
    )


def record(table: Array, scratch: Array, seed: int = 0) -> LineageRecord:
    """[T, n] accuracies of lineage lengths 1..T; scratch [n]."""
    points = tuple(
        generation(t, row, scratch.tolist()) for t, row in enumerate(table.tolist(), start=1)
    )
    return LineageRecord("toy", "full", seed, len(table), points)


def simulated(
    rng: np.random.Generator, rise: float, points: int = 25, seed: int = 0
) -> LineageRecord:
    """Noise of every descendant, and noise that a generation's descendants share (its
    learngene).
    """
    task = rng.normal(0.7, 0.06, 5)
    noise = rng.normal(0, 0.015, (points, 5)) + rng.normal(0, 0.005, (points, 1))
    return record(
        task + rise * np.arange(points)[:, None] / points + noise,
        task - 0.02 + rng.normal(0, 0.015, 5),
        seed,
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
@settings(deadline=None)
def test_point_interval_is_students_t(values: list[float]) -> None:
    interval = curves.point_interval(values)
    error = stats.sem(values)
    low, high = (
        stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        if error > 0
        else (values[0], values[0])
    )
    assert (interval.mean, interval.low, interval.high) == pytest.approx(
        (np.mean(values), low, high), abs=1e-9
    )


def test_intervals_of_too_little_are_nan_and_nan_is_left_out() -> None:
    assert curves.point_interval([]).n == 0 and math.isnan(curves.point_interval([]).mean)
    interval = curves.point_interval([0.5, math.nan])
    assert (interval.n, interval.mean) == (1, 0.5) and math.isnan(interval.low)


def test_gain_is_paired_so_the_tasks_difficulty_cancels() -> None:
    point = generation(1, [0.1, 0.5, 0.9], [0.08, 0.48, 0.88])
    gain, raw = curves.paired_gain(point), curves.point_interval(point.inherited.accuracy)
    assert gain.mean == pytest.approx(0.02) and gain.half < 1e-9 < raw.half
    with pytest.raises(ValueError, match="not paired"):
        curves.differences(point.inherited, descent(1, "shuffled", [0.1]))


@given(st.lists(st.integers(0, 5), min_size=3, max_size=6).filter(lambda v: len(set(v)) > 1))
@settings(deadline=None, max_examples=30)
def test_the_described_rank_correlation_is_scipys(values: list[int]) -> None:
    x = np.arange(len(values))
    assert trends.spearman(list(x), values) == pytest.approx(stats.spearmanr(x, values).statistic)


def test_slope_is_least_squares_of_the_mean_curve_on_the_named_scale() -> None:
    lineage = simulated(np.random.default_rng(0), 0.1)
    summary = summarise([lineage])
    means = [100 * np.mean(g.inherited.accuracy) for g in lineage.generations]
    assert summary.accuracy.slope == pytest.approx(
        stats.linregress(np.log2(range(1, 26)), means).slope
    )
    assert summary.accuracy.low < summary.accuracy.slope < summary.accuracy.high
    assert summary.accuracy.scale == "log2 length"
    assert f"{summary.gain.slope:+.2f} points per doubling of length" in verdict(summary)


def test_from_three_seeds_on_the_interval_is_students_over_their_slopes() -> None:
    rng = np.random.default_rng(1)
    tables = [
        rng.normal(size=(8, 4)) + rise * np.arange(8)[:, None] for rise in (0.1, 0.5, 0.4, 0.2)
    ]
    slopes = [stats.linregress(np.log2(QUICK), table.mean(axis=1)).slope for table in tables]
    t = trends.trend(QUICK, tables)
    assert (t.low, t.high) == pytest.approx(
        stats.t.interval(0.95, 3, np.mean(slopes), stats.sem(slopes))
    )


def test_bootstrap_agrees_with_t_where_there_are_many_units() -> None:
    values = np.random.default_rng(1).normal(1, 1, 60)
    mean, low, high = trends.bootstrap([values])
    expected = stats.t.interval(0.95, 59, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean()) and (low, high) == pytest.approx(expected, abs=0.05)


def test_bootstrap_covers_with_five_tasks() -> None:
    rng = np.random.default_rng(2)
    hits = [
        low <= 0 <= high
        for _, low, high in (trends.bootstrap([rng.normal(size=5)]) for _ in range(300))
    ]
    assert 0.85 < np.mean(hits)


def test_bootstrap_of_seeds_sees_what_seeds_do_not_share() -> None:
    inside = np.array([-0.01, 0.0, 0.01])
    apart = trends.bootstrap([inside - 1, inside, inside + 1])
    together = trends.bootstrap([inside, inside, inside])
    assert apart[2] - apart[1] > 1 > 0.1 > together[2] - together[1]


def test_flat_truth_is_rarely_called_a_rise() -> None:
    rng = np.random.default_rng(11)
    called = [
        "do not support a rise" not in verdict(summarise([simulated(rng, 0.0)])) for _ in range(200)
    ]
    assert np.mean(called) < 0.06


def drawn_noise(rng: np.random.Generator, kind: str, *shape: int) -> Array:
    """What a seed's descendants share, after 1 to 25 tasks: [..., 25], of variance about 1."""
    steps = rng.normal(size=(*shape, 25))
    if kind == "random walk":
        return np.asarray(np.cumsum(steps, axis=-1) / np.sqrt(13))
    if kind == "AR(1)":
        for t in range(1, 25):
            steps[..., t] = 0.8 * steps[..., t - 1] + 0.6 * steps[..., t]
    return steps


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("lengths", [QUICK, tuple(range(1, 26))], ids=["quick", "all"])
@pytest.mark.parametrize("kind", ["independent", "AR(1)", "random walk"])
def test_the_interval_covers_and_a_rise_is_seldom_claimed_of_drift(
    kind: str, lengths: tuple[int, ...], seeds: int
) -> None:
    """Flat truth: noise that all tasks of a seed share, tasks of their own level, noise of every
    descendant.
    """
    rng = np.random.default_rng([len(lengths), seeds, len(kind)])
    trials, tasks = 600, 10
    shared = drawn_noise(rng, kind, trials, seeds)[..., np.array(lengths) - 1, None]
    levels = rng.normal(0, 4, (trials, seeds, 1, tasks))
    tables = shared + levels + rng.normal(0, 1, (trials, seeds, len(lengths), tasks))
    fits = [trends.trend(lengths, list(table)) for table in tables]
    assert np.mean([t.low <= 0 <= t.high for t in fits]) >= 0.93
    assert np.mean([t.rises for t in fits]) <= 0.05


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_size_that_is_named_is_found_eight_times_in_ten(seeds: int) -> None:
    """Under the noise that is hardest for one lineage, a random walk, and typical interval
    widths.
    """
    rng = np.random.default_rng(seeds)
    noise = [
        [rng.normal(size=(25, 1)).cumsum(axis=0)[np.array(QUICK) - 1] for _ in range(seeds)]
        for _ in range(800)
    ]
    size = np.median([trends.trend(QUICK, tables).resolvable for tables in noise])
    rise = size * np.log2(QUICK)[:, None]
    rises = [trends.trend(QUICK, [table + rise for table in tables]).rises for tables in noise]
    assert 0.7 <= np.mean(rises) <= 0.9


def test_a_curve_that_bends_is_not_noisy_for_that() -> None:
    """Gains that saturate, or grow by the task, clearly and without noise to speak of, rise for one
    lineage too.
    """
    rng = np.random.default_rng(3)
    t = np.array(QUICK, dtype=np.float64)
    for curve in (40 * (1 - np.exp(-t / 4)), t, [14.9, 25, 33, 44.9, 50, 53.6, 55, 56.4]):
        assert trends.trend(QUICK, [np.asarray(curve)[:, None] + rng.normal(0, 0.5, (8, 10))]).rises


bounds = st.floats(-3, 3) | st.sampled_from([0.004, -0.004, 0.006, -0.006, math.nan])


@given(*[bounds] * 4, st.sampled_from([1, 2, 3, 5]))
@settings(deadline=None)
def test_a_verdict_says_what_the_intervals_beside_it_say(
    a: float, b: float, c: float, d: float, seeds: int
) -> None:
    def of(first: float, second: float) -> trends.Trend:
        low, high = sorted((first, second))
        low, high = (math.nan, math.nan) if math.isnan(first + second) else (low, high)
        return trends.Trend(
            8,
            seeds,
            10,
            "log2 length",
            0.1,
            (first + second) / 2 if low == low else 0.5,
            low,
            high,
            high - low,
        )

    summary = summarise([simulated(np.random.default_rng(0), 0.0, 4, s) for s in range(seeds)])
    text = verdict(replace(summary, gain=of(a, b), accuracy=of(c, d)))
    printed = re.findall(
        r"95 % ([+-][\d.]+) to ([+-][\d.]+)", text.split("accuracy +")[0].split("accuracy -")[0]
    )
    low, high = map(float, printed[0]) if printed else (math.nan, math.nan)
    assert ("data support a rise of the gain" in text) == (low > 0)
    assert ("data support a fall of the gain" in text) == (high < 0)
    assert ("do not support a rise" in text) == (not (low > 0 or high < 0))
    assert "nan" not in text


@given(st.floats(-1, 1), st.floats(0, 1))
@settings(deadline=None)
def test_the_gain_sentence_says_what_its_interval_says(mean: float, half: float) -> None:
    summary = summarise([simulated(np.random.default_rng(0), 0.0, 4)])
    effect = curves.Effect("from-scratch", curves.Interval(mean, mean - half, mean + half, 5), 4)
    text = gain_sentence(replace(summary, effects=(effect,)))
    match = re.search(r"\[([+-][\d.]+), ([+-][\d.]+)\]", text)
    assert match is not None
    low, high = float(match[1]), float(match[2])
    assert (low > 0, high < 0) == ("above 0" in text, "below 0" in text)


@pytest.mark.parametrize(
    "gain, title",
    [
        (Interval(13.8, 12.1, 15.5, 8), "Inheriting gains +13.8 points [+12.1, +15.5] after"),
        (Interval(-1.3, -8.7, 6.0, 8), "No gain shown: -1.3 points [-8.7, +6.0] after"),
        (Interval(-4.0, -6.0, -2.0, 8), "Inheriting loses 4.0 points [2.0, 6.0] after"),
        (Interval(3.0, math.nan, math.nan, 1), "Inheriting gains +3.0 points after"),
    ],
)
def test_the_title_claims_a_gain_only_where_its_interval_excludes_0(
    gain: Interval, title: str
) -> None:
    summary = summarise([simulated(np.random.default_rng(0), 0.2)])
    assert finding(summary, 25, gain).startswith(title)


def test_who_a_verdict_speaks_of() -> None:
    rng = np.random.default_rng(5)
    texts = [verdict(summarise([simulated(rng, 0.2, seed=s) for s in range(n)])) for n in (1, 2, 3)]
    assert all("The data support a rise of the gain" in text for text in texts)
    assert "one lineage (one seed): it speaks of this ancestor" in texts[0]
    assert "2 seeds: they speak of these ancestors" in texts[1] and "alone" not in texts[2]


def test_strong_rise_is_nearly_always_seen() -> None:
    rng = np.random.default_rng(12)
    rises = [summarise([simulated(rng, 0.15)]).accuracy.rises for _ in range(60)]
    assert np.mean(rises) > 0.95


def test_the_mean_gain_of_several_seeds_is_not_surer_than_its_seeds() -> None:
    """No effect, but each ancestor shifts its five tasks together: an interval over 15 tasks as if
    independent excludes 0 too often.
    """
    rng = np.random.default_rng(8)

    def sample() -> bool:
        records = []
        for seed in range(3):
            scratch = rng.normal(0.7, 0.05, 5)
            shift = rng.normal(0, 0.02) + rng.normal(0, 0.02, 5)
            records.append(record(np.tile(scratch + shift, (4, 1)), scratch, seed))
        effect = summarise(records).effect("from-scratch")
        assert effect is not None
        return effect.interval.low > 0 or effect.interval.high < 0

    assert np.mean([sample() for _ in range(150)]) < 0.15


def test_untrained_ancestors_are_compared_by_gain() -> None:
    """Lineage 0 may have another architecture: 10 points easier from scratch must not look like
    harm by training.
    """
    easy, hard = [0.8, 0.7], [0.7, 0.6]
    points = (
        generation(0, [0.81, 0.71], easy),
        generation(1, [0.74, 0.64], hard),
        generation(2, [0.74, 0.64], hard),
    )
    effect = summarise([LineageRecord("toy", "full", 0, 2, points)]).effect("lineage 0")
    assert effect is not None and effect.interval.mean == pytest.approx(3.0)


def test_diverged_descendants_are_named() -> None:
    whole = simulated(np.random.default_rng(3), rise=0.0)
    broken = replace(
        whole.generations[4].inherited,
        train_loss=((1.0, math.nan),) + whole.generations[4].inherited.train_loss[1:],
    )
    points = tuple(replace(g, inherited=broken) if g.lineage == 5 else g for g in whole.generations)
    assert "diverged" not in verdict(summarise([whole]))
    assert "1 descendant diverged" in verdict(summarise([replace(whole, generations=points)]))


def test_rise_of_accuracy_alone_is_not_a_rise() -> None:
    """Architectures may grow along the lineage: then from-scratch rises too, and the gain does
    not.
    """
    rng = np.random.default_rng(4)
    climb = 0.6 + 0.004 * np.arange(25)[:, None] + rng.normal(0, 0.004, (25, 5))
    points = tuple(
        generation(t + 1, climb[t], climb[t] + rng.normal(0, 0.01, 5)) for t in range(25)
    )
    text = verdict(summarise([LineageRecord("toy", "full", 0, 25, points)]))
    assert (
        "do not support a rise" in text
        and "accuracy rises, but the gain" in text
        and "would have been found 8 times in 10" in text
    )


def test_fall_is_called_a_fall() -> None:
    rng = np.random.default_rng(0)
    for seeds in (1, 5):
        lineages = [simulated(rng, -0.2, seed=s) for s in range(seeds)]
        assert "support a fall of the gain" in verdict(summarise(lineages))


@pytest.mark.parametrize("points", [0, 1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2])
def test_short_and_constant_lineages_give_words_without_warnings(points: int, columns: int) -> None:
    lineage = record(np.full((points, columns), 0.5), np.full(columns, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = verdict(summarise([lineage])) + gain_sentence(summarise([lineage]))
    assert "nan" not in text
    assert ("Too few generations" in text) == (points < 3)
    assert "support a rise with" not in text.replace("do not support", "")


def test_pairs_are_tasks_averaged_over_generations() -> None:
    table = np.array([[0.6, 0.7], [0.62, 0.74], [0.64, 0.72]])
    effect = summarise([record(table, np.array([0.6, 0.6]))]).effect("from-scratch")
    assert effect is not None and effect.interval.n == 2 and effect.generations == 3
    expected = stats.t.interval(0.95, 1, loc=7.0, scale=stats.sem([2.0, 12.0]))
    assert (effect.interval.low, effect.interval.high) == pytest.approx(expected)


def test_controls_are_compared_where_they_exist() -> None:
    lineage = record(np.full((4, 2), 0.6), np.full(2, 0.5))
    first = replace(lineage.generations[1], shuffled=descent(2, "shuffled", [0.5, 0.58]))
    zero = generation(0, [0.4, 0.5], [0.5, 0.5])
    points = (zero, lineage.generations[0], first, *lineage.generations[2:])
    lineage = replace(lineage, generations=points, reference=descent(0, "from-scratch", [0.6, 0.7]))
    summary = summarise([lineage])
    effects = {
        effect.over: (effect.interval.mean, effect.generations) for effect in summary.effects
    }
    expected = {
        "from-scratch": (10, 4),
        "shuffled": (6, 1),
        "lineage 0": (15, 4),
        "reference": (-5, 4),
    }
    assert effects.keys() == expected.keys()
    assert all(effects[name] == pytest.approx(expected[name]) for name in expected)
    assert summary.lengths == (1, 2, 3, 4)


def test_pooling_uses_the_lengths_that_every_seed_has() -> None:
    rng = np.random.default_rng(0)
    long, short = simulated(rng, 0.0, 8, seed=1), replace(simulated(rng, 0.0, 5, seed=2), tasks=8)
    assert summarise([long, short]).lengths == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"scenario": "other"}, "other"), ({"settings": {"lr": 2}}, "lr"), ({"seed": 0}, "twice")],
)
def test_what_cannot_be_pooled_is_refused_by_name(change: dict[str, object], word: str) -> None:
    lineage = simulated(np.random.default_rng(0), 0.0, 3)
    with pytest.raises(UserError, match=word):
        summarise([lineage, replace(lineage, **{"seed": 1, **change})])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no lineage"):
        summarise([])


@pytest.mark.usefixtures("no_rendering")
def test_a_run_without_the_from_scratch_control_has_no_gain_and_says_so(tmp_path: Path) -> None:
    whole = simulated(np.random.default_rng(3), rise=0.3)
    bare = replace(whole, generations=tuple(replace(g, scratch=None) for g in whole.generations))
    summary = summarise([bare])
    assert math.isnan(summary.gain.slope) and summary.effect("from-scratch") is None
    assert summary.accuracy == summarise([whole]).accuracy and summary.accuracy.rises
    assert "from-scratch control was off" in verdict(summary)
    assert "support a rise" not in verdict(summary)
    from evolve.report.files import write_report

    assert (tmp_path / "curve.png") in write_report(bare, tmp_path)


def test_a_lineage_of_no_tasks_has_its_gain_at_length_0_and_no_untrained_ancestor() -> None:
    alone = LineageRecord("toy", "full", 0, 0, (generation(0, [0.7, 0.8], [0.6, 0.6]),))
    summary = summarise([alone])
    effect = summary.effect("from-scratch")
    assert (
        summary.measured == 1
        and effect is not None
        and effect.interval.mean == pytest.approx(15)
        and summary.effect("lineage 0") is None
    )
    before = summarise([replace(alone, tasks=3)])
    assert before.measured == 0 and before.effect("from-scratch") is None


def test_no_trend_is_drawn_where_none_is_claimed() -> None:
    """The line and its fan are the figure's black dashes in the panel of the gain."""
    from evolve.report import figures

    def dashes(lineage: LineageRecord) -> list[int]:
        summary = summarise([lineage])
        panels = figures.evolution_figure([lineage], summary).axes
        return [
            sum(line.get_color() == "black" and line.is_dashed() for line in axes.lines)
            for axes in panels[:2]
        ]

    rng = np.random.default_rng(0)
    assert dashes(simulated(rng, 0.2)) == [3, 0] and dashes(simulated(rng, 0.0)) == [0, 0]
