"""Learning curves in panels, the area below them, and the epochs to from-scratch's end."""

from __future__ import annotations

from dataclasses import replace

import made
import numpy as np
import pytest

from evolve.report import economy
from evolve.report.batch.convergence import convergence

FAST, SLOW = (0.2, 0.6, 0.7, 0.8), (0.1, 0.3, 0.5, 0.6)


def around(curve: tuple[float, ...]) -> list[list[float]]:
    """Three tasks whose mean is ``curve``."""
    return [[height + shift for height in curve] for shift in (-0.05, 0.0, 0.05)]


@pytest.fixture
def measured() -> list:
    return [
        made.pair(
            "ours",
            seed,
            {"descend.shots": shots},
            made.generation(around(FAST), around(SLOW), around(FAST), around(FAST)),
        )
        for shots in (10, 20)
        for seed in range(2)
    ]


def test_rows_are_the_mean_curves(measured) -> None:
    batch = made.batch("convergence", measured)
    rows = convergence(batch, measured).rows
    assert len(rows) == 2 * 2 * 4 and {row["descend.shots"] for row in rows} == {"10", "20"}
    for side, curve in (("inherited", FAST), ("from-scratch", SLOW)):
        heights = [r["accuracy"] for r in rows if r["descendants"] == side][:4]
        assert heights == pytest.approx([100 * height for height in curve])


def test_the_table_has_area_and_epochs_of_each_method_against_its_own_architecture(
    measured,
) -> None:
    batch = made.batch("convergence", measured, ("from-scratch", "full-ancestor"))
    rows = {row.cells[1]: row.cells for row in convergence(batch, measured).tables[0].rows}
    area = 100 * np.trapezoid(FAST) / 3
    ahead = area - 100 * np.trapezoid(SLOW) / 3
    assert rows["ours"][0] == "shots 20"
    assert rows["ours"][2].startswith("80.00 [") and rows["ours"][3].startswith(f"{area:.2f} [")
    assert rows["ours"][4].startswith(f"{ahead:+.2f} [")
    assert rows["ours"][5:] == ("2.0", "4.0")  # 60 % after the second epoch
    assert rows["whole ancestor"][4].startswith("+0.00") and rows["whole ancestor"][5:] == (
        "4.0",
        "4.0",
    )


def test_areas_are_numpys() -> None:
    """Also where only some epochs were tested."""
    rng = np.random.default_rng(0)
    curves = rng.uniform(0, 1, (3, 4))
    tested = (2, 3, 7, 8)
    descent = replace(made.descent("inherited", curves.tolist()), tested=tested)
    assert economy.areas(descent) == pytest.approx(np.trapezoid(curves, tested, axis=1) / 6)
    assert economy.area(descent) == pytest.approx(np.trapezoid(curves.mean(axis=0), tested) / 6)


def test_from_scratchs_end_that_is_never_reached_is_said() -> None:
    pair = made.pair("ours", 0, {"descend.shots": 10}, made.generation(around(SLOW), around(FAST)))
    (row,) = convergence(made.batch("convergence", [pair]), [pair]).tables[0].rows
    assert row.cells[5:] == ("not reached", "")


def test_the_picture_has_a_panel_a_number_of_shots(measured) -> None:
    shown = convergence(made.batch("convergence", measured), measured)
    panels = shown.draw().axes
    assert [panel.get_title() for panel in panels] == ["shots 10", "shots 20"]
    assert all(len(panel.lines) == 2 for panel in panels)
    assert panels[0].lines[0].get_ydata() == pytest.approx([100 * height for height in FAST])
