"""Scores that are no alpha: any unit, any sign; what decides nothing is never passed off as a
selection.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evolve.condensers.selection import layer_scores, select, select_scores

SCORES = torch.tensor([-0.3, -0.1, -0.9, -0.2, -0.6], dtype=torch.float64)
FINITE = st.lists(st.floats(-100, 100), min_size=2, max_size=13)


def test_threshold_is_eq_9_and_10_of_the_scores() -> None:
    chosen = select_scores(SCORES, "threshold", 0, ())
    assert torch.equal(chosen.weights, layer_scores(SCORES[:, None])[1])
    assert chosen.selected == (0, 1, 3) == select(SCORES[:, None] + 3, "threshold", 1, ()).selected
    assert (chosen.status, chosen.selected_by) == ("selected", "threshold (Eq. 10)")
    assert chosen.margin == pytest.approx(float((chosen.weights - 0.2).abs().min()))


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_top_k_knows_no_unit(unit: float) -> None:
    chosen = select_scores(SCORES * unit, "top-k", 2, ())
    assert (chosen.selected, chosen.status, chosen.selected_by) == ((1, 3), "selected", "top-2")
    assert torch.allclose(chosen.weights, select_scores(SCORES, "top-k", 2, ()).weights)
    assert float(chosen.weights.sum()) == pytest.approx(1) and chosen.margin > 0.01
    assert select_scores(SCORES * unit, "top-k", 5, ()).selected == (0, 1, 2, 3, 4)


def test_a_small_gap_at_the_cut_below_much_larger_scores_is_none_the_less_a_gap() -> None:
    scores = torch.tensor([1e6, 2e-6, 1e-6, 5e5], dtype=torch.float64)
    assert select_scores(scores, "top-k", 3, ()).selected == (0, 1, 3)


@pytest.mark.parametrize("level", [0.0, -1.0, 1e-9, 3e7])
@pytest.mark.parametrize("selection", ["threshold", "top-k"])
def test_equal_scores_are_tied_and_fall_back(level: float, selection: str) -> None:
    rounding = 1 + 1e-8 * torch.arange(5, dtype=torch.float64)
    chosen = select_scores(level * rounding, selection, 2, (3, 0))
    assert (chosen.status, chosen.selected) == ("tied", (0, 3))
    assert chosen.selected_by.startswith("fixed set, because the layers are tied")


def test_a_cut_between_equals_is_tied() -> None:
    scores = torch.tensor([3.0, 1.0, 1.0 + 1e-8, 0.5], dtype=torch.float64)
    chosen = select_scores(scores, "top-k", 2, (3,))
    assert (chosen.status, chosen.selected) == (
        "tied",
        (3,),
    ) and "cut after 2" in chosen.selected_by
    assert select_scores(scores, "top-k", 3, (3,)).selected == (0, 1, 2)


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("selection", ["threshold", "top-k"])
def test_scores_that_are_not_finite_are_collapsed(wild: float, selection: str) -> None:
    chosen = select_scores(torch.tensor([1.0, wild, 2.0]), selection, 1, (2, 1))
    assert (chosen.status, chosen.selected, chosen.margin) == ("collapsed", (1, 2), 0.0)
    assert chosen.selected_by == "fixed set, because the scores of 1 of 3 layers are not finite"
    assert chosen.scores.tolist() == [0, 0, 0] and chosen.weights.tolist() == pytest.approx(
        [1 / 3] * 3
    )


@given(FINITE, st.integers(1, 13))
def test_top_k_keeps_no_layer_that_is_lower_than_one_it_leaves(
    scores: list[float], top_k: int
) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    chosen = select_scores(values, "top-k", min(top_k, len(scores)), ())
    if chosen.status == "selected":
        rest = [n for n in range(len(scores)) if n not in chosen.selected]
        assert len(chosen.selected) == min(top_k, len(scores))
        assert not rest or values[rest].max() < values[list(chosen.selected)].min()


@pytest.mark.parametrize(
    ("selection", "top_k", "word"),
    [("best", 1, "best"), ("top-k", 0, "top_k = 0"), ("top-k", 6, "top_k = 6")],
)
def test_a_rule_that_cannot_be_applied_is_named(selection: str, top_k: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        select_scores(SCORES, selection, top_k, ())
