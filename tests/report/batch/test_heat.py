"""Accuracy over learning rate and weight decay: a map a method, and its spread."""

from __future__ import annotations

import statistics

import made
import numpy as np
import pytest

from evolve.report.batch.heat import heat

RATES, DECAYS = (0.01, 0.1), (0.001, 0.005)
INHERITED = {(0.01, 0.001): 0.80, (0.1, 0.001): 0.70, (0.01, 0.005): 0.78, (0.1, 0.005): 0.40}


def level(value: float) -> list[list[float]]:
    return [[value - 0.02], [value + 0.02]]


@pytest.fixture
def measured() -> list:
    return [
        made.pair(
            "ours",
            0,
            {"descend.lr": rate, "descend.weight_decay": decay},
            made.generation(level(value), level(0.3)),
        )
        for (rate, decay), value in INHERITED.items()
    ]


def test_the_spread_is_that_of_the_maps_cells(measured) -> None:
    ours, scratch = heat(made.batch("heat", measured), measured).tables[0].rows
    deviation = statistics.stdev(100 * value for value in INHERITED.values())
    assert ours.cells == (
        "ours",
        "40.00",
        f"{deviation:.2f}",
        "80.00 (0.01, 0.001)",
        "40.00 (0.1, 0.005)",
        "4",
    )
    assert scratch.cells[:3] == ("ours: from scratch", "0.00", "0.00")


def test_every_map_has_the_same_colours_and_its_numbers(measured) -> None:
    figure = heat(made.batch("heat", measured), measured).draw()
    maps = [axes.collections[0] for axes in figure.axes if axes.texts]
    assert [m.get_clim() for m in maps] == [pytest.approx((30, 80))] * 2
    table = [[INHERITED[rate, decay] * 100 for rate in RATES] for decay in DECAYS]
    assert np.asarray(maps[0].get_array()) == pytest.approx(np.array(table))
    assert sorted(text.get_text() for text in figure.axes[0].texts) == sorted(
        f"{value:.1f}" for row in table for value in row
    )


def test_a_cell_that_is_not_measured_stays_blank(measured) -> None:
    batch, part = made.batch("heat", measured), measured[:3]
    shown = heat(batch, part)
    figure = shown.draw()
    assert len(figure.axes[0].texts) == 3
    assert {(row["lr"], row["weight_decay"]) for row in shown.rows} == set(list(INHERITED)[:3])


def test_one_cell_has_no_spread(measured) -> None:
    row = heat(made.batch("heat", measured), measured[:1]).tables[0].rows[0]
    assert row.cells[1:3] == ("", "")
