"""What a learner keeps, from its accuracy matrix.

Row t (from 1) holds the test accuracies on tasks 1 to t after task t is learned.
"""

from __future__ import annotations

from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def average_accuracy(rows: Rows) -> float:
    """The mean of the last row, in 0..1.

    A_k of Chaudhry et al., "Riemannian Walk for Incremental Learning" (ECCV 2018), Section 3.

    Args:
        rows: row t holds the accuracies after task t, in [0, 1].
    """
    last = rows[-1]
    return sum(last) / len(last)


def forgetting(rows: Rows) -> float | None:
    """How far accuracies of earlier tasks fell from their best, on average.

    F_k of Chaudhry et al. (ECCV 2018), Eq. 5: over the earlier tasks, the mean of the best accuracy
    a task had before the last row, minus its accuracy in the last row.

    Args:
        rows: row t holds the accuracies on tasks 1..t after task t, in [0, 1].

    Returns:
        A number in -1..1, negative when later tasks helped; None for fewer than two tasks.
    """
    _check(rows)
    tasks = len(rows)
    if tasks < 2:
        return None
    drops = [
        max(rows[time][task] for time in range(task, tasks - 1)) - rows[-1][task]
        for task in range(tasks - 1)
    ]
    return sum(drops) / len(drops)


def backward_transfer(rows: Rows) -> float | None:
    """How far accuracies of earlier tasks have changed since they were learned, on average.

    BWT of Lopez-Paz and Ranzato, "Gradient Episodic Memory" (NeurIPS 2017), Eq. 3: over the earlier
    tasks, the mean of the accuracy in the last row minus the accuracy right after the task was
    learned.

    Args:
        rows: row t holds the accuracies on tasks 1..t after task t, in [0, 1].

    Returns:
        A number in -1..1; None for fewer than two tasks.
    """
    _check(rows)
    tasks = len(rows)
    if tasks < 2:
        return None
    changes = [rows[-1][task] - rows[task][task] for task in range(tasks - 1)]
    return sum(changes) / len(changes)


def _check(rows: Rows) -> None:
    lengths = [len(row) for row in rows]
    if lengths != list(range(1, len(rows) + 1)):
        raise ValueError(f"row t must hold t accuracies, got rows of {lengths}")
