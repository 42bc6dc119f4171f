"""The rows of a run's table in the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

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
    descendants, gain = point_interval(g.inherited.accuracy), paired_gain(g)
    return (
        str(g.lineage),
        layers,
        margin,
        ancestor,
        descendants.percent(digits=1),
        gain.percent("+", digits=1),
    )


@dataclass(frozen=True)
class Mark:
    """One line of the curve in the terminal; accuracies are fractions, NaN where not measured.

    Attributes:
        inherited: mean of the descendants.
        low: from-scratch plus the lower end of the paired gain's 95 % interval.
        high: the same with the upper end.
        scratch: mean of the from-scratch descendants.
        whole: mean of the descendants of the whole ancestor.
    """

    inherited: float
    low: float
    high: float
    scratch: float
    whole: float


def mark(g: Generation) -> Mark:
    """Where a generation's means and the interval of its gain lie."""
    gain = paired_gain(g)
    inherited = fmean(g.inherited.accuracy)
    scratch = fmean(g.scratch.accuracy) if g.scratch else math.nan
    whole = fmean(g.full_ancestor.accuracy) if g.full_ancestor else math.nan
    return Mark(inherited, scratch + gain.low, scratch + gain.high, scratch, whole)


def scale_of(marks: Iterable[Mark], chance: float) -> tuple[float, float]:
    """The lowest and the highest accuracy that all lines show, chance among them."""
    values = [v for m in marks for v in vars(m).values() if math.isfinite(v)] + [chance]
    low, high = max(0.0, min(values)), min(1.0, max(values))
    return low, max(high, low + 0.01)


def strip(m: Mark, chance: float, scale: tuple[float, float], width: int) -> str:
    """One generation as a line of characters on a common scale.

    Args:
        m: the generation's values.
        chance: accuracy of guessing.
        scale: accuracies of the first and the last character.
        width: characters.

    Returns:
        ┊ chance, ◇ whole ancestor, ─ interval of the gain, ○ from-scratch, ● inherited; what comes
        later in this list stands over what comes before.
    """
    low, high = scale

    def place(value: float) -> int:
        return min(width - 1, max(0, round((width - 1) * (value - low) / (high - low))))

    cells = [" "] * width
    for value, sign in ((chance, "┊"), (m.whole, "◇")):
        if math.isfinite(value):
            cells[place(value)] = sign
    if math.isfinite(m.low) and math.isfinite(m.high):
        for x in range(place(m.low), place(m.high) + 1):
            cells[x] = "─" if cells[x] == " " else cells[x]
    for value, sign in ((m.scratch, "○"), (m.inherited, "●")):
        if math.isfinite(value):
            cells[place(value)] = sign
    return "".join(cells).rstrip()


@dataclass
class _Running:
    started: float
    fraction: float = 0.0
    text: str = ""
