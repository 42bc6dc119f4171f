"""Ten condensations: what counts as agreeing, and what the picture holds."""

from __future__ import annotations

import csv
import io

import pytest

from evolve.report.agreement_figure import Draws, agreement_figure, agreement_files, sentence

LAYERS = ("conv1", "conv2", "conv3")
LOW, HIGH = (0.5, 0.3, 0.2), (0.4, 0.35, 0.25)
TEN = Draws(
    "other pseudo-descendants",
    LAYERS,
    (("conv1",),) * 7 + (("conv1", "conv2"),) * 2 + ((),),
    (LOW,) * 7 + (HIGH,) * 2 + ((1 / 3,) * 3,),
)
GONE = Draws("untrained ancestor", LAYERS, ((),) * 10, ((1 / 3,) * 3,) * 10)


def test_the_same_set_is_counted_and_what_collapsed_agrees_with_nothing() -> None:
    assert TEN.commonest == (("conv1",), 7) and GONE.commonest == ((), 0)
    assert TEN.chosen == {"conv1": 9, "conv2": 2, "conv3": 0}
    assert sentence(TEN).endswith("the same set 7 of 10; 1 decided nothing: conv1")
    assert sentence(GONE).endswith("the same set 0 of 10; 10 decided nothing")


def test_the_table_holds_counts_and_margins_to_the_threshold() -> None:
    files = agreement_files([TEN, GONE], "toy")
    assert files["agreement.png"].startswith(b"\x89PNG")
    rows = list(csv.DictReader(io.StringIO(files["agreement.csv"].decode())))
    assert [(row["layer"], int(row["chosen"])) for row in rows[:3]] == list(TEN.chosen.items())
    margins = [float(row["margin_high"]) for row in rows[:3]]
    assert margins == pytest.approx([1 / 6, 1 / 60, 0])
    assert {row["commonest_set"] for row in rows[3:]} == {"0"}


def test_every_draw_is_drawn_beside_the_threshold() -> None:
    counts, scores = agreement_figure([TEN, GONE], "toy").axes[:2]
    assert [bar.get_width() for bar in counts.patches][:3] == [9, 2, 0]
    drawn = [line for line in scores.lines if line.get_linestyle() == "None"]
    assert len(drawn) == 20 and drawn[0].get_xdata().tolist() == list(LOW)
    dashed = [line for line in scores.lines if line.get_linestyle() == "--"]
    assert dashed[0].get_xdata() == pytest.approx([1 / 3, 1 / 3])
