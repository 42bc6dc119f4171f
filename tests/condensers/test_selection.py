"""Eq. 9 and 10, and that an alpha that decides nothing is never passed off as a selection."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evolve.condensers.selection import TIE_SPREAD, movement, select

FIGURE_2 = torch.tensor([0.25, 0.15, 0.13, 0.16, 0.31], dtype=torch.float64)


def test_figure_2_selects_layers_1_and_5() -> None:
    chosen = select(FIGURE_2.log()[:, None] + 3, "threshold", 4, (2,))
    assert torch.allclose(chosen.weights, FIGURE_2)
    assert (chosen.selected, chosen.status) == ((0, 4), "selected")
    assert chosen.margin == pytest.approx(0.04)  # layer 4: 0.16 against 1/5
    assert chosen.selected_by == "threshold (Eq. 10)"


def test_a_layers_score_is_its_best_pair() -> None:
    alpha = torch.tensor([[0.2, 2.0, 0.1], [1.0, 1.0, 1.0], [1.5, 0.0, 0.0]])
    chosen = select(alpha, "top-k", 1, ())
    assert chosen.scores.tolist() == [2.0, 1.0, 1.5]
    assert chosen.selected == (0,)


def test_top_k_keeps_the_highest_in_layer_order_with_the_gap_at_the_cut() -> None:
    chosen = select(FIGURE_2.log()[:, None] + 3, "top-k", 3, ())
    assert (chosen.selected, chosen.status, chosen.selected_by) == ((0, 3, 4), "selected", "top-3")
    assert chosen.margin == pytest.approx(0.01)
    everything = select(FIGURE_2.log()[:, None] + 3, "top-k", 5, ())
    assert everything.selected == (0, 1, 2, 3, 4) and everything.status == "selected"


@pytest.mark.parametrize("alpha", [torch.zeros(4, 3), torch.full((4, 3), 0.04)])
@pytest.mark.parametrize("selection", ["threshold", "top-k"])
def test_small_alpha_is_collapsed_and_falls_back(alpha, selection) -> None:
    chosen = select(alpha, selection, 2, (3, 0))
    assert (chosen.status, chosen.selected) == ("collapsed", (0, 3))
    assert "fixed set" in chosen.selected_by and "collapsed" in chosen.selected_by


def test_mostly_dead_pairs_are_collapsed_although_one_lives() -> None:
    alpha = torch.zeros(5, 4)
    alpha[2, 1] = 3.0
    assert select(alpha, "threshold", 2, (0,)).status == "collapsed"
    alpha[:, :2] = 1.0
    alpha[2, 1] = 3.0
    assert select(alpha, "threshold", 2, (0,)).selected == (2,)


@pytest.mark.parametrize("level", [1.0, 6.0])
@pytest.mark.parametrize("selection", ["threshold", "top-k"])
def test_equal_alpha_is_tied(level, selection) -> None:
    alpha = torch.full((5, 5), level) + TIE_SPREAD / 10 * torch.arange(5)[:, None] / 5
    chosen = select(alpha, selection, 2, (1,))
    assert (chosen.status, chosen.selected) == ("tied", (1,))
    assert "tied" in chosen.selected_by


def test_top_k_that_cuts_between_equals_is_tied() -> None:
    chosen = select(torch.tensor([[3.0], [1.0], [1.0], [0.5]]), "top-k", 2, (3,))
    assert (chosen.status, chosen.selected) == ("tied", (3,))


@given(st.lists(st.floats(0.1, 6), min_size=2, max_size=13), st.floats(0, 0.1))
def test_threshold_keeps_exactly_the_layers_above_average_whatever_is_added_to_all(
    scores, shift
) -> None:
    alpha = torch.tensor(scores, dtype=torch.float64)[:, None]
    chosen = select(alpha + shift, "threshold", 1, ())
    weights = alpha[:, 0].exp() / alpha.exp().sum()
    if chosen.status == "selected":
        assert chosen.margin >= 0
        clear = (weights - 1 / len(scores)).abs() > 1e-12
        kept = torch.zeros(len(scores), dtype=torch.bool)
        kept[list(chosen.selected)] = True
        assert torch.equal(kept[clear], (weights > 1 / len(scores))[clear])
        assert 0 < len(chosen.selected) < len(scores)
    else:
        assert max(scores) - min(scores) < TIE_SPREAD + 1e-9


@pytest.mark.parametrize(
    ("selection", "top_k", "word"),
    [("best", 1, "best"), ("top-k", 0, "top_k = 0"), ("top-k", 4, "top_k = 4")],
)
def test_a_rule_that_cannot_be_applied_is_named(selection, top_k, word) -> None:
    with pytest.raises(ValueError, match=word):
        select(torch.rand(3, 2), selection, top_k, ())


def test_alpha_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        select(torch.tensor([[1.0], [float("nan")]]), "threshold", 1, ())


def test_alpha_that_has_fallen_far_is_selected_from_as_long_as_half_of_the_pairs_are_left() -> None:
    """Mean alpha 0.22 with half of the pairs at 0: what is left orders the layers; with one pair
    more it says which falls last.
    """
    alpha = torch.tensor([[0.9, 0.0], [0.0, 0.4], [0.06, 0.0]])
    assert select(alpha, "threshold", 2, (1,)).selected == (0,)
    alpha[2, 0] = 0.04
    chosen = select(alpha, "threshold", 2, (1,))
    assert (chosen.status, chosen.selected) == (
        "collapsed",
        (1,),
    ) and "67% of the pairs are below 0.05" in chosen.selected_by


@pytest.mark.parametrize(
    ("reach", "status"), [(0.0, "selected"), (0.35, "selected"), (0.45, "tied")]
)
def test_alpha_has_to_move_a_quarter_of_the_way_it_was_asked_to(reach: float, status: str) -> None:
    alpha = torch.tensor([[0.8], [0.9], [1.0]])  # movement 0.1
    assert movement(alpha) == pytest.approx(0.1)
    assert select(alpha, "threshold", 2, (0,), reach).status == status
