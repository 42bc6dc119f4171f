"""Evolution curves side by side: one column a network, one line an ancestor, one scale."""

from __future__ import annotations

import made
import numpy as np
import pytest

from evolve.report.batch.networks import networks
from evolve.report.pooling import summarise

LENGTHS = (1, 2, 4)
RISES = {("a", "naive"): 0.0, ("a", "replay"): 4.0, ("b", "naive"): -1.0, ("b", "replay"): 2.0}


def level(value: float) -> list[list[float]]:
    return [[value - 0.02], [value + 0.02]]


def gain(rise: float, seed: int, length: int) -> float:
    """Points that rise so much a doubling, but not quite alike in every seed."""
    return 5 + (rise + 0.2 * seed) * np.log2(length)


@pytest.fixture
def measured() -> list:
    return [
        made.pair(
            method,
            seed,
            {},
            *(
                made.generation(
                    level(0.5 + gain(rise, seed, length) / 100),
                    level(0.5),
                    level(0.7),
                    level(0.6),
                    length,
                )
                for length in LENGTHS
            ),
            pairing=(f'scenario="{network}"',),
        )
        for (network, method), rise in RISES.items()
        for seed in range(3)
    ]


def test_rows_and_table_hold_gain_slope_and_the_whole_ancestor(measured) -> None:
    shown = networks(made.batch("networks", measured), measured)
    points = {
        (row["scenario"], row["method"], row["measure"], row["lineage"]): row["points"]
        for row in shown.rows
    }
    assert points['"a"', "replay", "gain", 4] == pytest.approx(5 + 4.2 * 2)
    assert points['"b"', "naive", "accuracy", 1] == pytest.approx(55)
    assert points['"b"', "naive", "whole ancestor's gain", 2] == pytest.approx(10)
    table = {row.cells[:2]: row.cells for row in shown.tables[0].rows}
    t = summarise(
        [r for c, r in measured if (c.method, c.pairing) == ("replay", ('scenario="a"',))]
    )
    cells = table["scenario a", "replay"]
    assert cells[2].startswith("+5.00") and cells[2].endswith("(1)")
    assert cells[3].startswith("+13.40") and cells[3].endswith("(4)")
    assert cells[4] == f"+4.20 [{t.gain.low:+.2f}, {t.gain.high:+.2f}]"
    assert cells[5].startswith("+10.00") and cells[6] == "3"


def test_the_columns_have_the_same_scales(measured) -> None:
    figure = networks(made.batch("networks", measured), measured).draw()
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in above] == ["scenario a", "scenario b"]
    for row in (above, below):
        assert row[0].get_ylim() == row[1].get_ylim()
    assert below[0].lines[0].get_ydata() == pytest.approx([5.0, 5.2, 5.4])


def test_an_unfinished_network_shows_what_there_is(measured) -> None:
    part = [pair for pair in measured if pair[0].pairing == ('scenario="a"',)]
    shown = networks(made.batch("networks", measured), part)
    assert {row.cells[0] for row in shown.tables[0].rows} == {"scenario a"}
    assert len(shown.draw().axes) == 2
