"""The curves of a batch: what is pooled, its intervals, and that every line can be told apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from evolve.condensers.methods import method as condenser
from evolve.lineage.scenario import load
from evolve.report.compare import METRICS, Batch, Case, pooled
from evolve.report.curves import Descent, Generation, Interval, LineageRecord
from evolve.report.figures import evolution_figure
from evolve.report.page.pictures import Curve, Panel, lineage_curves, panel_figure, panels
from evolve.report.page.section import Line, Section
from evolve.report.page.svg import inline
from evolve.report.page.words import caveats
from evolve.report.pooling import summarise

SCENARIO = load("glyphs-seq25")


def record(seed: int, table: dict[int, list[float]], shuffled: bool = False) -> LineageRecord:
    """Accuracies by lineage length; from-scratch is at 0.5."""

    def descent(method: str, values: list[float]) -> Descent:
        v = tuple(values)
        return Descent(
            1, method, v, v, tuple((a,) for a in v), ((0.1,),) * len(v), (10,) * len(v), (1,)
        )

    generations = []
    for t, row in table.items():
        pair = descent("inherited", row), descent("from-scratch", [0.5] * len(row))
        control = descent("shuffled", [0.25] * len(row)) if shuffled else None
        generations.append(
            Generation(
                t, ("c1",), ("c1",), (), (), math.nan, "fixed", "t", "8*", *pair, shuffled=control
            )
        )
    return LineageRecord("toy", "quick", seed, 9, tuple(generations))


def test_one_seed_has_students_interval_and_several_resample_seeds() -> None:
    row = [0.5, 0.6, 0.8]
    (point,) = pooled([record(0, {1: row})], METRICS["accuracy"]).values()
    assert (point.low, point.high) == pytest.approx(
        stats.t.interval(0.95, 2, 100 * np.mean(row), 100 * stats.sem(row))
    )
    (both,) = pooled(
        [record(0, {1: [0.2] * 5}), record(1, {1: [0.6] * 5})], METRICS["gain"]
    ).values()
    assert (
        both.mean == pytest.approx(-10) and both.low <= -30 + 1e-9 and both.high >= 10 - 1e-9
    )  # tasks agree, seeds do not


def test_a_seed_that_is_further_along_or_diverged_does_not_bend_the_curve() -> None:
    ahead, behind = (
        record(0, {1: [0.5, 0.5], 2: [0.6, 0.6], 3: [0.9, 0.9]}),
        record(1, {1: [0.5, 0.5], 2: [math.nan, 0.5]}),
    )
    assert list(pooled([ahead, behind], METRICS["accuracy"])) == [1]


def test_lineages_of_another_pairing_get_a_panel_of_their_own() -> None:
    cases = [
        Case(f"{m}{p}", 0, m, (f"size={p}",), {}, SCENARIO) for m in ("a", "b") for p in (1, 2)
    ]
    batch = Batch("t", "", "quick", "t", "m", "b", tuple(cases), {}, ("shuffled", "joint"))
    measured = [
        (case, record(0, {1: [0.1 * (i + 1)] * 2}, shuffled=case.method == "b"))
        for i, case in enumerate(cases)
    ]
    first, second = panels(batch, measured)
    assert (first.title, second.title) == ("size=1", "size=2")
    assert [(curve.label, round(curve.accuracy[1].mean)) for curve in second.curves] == [
        ("a", 20),
        ("b", 40),
        ("shuffled", 25),
    ]
    assert [curve.control for curve in second.curves] == [False, False, True]


def test_twenty_curves_differ_without_their_colours() -> None:
    points = {t: Interval(t, t - 1, t + 1, 3) for t in range(4)}
    axes = panel_figure(
        Panel("", tuple(Curve(str(i), points, {}) for i in range(20))), untrained=True
    ).axes[0]
    lines = [
        line
        for line in axes.lines
        if line.get_marker() not in ("_", "|") and len(line.get_xdata()) == 3
    ]
    looks = [
        (
            line.get_marker(),
            str(line.get_linestyle()),
            line._dash_pattern[1] and tuple(line._dash_pattern[1]),
        )
        for line in lines
    ]
    assert len(looks) == len(set(looks)) == 20
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 20 and all(line.get_linestyle() == "None" for line in hollow)
    places = {round(float(line.get_xdata()[0]), 6) for line in lines}
    assert len(places) == 20, "no interval hides another"


def test_methods_on_one_pretrained_ancestor_stand_side_by_side() -> None:
    axes = panel_figure(
        Panel("", tuple(Curve(str(i), {0: Interval(i, i, i, 3)}, {}) for i in range(3))),
        untrained=False,
    ).axes[0]
    places = {
        float(line.get_xdata()[0])
        for line in axes.lines
        if line.get_markerfacecolor() != "white" and len(line.get_xdata())
    }
    low, high = axes.get_xlim()
    assert len(places) == 3 and max(places) - min(places) > (high - low) / 2


def test_a_picture_keeps_its_text_and_its_own_ids() -> None:
    points = {t: Interval(t, t, t, 3) for t in range(3)}
    panel = Panel("a < b", (Curve("_$x$ & y", points, points),))
    first, second = (
        inline(lambda: panel_figure(panel, False), name, 'a "b" <c>') for name in ("one", "two")
    )
    assert (
        "a &lt; b" in first
        and "_$x$ &amp; y" in first
        and 'aria-label="a &quot;b&quot; &lt;c&gt;"' in first
    )
    assert first != second and first.replace("one-", "two-") == second
    assert "metadata" not in first and "<style" not in first and "http" not in first


def test_a_pooled_figure_draws_what_its_table_says() -> None:
    """Two seeds, one longer: the curve ends where the first ends, and its band resamples seeds, as
    the numbers below it do.
    """
    low, high = (
        {t: [0.5, 0.52, 0.54] for t in range(1, 6)},
        {t: [0.7, 0.72, 0.74] for t in range(1, 4)},
    )
    records = [record(0, low), record(1, high)]
    figure = evolution_figure(records, summarise(records))
    (line,) = [
        curve
        for curve in figure.axes[0].lines
        if str(curve.get_label()).startswith("inherited learngene")
    ]
    table = pooled(records, METRICS["gain"])
    assert list(line.get_xdata()) == list(table) == [1, 2, 3]
    assert np.allclose(line.get_ydata(), [interval.mean for interval in table.values()])
    heights = np.concatenate(
        [path.vertices[:, 1] for path in figure.axes[0].collections[0].get_paths()]
    )
    assert np.isclose(heights.min(), table[1].low) and np.isclose(heights.max(), table[1].high)


def test_a_control_that_one_seed_has_alone_is_in_neither_figure_nor_table() -> None:
    """A control that runs every n generations may not have come to its turn in the seed that is
    behind.
    """
    records = [
        record(0, {t: [0.5, 0.52] for t in (1, 2, 3)}, shuffled=True),
        record(1, {1: [0.7, 0.72]}),
    ]
    labels = [
        str(line.get_label())
        for line in evolution_figure(records, summarise(records)).axes[1].lines
    ]
    assert "from-scratch, same architecture" in labels and "shuffled learngene" not in labels
    assert [curve.label for curve in lineage_curves(records)] == ["inherited", "from-scratch"]


def test_the_numbers_hold_every_control() -> None:
    assert [
        curve.label for curve in lineage_curves([record(0, {1: [0.5, 0.6]}, shuffled=True)])
    ] == [
        "inherited",
        "from-scratch",
        "shuffled",
    ]


def test_controls_are_the_references_or_none() -> None:
    cases = [Case(m, 0, m, (), {}, SCENARIO) for m in ("a", "b")]
    only_a = [(cases[0], record(0, {1: [0.5, 0.6]}, shuffled=True))]
    for reference, expected in (("b", ["a"]), ("", ["a", "shuffled"])):
        (panel,) = panels(
            Batch("t", "", "quick", "t", "m", reference, tuple(cases), {}, ("shuffled",)), only_a
        )
        assert [curve.label for curve in panel.curves] == expected


def test_only_a_condenser_that_draws_is_said_to_have_drawn_once() -> None:
    lineage = record(0, {1: [0.5, 0.6]})
    lineage = replace(
        lineage, generations=tuple(replace(g, status="selected") for g in lineage.generations)
    )
    for method, expected in (("gradient", False), ("fisher", True)):
        case = Case(
            "a", 0, "a", (), {}, load("glyphs-seq25", "quick", (f"condense.method={method}",))
        )
        section = Section("t", (Line(case, Path(), lineage, {}, {}, "", condenser(method).draws),))
        assert any("one condensation each" in line for line in caveats(section)) == expected
