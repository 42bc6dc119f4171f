"""The rows of a run's table in the terminal."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolve.report.curves import FALLBACKS, Generation, paired_gain, point_interval

HEADINGS = ("length", "inherited layers", "margin", "ancestor %", "descendants %", "gain (points)")


def compact(names: Sequence[str], most: int = 0) -> str:
    """Layer names in few characters.

    ("conv1", "conv11", "conv12", "conv13") becomes "1 11-13".

    Args:
        names: the layers.
        most: characters at which it is cut, with "…"; 0: never.
    """
    numbers: list[int] = []
    others: list[str] = []
    for name in names:
        number = re.search(r"(\d+)(?:-(\d+))?$", name)  # a stage is named by its range
        if number:
            numbers += range(int(number[1]), int(number[2] or number[1]) + 1)
        else:
            others.append(name)
    parts = others + [
        str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a} {b}"
        for a, b in _stretches(sorted(set(numbers)))
    ]
    text = " ".join(parts) or "none"
    return text if not most or len(text) <= most else text[: most - 1] + "…"


def _stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (first, last)."""
    stretches: list[tuple[int, int]] = []
    for number in numbers:
        if stretches and number == stretches[-1][1] + 1:
            stretches[-1] = (stretches[-1][0], number)
        else:
            stretches.append((number, number))
    return stretches


def row(g: Generation) -> tuple[str, ...]:
    """One generation as the table's cells."""
    mark = f" ({g.status})" if g.status in FALLBACKS else ""
    margin = (
        "-"
        if not math.isfinite(g.margin)
        else f"{g.margin:.2g}"
        if abs(g.margin) < 1e-4
        else f"{g.margin:.4f}"
    )
    measured = g.ancestor_accuracy is not None and math.isfinite(g.ancestor_accuracy)
    ancestor = f"{100 * (g.ancestor_accuracy or 0):.1f}" if measured else "-"
    layers = compact(g.selected, 26 - len(mark)) + mark
    descendants, gain = point_interval(g.inherited.accuracy).percent(), paired_gain(g).percent("+")
    return str(g.lineage), layers, margin, ancestor, descendants, gain


@dataclass
class _Running:
    started: float
    fraction: float = 0.0
    text: str = ""


class Eta:
    """Time left, from the weight of work done since the first call.

    What the store already held does not count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[float, float] | None = None
        self._left: tuple[float, float] | None = None  # (seconds, when that was said)
        self.done = self.total = 0.0

    def set(self, done: float, total: float) -> None:
        """Say how much is done of how much, in any unit that is proportional to time."""
        now = self._clock()
        self._start = self._start or (now, done)
        self.done, self.total = done, max(done, total)
        gained, spent = done - self._start[1], now - self._start[0]
        self._left = (
            ((self.total - done) * spent / gained, now) if gained > 0 and spent > 0 else None
        )

    @property
    def fraction(self) -> float:
        """The part that is done, in [0, 1]."""
        return self.done / self.total if self.total > 0 else 0.0

    def left(self) -> float | None:
        """Seconds left, counting down between calls of ``set``; None while nothing is known."""
        return (
            None
            if self._left is None
            else max(0.0, self._left[0] - (self._clock() - self._left[1]))
        )
