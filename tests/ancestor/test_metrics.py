from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolve.ancestor.metrics import average_accuracy, backward_transfer, forgetting

ROWS = [[0.9], [0.5, 0.8], [0.6, 0.9, 0.7]]


def test_by_hand() -> None:
    assert average_accuracy(ROWS) == pytest.approx((0.6 + 0.9 + 0.7) / 3)
    assert forgetting(ROWS) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.9)) / 2)
    assert backward_transfer(ROWS) == pytest.approx(((0.6 - 0.9) + (0.9 - 0.8)) / 2)


def test_forgetting_looks_for_the_best_not_the_first() -> None:
    assert forgetting([[0.5], [0.9, 0.5], [0.4, 0.5, 0.5]]) == pytest.approx((0.5 + 0.0) / 2)


def test_one_task_forgets_nothing_measurable() -> None:
    assert forgetting([[0.4]]) is None and backward_transfer([[0.4]]) is None


@pytest.mark.parametrize(
    "rows", [[[0.1, 0.2], [0.1, 0.2]], [[0.1], [0.2]], [[0.1], [0.1, 0.2, 0.3]]]
)
def test_a_matrix_that_is_not_triangular_is_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="row t"):
        forgetting(rows)


@st.composite
def triangles(draw: st.DrawFn) -> list[list[float]]:
    return [
        [draw(st.floats(0, 1)) for _ in range(t)] for t in range(1, draw(st.integers(2, 6)) + 1)
    ]


@given(triangles())
def test_forgetting_is_at_least_minus_backward_transfer(rows: list[list[float]]) -> None:
    """The best earlier accuracy is at least the one right after learning; equal when nothing
    improved in between.
    """
    assert forgetting(rows) >= -backward_transfer(rows) - 1e-12
    assert -1 <= forgetting(rows) <= 1
    two = [rows[0], rows[1]]
    assert forgetting(two) == pytest.approx(-backward_transfer(two))
