from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.runs.estimate.forecast import Forecast, Item

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def replayed(path: Path) -> Iterator[tuple[float, float, float]]:
    """Seconds since the run's begin, the fraction and the seconds left, after every event."""
    clock, items = Clock(), {}
    told = json.loads(path.read_text())
    forecast = Forecast(next(line[4] for line in told if line[1] == "plan"), clock)
    for at, name, *content in told:
        clock.now = at
        if name == "plan":
            for key, kind, expected, inputs, done in content[0]:
                items[key] = Item(str(key), kind, expected, tuple(map(str, inputs)), done)
            forecast.plan(items.values(), content[1])
        else:
            getattr(forecast, name)(str(content[0]), *content[1:])
        left = forecast.left()
        if left is not None:
            yield at, forecast.fraction, left


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_of_a_recorded_run_the_bar_never_goes_back_and_the_end_is_told_early(path: Path) -> None:
    told = list(replayed(path))
    fractions = [fraction for _, fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0 and told[-1][2] == 0
    end = told[-1][0]
    for at, fraction, left in told:
        if at >= 0.1 * end:
            assert abs(at + left - end) <= 0.4 * end
            assert abs(fraction - at / end) <= 0.1


def test_a_finished_run_has_nothing_left() -> None:
    forecast = Forecast(2, Clock())
    forecast.plan([Item("a", "descend", 5.0, (), True)], {})
    assert (forecast.fraction, forecast.left()) == (1.0, 0.0)


def test_what_the_store_held_counts_as_done() -> None:
    clock = Clock()
    forecast = Forecast(1, clock)
    items = [Item("a", "x", 30.0, (), True), Item("b", "x", 10.0, ("a",), False)]
    forecast.plan(items, {})
    assert forecast.fraction == pytest.approx(0.75) and forecast.left() == pytest.approx(10)
    clock.now = 4
    assert forecast.left() == pytest.approx(6)


def test_a_kind_that_takes_twice_as_long_is_learned_from_a_running_stage() -> None:
    clock = Clock()
    forecast = Forecast(1, clock)
    items = [Item(str(i), "x", 100.0, (), False) for i in range(3)]
    forecast.plan(items, {})
    assert forecast.left() == pytest.approx(300)
    forecast.started("0")
    clock.now = 100
    forecast.progress("0", 0.5)
    assert forecast.left() == pytest.approx(500, rel=0.05)


def test_a_chain_takes_its_length_however_many_workers_there_are() -> None:
    chain = [Item(str(i), "x", 10.0, (str(i - 1),), False) for i in range(5)]
    beside = [Item(f"b{i}", "x", 10.0, (), False) for i in range(3)]
    forecast = Forecast(8, Clock())
    forecast.plan(chain + beside, {"x": 5.0})
    assert forecast.left() == pytest.approx(50)
    forecast = Forecast(2, Clock())
    forecast.plan(chain + beside * 1, {"x": 100.0})
    assert forecast.left() == pytest.approx(90)


@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.1, 5)), min_size=1, max_size=20))
def test_the_bar_never_goes_back_whatever_stages_take(stages: list[tuple[float, float]]) -> None:
    clock = Clock()
    forecast = Forecast(1, clock)
    items = [
        Item(str(i), f"k{i % 3}", expected, (), False) for i, (expected, _) in enumerate(stages)
    ]
    forecast.plan(items, {"k0": 3.0})
    fractions = [forecast.fraction]
    for item, (expected, factor) in zip(items, stages, strict=True):
        forecast.started(item.key)
        clock.now += expected * factor / 2
        forecast.progress(item.key, 0.5)
        fractions.append(forecast.fraction)
        clock.now += expected * factor / 2
        forecast.finished(item.key, expected * factor)
        forecast.plan(items, {})
        fractions.append(forecast.fraction)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert all(fraction < 1 for fraction in fractions[:-1])
