"""The rows of a run's table in the terminal."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolve.report.curves import FALLBACKS, Generation, Interval, paired_gain, point_interval

HEADINGS = ("length", "inherited layers", "margin", "ancestor %", "descendants %", "gain (points)")


def compact(names: Sequence[str], most: int = 0) -> str:
    """Layer names in few characters: ("conv1", "conv11", "conv12", "conv13") -> "1 11-13"; cut to ``most`` with "…"."""
    numbers: list[int] = []
    others: list[str] = []
    for name in names:
        number = re.search(r"(\d+)(?:-(\d+))?$", name)  # a stage is named by its range
        if number:
            numbers += range(int(number[1]), int(number[2] or number[1]) + 1)
        else:
            others.append(name)
    parts = others + [str(a) if a == b else f"{a}-{b}" if b > a + 1 else f"{a} {b}" for a, b in _stretches(sorted(set(numbers)))]
    text = " ".join(parts) or "none"
    return text if not most or len(text) <= most else text[: most - 1] + "…"


def _stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (first, last)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def plus_minus(interval: Interval, signed: bool = False) -> str:
    """A fraction with its interval, in percent: "61.24 ± 5.10"."""
    if math.isnan(interval.mean):
        return "-"
    mean = f"{100 * interval.mean:+.2f}" if signed else f"{100 * interval.mean:.2f}"
    return mean if math.isnan(interval.half) else f"{mean} ± {100 * interval.half:.2f}"


def duration(seconds: float) -> str:
    """"45 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def row(g: Generation) -> tuple[str, ...]:
    """One generation as the table's cells."""
    mark = f" ({g.status})" if g.status in FALLBACKS else ""
    margin = "-" if not math.isfinite(g.margin) else f"{g.margin:.2g}" if abs(g.margin) < 1e-4 else f"{g.margin:.4f}"
    known = g.ancestor_accuracy is not None and math.isfinite(g.ancestor_accuracy)
    ancestor = f"{100 * (g.ancestor_accuracy or 0):.1f}" if known else "-"
    layers = compact(g.selected, 26 - len(mark)) + mark
    descendants, gain = plus_minus(point_interval(g.inherited.accuracy)), plus_minus(paired_gain(g), signed=True)
    return str(g.lineage), layers, margin, ancestor, descendants, gain


@dataclass
class _Running:
    started: float
    fraction: float = 0.0
    text: str = ""


class Eta:
    """Time left, from the weight of work done since the first call; what the store already held does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[float, float] | None = None
        self._left: tuple[float, float] | None = None  # (seconds, when that was said)
        self.done = self.total = 0.0

    def set(self, done: float, total: float) -> None:
        now = self._clock()
        self._start = self._start or (now, done)
        self.done, self.total = done, max(done, total)
        gained, spent = done - self._start[1], now - self._start[0]
        self._left = ((self.total - done) * spent / gained, now) if gained > 0 and spent > 0 else None

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total > 0 else 0.0

    def left(self) -> float | None:
        """Seconds left, counting down between calls of ``set``; None while nothing is known."""
        return None if self._left is None else max(0.0, self._left[0] - (self._clock() - self._left[1]))
