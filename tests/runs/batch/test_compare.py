"""The table: pairing, intervals, corrected tests, and what may be printed in bold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evolve.lineage.scenario import load
from evolve.report import compare as room
from evolve.report import paired
from evolve.report.compare import Batch, Case
from evolve.report.curves import Descent, Generation, LineageRecord

SCENARIO = load("glyphs-seq25")


def record(seed: int, table: np.ndarray, scratch: float = 0.5) -> LineageRecord:
    """[generations, descendants] accuracies."""

    def descent(method: str, values) -> Descent:
        values = tuple(map(float, values))
        return Descent(
            1,
            method,
            values,
            values,
            tuple((v,) for v in values),
            tuple((0.1,) for _ in values),
            (10,) * len(values),
            (1,),
        )

    how = ("conv1",), ("conv1", "conv2"), (0.6, 0.4), ((1.0,), (1.0,)), 0.1, "selected", "t", "8*"
    generations = [
        Generation(
            t, *how, descent("inherited", row), descent("from-scratch", [scratch] * len(row))
        )
        for t, row in enumerate(table, start=1)
    ]
    return LineageRecord("toy", "quick", seed, len(table), tuple(generations))


def batch(methods, seeds, reference=""):
    cases = tuple(Case(m, s, m, (), {}, SCENARIO) for m in methods for s in seeds)
    return Batch("toy", "", "quick", "toy.toml", "method", reference, cases)


def rows(tables, reference="", metric="accuracy"):
    """{method: {seed: table}} -> rows by method."""
    toy = batch(tables, sorted({s for by_seed in tables.values() for s in by_seed}), reference)
    records = [
        (c, record(c.seed, tables[c.method][c.seed]))
        for c in toy.cases
        if c.seed in tables[c.method]
    ]
    return {row.method: row for row in room.compare(toy, records, metric)}


def drawn(rng, shift=0.0, seeds=4):
    return {
        s: np.clip(0.6 + shift + rng.normal(0, 0.01, (3, 5)) + 0.05 * s, 0, 1) for s in range(seeds)
    }


def test_a_difference_is_the_mean_of_the_pairs_and_its_p_counts_seeds():
    rng = np.random.default_rng(0)
    a, b = drawn(rng), drawn(rng, 0.1)
    result = rows({"a": a, "b": b})
    per_seed = [100 * (b[s] - a[s]).mean() for s in a]
    assert result["a"].is_reference and result["a"].difference is None
    assert result["b"].difference.interval.mean == pytest.approx(np.mean(per_seed))
    within = np.mean([stats.sem(100 * (b[s] - a[s]).mean(axis=0)) ** 2 for s in a])
    error = np.sqrt(max(np.var(per_seed, ddof=1), within) / 4)
    assert result["b"].difference.p == pytest.approx(
        2 * stats.t.sf(abs(np.mean(per_seed)) / error, 3), rel=1e-6
    )
    assert result["b"].difference.interval.low > 5 and result["b"].best and not result["a"].best


def test_seeds_that_agree_by_chance_are_no_proof():
    """Three seeds' means of -0.4 almost to the digit, of tasks that differ by points: between the
    seeds alone p would be 0.0006.
    """
    tasks = np.array([-0.03, 0.03, 0.0, -0.015, 0.015])
    a = {s: np.full((1, 5), 0.6) for s in range(3)}
    b = {s: a[s] + tasks - 0.004 - 0.0001 * s for s in range(3)}
    d = rows({"a": a, "b": b})["b"].difference
    assert d.interval.low < 0 < d.interval.high and d.p > 0.5


def test_seeds_that_differ_more_than_their_tasks_count_as_seeds():
    tasks = np.array([-0.001, 0.001, 0.0, 0.002, -0.002])
    a = {s: np.full((1, 5), 0.6) for s in range(4)}
    b = {s: a[s] + tasks + shift for s, shift in enumerate((0.01, 0.03, 0.02, 0.05))}
    d = rows({"a": a, "b": b})["b"].difference
    assert d.p == pytest.approx(stats.ttest_1samp([1.0, 3.0, 2.0, 5.0], 0).pvalue, rel=1e-6)


def test_with_one_seed_the_test_counts_its_tasks():
    rng = np.random.default_rng(1)
    a, b = drawn(rng, seeds=1), drawn(rng, 0.02, seeds=1)
    d = rows({"a": a, "b": b})["b"].difference
    per_task = 100 * (b[0] - a[0]).mean(axis=0)
    assert d.seeds == 1 and d.p == pytest.approx(stats.ttest_1samp(per_task, 0).pvalue, rel=1e-6)
    assert (d.interval.low, d.interval.high) == pytest.approx(
        stats.t.interval(0.95, 4, per_task.mean(), stats.sem(per_task))
    )


def test_seeds_that_one_method_lacks_do_not_enter_the_difference():
    rng = np.random.default_rng(2)
    a, b = drawn(rng), drawn(rng, 0.1)
    del b[0], b[1]
    d = rows({"a": a, "b": b})["b"].difference
    assert d.seeds == 2
    assert d.interval.mean == pytest.approx(np.mean([100 * (b[s] - a[s]).mean() for s in (2, 3)]))


def test_equal_methods_are_no_difference_and_none_is_best():
    a = drawn(np.random.default_rng(3))
    result = rows({"a": a, "b": a}, reference="b")
    assert (
        result["b"].is_reference
        and result["a"].difference.p == 1.0
        and result["a"].difference.interval.mean == 0
    )
    assert not any(row.best for row in result.values())


def test_gain_is_over_from_scratch():
    a = drawn(np.random.default_rng(4))
    row = rows({"a": a}, metric="gain")["a"]
    assert row.interval.mean == pytest.approx(np.mean([100 * (t - 0.5).mean() for t in a.values()]))


def test_noise_is_seldom_called_best():
    """Three equal methods, three seeds: a bold row in at most one batch of ten."""
    rng = np.random.default_rng(5)
    bold = 0
    for _ in range(60):
        bold += any(row.best for row in rows({m: drawn(rng, seeds=3) for m in "abc"}).values())
    assert bold <= 6


def test_holm_by_hand():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert (
        paired.holm([]) == []
        and math.isnan(paired.holm([math.nan, 0.2])[0])
        and paired.holm([math.nan, 0.2])[1] == 0.2
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_never_lowers_a_p_keeps_their_order_and_is_at_most_bonferroni(ps):
    adjusted = paired.holm(ps)
    assert all(p <= q <= min(1.0, p * len(ps)) + 1e-12 for p, q in zip(ps, adjusted, strict=True))
    order = np.argsort(ps, kind="stable")
    assert all(adjusted[a] <= adjusted[b] + 1e-12 for a, b in zip(order, order[1:], strict=False))


def test_a_control_of_every_second_generation_is_compared_where_it_is():
    """At the generations without the control the inherited descendants are far better, which must
    not count.
    """
    table = np.array([[0.9, 0.9], [0.5, 0.6], [0.9, 0.9], [0.5, 0.6]])
    lineage = record(0, table)
    shuffled = [
        Descent(
            g.lineage,
            "shuffled",
            (0.4, 0.5),
            (0.4, 0.5),
            ((0.4,), (0.5,)),
            ((0.1,), (0.1,)),
            (10, 10),
            (1,),
        )
        for g in lineage.generations
    ]
    generations = tuple(
        replace(g, shuffled=s if g.lineage % 2 == 0 else None)
        for g, s in zip(lineage.generations, shuffled, strict=True)
    )
    toy = replace(batch(["a"], [0]), controls=("shuffled", "joint"))
    result = {
        row.method: row
        for row in room.compare(
            toy, [(toy.cases[0], replace(lineage, generations=generations))], "accuracy"
        )
    }
    assert set(result) == {"a", "shuffled"}
    assert result["shuffled"].difference.interval.mean == pytest.approx(-10) and result[
        "a"
    ].interval.mean == pytest.approx(72.5)


def test_more_pairings_are_no_more_tasks():
    """Task i of a seed is the same in every pairing: the interval must not shrink with the number
    of pairings.
    """
    rng = np.random.default_rng(8)
    effect = rng.normal(0, 0.01, 5)

    def difference(pairings):
        cases = [
            Case(f"{m}{k}", 0, m, (f"k={k}",), {}, SCENARIO) for m in "ab" for k in range(pairings)
        ]
        toy = Batch("toy", "", "quick", "toy.toml", "method", "a", tuple(cases))
        tables = {"a": np.full((2, 5), 0.6), "b": np.full((2, 5), 0.6) + effect}
        rows = room.compare(
            toy, [(case, record(0, tables[case.method])) for case in cases], "accuracy"
        )
        return next(row.difference for row in rows if row.method == "b")

    single, six = difference(1), difference(6)
    assert (
        six.p == pytest.approx(single.p)
        and six.interval.low == pytest.approx(single.interval.low)
        and single.interval.n == six.interval.n == 5
    )


@pytest.mark.parametrize(("seeds", "tasks"), [(1, 2), (3, 1)])
def test_a_few_equal_numbers_prove_nothing(seeds, tasks):
    a = {s: np.full((1, tasks), 0.6) for s in range(seeds)}
    d = rows({"a": a, "b": {s: table + 0.004 for s, table in a.items()}})["b"]
    assert math.isnan(d.difference.p) and not d.best


def batch_of_noise(rng, methods, seeds, tasks, shift=0.0):
    """{method: the test of its difference to the reference}: effects of a seed's ancestor and of
    its tasks; the first has a true one.
    """
    tests = {}
    for number in range(methods):
        groups = {
            s: shift * (number == 0) + rng.normal(0, 1) + rng.normal(0, 2, tasks)
            for s in range(seeds)
        }
        tests[str(number)] = paired.paired_test(groups)
    return paired.corrected(tests)


@pytest.mark.parametrize(
    ("methods", "seeds", "tasks"), [(1, 3, 10), (8, 3, 10), (8, 5, 5), (3, 2, 10)]
)
def test_the_difference_that_a_table_names_is_found_eight_times_in_ten(methods, seeds, tasks):
    rng = np.random.default_rng(methods + seeds)

    def size(differences):
        return room.power(
            [room.Row(m, "gain", d.interval, seeds, d) for m, d in differences.items()]
        )

    typical = np.median([size(batch_of_noise(rng, methods, seeds, tasks)) for _ in range(200)])
    hits = [batch_of_noise(rng, methods, seeds, tasks, typical)["0"].side > 0 for _ in range(400)]
    assert 0.7 <= np.mean(hits) <= 0.9


def test_three_seeds_and_eight_comparisons_cannot_find_three_points():
    """The table says a size well above the 3 points that it cannot see, where a seed's effect
    spreads by 1 point and a task's by 2.
    """
    differences = batch_of_noise(np.random.default_rng(0), 8, 3, 5)
    assert np.median([d.resolvable for d in differences.values()]) > 6


@given(
    st.lists(
        st.tuples(st.floats(-3, 3), st.floats(0.01, 2), st.integers(1, 6)), min_size=1, max_size=9
    ),
)
def test_an_interval_excludes_0_exactly_where_the_corrected_test_says_so(drawn_tests):
    tests = {
        str(i): paired.Paired(mean, error, freedom, 5, 3)
        for i, (mean, error, freedom) in enumerate(drawn_tests)
    }
    for d in paired.corrected(tests).values():
        if abs(d.holm - paired.ALPHA) > 1e-6:
            assert (d.interval.low > 0, d.interval.high < 0) == (d.side > 0, d.side < 0)
            assert (d.side != 0) == (d.holm < paired.ALPHA)
