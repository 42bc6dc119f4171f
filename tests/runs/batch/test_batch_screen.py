"""The table that fills while a batch is computed: its numbers, and that it fits any terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_compare import SCENARIO, record

from evolve.report.compare import METRICS, Batch, Case, compare
from evolve.report.curves import Generation
from evolve.runs.estimate.forecast import Forecast
from evolve.runs.screens import cases as room
from evolve.runs.screens.batch_screen import BatchFrame
from evolve.runs.screens.cases import HEADINGS, Cases
from evolve.runs.screens.rows import _Running

LENGTHS = SCENARIO.settings.stream.tasks + 1
Known = dict[int, dict[int, Generation]]  # place in the batch -> lineage length -> generation


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Known:
    """What is measured, in the place of a store."""
    complete: Known = {}
    monkeypatch.setattr(room, "places", lambda world, peek: {})
    monkeypatch.setattr(
        room,
        "generation",
        lambda world, length, stages, peek: complete.get(world.number, {}).get(length),
    )
    return complete


def batch(methods: int, seeds: int) -> Batch:
    names = [f"condense.method cka, shots {number}, of a long name" for number in range(methods)]
    cases = tuple(Case(name, s, name, (), {}, SCENARIO) for name in names for s in range(seeds))
    return Batch("toy", "", "quick", "toy.toml", "method", "", cases)


def rows_of(toy: Batch) -> Cases:
    def run(number: int) -> Any:
        world = SimpleNamespace(settings=SCENARIO.settings, number=number)
        return SimpleNamespace(world=world, peek=None)

    return Cases([(case, run(number)) for number, case in enumerate(toy.cases)])


def measured(number: int, lengths: int) -> Mapping[int, Generation]:
    table = np.random.default_rng(number).uniform(0.4, 0.9, (lengths, 5))
    return {g.lineage: g for g in record(number, table).generations}


def test_a_row_s_mean_and_interval_are_those_of_the_table_at_the_end(store: Known) -> None:
    toy = batch(2, 3)
    cases = rows_of(toy)
    assert cases.look() == [] and all(row.accuracy == "" for row in cases.rows.values())
    for number in range(6):
        store[number] = dict(measured(number, 4))
    empty = record(0, np.zeros((0, 5)))
    records = [
        (case, replace(empty, seed=case.seed, generations=tuple(store[number].values())))
        for number, case in enumerate(toy.cases)
    ]
    cases.changed.update(range(6))
    changed = {row.name: row for row in cases.look()}
    for metric, sign in zip(METRICS, ("", "+"), strict=True):
        for end in compare(toy, records, metric):
            i = end.interval
            text = f"{i.mean:{sign}.1f} ± {i.half:.1f}"
            assert getattr(changed[end.method], metric) == text
    assert cases.total.cells == ("all 2 cases", "0/6", f"24/{6 * LENGTHS}", "-", "-")


def test_it_counts_finished_lineages_and_looks_at_changed_ones_alone(store: Known) -> None:
    cases = rows_of(batch(2, 2))
    cases.look()
    store[0] = {g.lineage: g for g in measured(0, LENGTHS - 1).values()}
    store[0][0] = measured(0, 1)[1]
    store[3] = dict(measured(3, 2))
    cases.changed.add(0)
    (row,) = cases.look()
    assert (row.lineages, row.lengths) == ((1, 2), (LENGTHS, 2 * LENGTHS))
    assert cases.unfinished == [1, 2, 3]
    cases.fail([2])
    (row,) = cases.look()
    assert row.cells[0].startswith("(1 failed)") and row.lengths[0] == 0
    assert cases.total.failed == 1


def test_the_seeds_of_one_case_have_a_row_each_and_a_mean(store: Known) -> None:
    store.update({0: dict(measured(0, 2)), 1: dict(measured(1, 2))})
    cases = rows_of(batch(1, 2))
    cases.look()
    assert list(cases.rows) == ["seed 0", "seed 1"]
    assert cases.total.name == "all 2 seeds" and "±" in cases.total.accuracy


def drawn(cases: Cases, width: int, height: int, stages: int) -> list[str]:
    running = {
        f"a-case-of-a-long-name-seed{n}: descend 3 full-ancestor": _Running(0.0, 0.3, "epoch 3/50")
        for n in range(stages)
    }
    state: Any = SimpleNamespace(
        title="toy quick, 120 lineages", folder="/a/long/path" * 12, forecast=Forecast(2),
        running=running, cases=cases,
    )  # fmt: skip
    frame = BatchFrame(state, io.StringIO())
    options = {"force_terminal": True, "color_system": None}
    frame.console = Console(file=io.StringIO(), width=width, height=height, **options)
    with frame.console.capture() as captured:
        frame.console.print(frame.draw())
    return captured.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (80, 12), (64, 12)])
@pytest.mark.parametrize("stages", [0, 2, 16])
@pytest.mark.parametrize("count", [3, 40])
def test_the_table_fits_and_shows_what_changed_last(
    store: Known, width: int, height: int, stages: int, count: int
) -> None:
    cases = rows_of(batch(count, 3))
    cases.look()
    late = min(count, 2)
    for case in range(late):  # the first cases changed last
        store[3 * case] = dict(measured(case, 2))
    cases.changed.update(3 * case for case in range(late))
    cases.look()
    lines = drawn(cases, width, height, stages)
    assert len(lines) < height and max(map(len, lines)) <= width
    at = next(n for n, line in enumerate(lines) if HEADINGS[0] in line and HEADINGS[-1] in line)
    table = lines[at + 1 :]
    shown = [line for line in table if line.startswith("cond")]
    assert len(shown) >= late
    assert all(f" 2/{3 * LENGTHS} " in line and "±" in line for line in shown[:late])
    assert f"0/{3 * count}" in table[-1] and table[-1].startswith(f"all {count} cases")
    if len(shown) < count:
        assert table[-2].startswith(f"... {count - len(shown)} more")
    if height == 24 and stages < 3:
        assert len(shown) >= min(count, 12)
    assert sum("descend 3 full-ancestor" in line for line in lines) >= min(stages, 1)
