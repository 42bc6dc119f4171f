"""Appendix A.2: what is counted for which condenser, and where the numbers come from."""

from __future__ import annotations

import time
from typing import Any

from evolve.core.spent import part, stopwatch
from evolve.lineage import scenario
from evolve.report.compare import Case
from evolve.report.cost_table import STATISTICS, cost_markdown, cost_rows, costs
from evolve.report.page.section import Spent


def case(method: str, seed: int = 0) -> Case:
    chosen = scenario.load("glyphs-seq25", "paper", (f"condense.method={method}",))
    return Case(method, seed, method, (), {}, chosen)


def spent(condense: float, resumed: bool = False) -> dict[str, Spent]:
    """Two tasks of 100 s, 1 s of each for counting, and a condensation."""
    task = Spent("accumulate", 300.0, 100.0, resumed, "here", {STATISTICS: 1.0})
    rest: dict[str, Any] = {"seconds": 9.0, "resumed": False, "maker": "here"}
    chosen = Spent("condense", cpu=condense, **rest)
    return {"a": task, "b": task, "c": chosen, "d": Spent("descend", cpu=1e6, **rest)}


def test_only_the_method_that_reads_the_statistics_pays_for_them() -> None:
    lineages = [(case("gradient"), spent(0.0)), (case("gradient", 1), spent(2.0))]
    heur, auto = costs([*lineages, (case("meta-network"), spent(50.0))])
    assert (heur.lineages, heur.ancestor, heur.statistics, heur.condense) == (2, 198, 2, 1)
    assert (auto.ancestor, auto.statistics, auto.condense, auto.total) == (198, 0, 50, 248)
    assert [row["together"] for row in cost_rows([heur, auto])] == [201, 248]
    assert "| meta-network | 1 | 3 min | 0 s | 50 s | 4 min |" in cost_markdown([heur, auto])


def test_a_resumed_stage_makes_a_lower_bound() -> None:
    row = costs([(case("gradient"), spent(1.0, resumed=True))])
    assert row[0].least and "| ≥ 3 min |" in cost_markdown(row)


def test_a_part_is_measured_inside_its_own_stage() -> None:
    def work(seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    outer = stopwatch()
    with part("counting"):
        work(0.02)
    inner = stopwatch()  # a stage that is computed again for this one
    with part("counting"):
        work(0.05)
    again = inner()
    with part("counting"):
        work(0.02)
    whole = outer(stages=2)
    assert again["parts"]["counting"] >= 0.05
    assert 0.02 <= whole["parts"]["counting"] < 0.045
    assert whole["cpu_seconds"] >= 0.045 and "parts" not in stopwatch()()
    with part("outside of any stage"):
        work(0.001)
