"""What the user sees while a lineage runs: a live screen in a terminal, plain lines anywhere else.

It only looks on: nothing here can change a number, and a terminal that is too small or cannot show a character
must not end a run. rich is imported late, inside.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from evolve.curves import FALLBACKS, Generation, Interval, paired_gain, point_interval
from evolve.errors import CONTROL_CHARACTERS, printable

NARROWEST = 64  # columns below which plain lines tell more than a cut table
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


class Display:
    """Shows a running lineage. Use as a context manager, or ``start`` and ``close``; methods may come from any thread."""

    def __init__(
        self, scenario: str, profile: str, seed: int | str, folder: object, stream: IO[str] | None = None, live: bool | None = None
    ) -> None:
        self.scenario, self.profile, self.seed, self.folder = scenario, profile, seed, str(folder)
        self.eta = Eta()
        self.running: dict[str, _Running] = {}
        self.rows: dict[int, tuple[str, ...]] = {}
        self.total = 0
        self._stream: IO[str] | None = stream if stream is not None else sys.stdout  # None: started without one (>&-)
        self._screen: Any = None
        self._live = _can_be_live(self._stream) if live is None else live

    def __enter__(self) -> Display:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        if self._live and self._stream is not None:
            from evolve.screen import Screen

            self._screen = Screen(self, self._stream)
            self._screen.start()
        else:
            self._line(self.title())

    def title(self) -> str:
        return f"{self.scenario} ({self.profile}), seed {self.seed}, in {self.folder}"

    def stage_started(self, label: str) -> None:
        self.running[label] = _Running(time.monotonic())

    def stage_progress(self, label: str, fraction: float, text: str = "") -> None:
        stage = self.running.setdefault(label, _Running(time.monotonic()))
        stage.fraction, stage.text = min(1.0, max(0.0, fraction)), text

    def stage_done(self, label: str, seconds: float = 0.0, from_store: bool = False) -> None:
        self.running.pop(label, None)

    def notice(self, text: str) -> None:
        """A line that stays."""
        clean = CONTROL_CHARACTERS.sub(" ", text)
        if self._screen is not None:
            self._screen.print(clean)
        else:
            self._line(clean)

    def generation(self, generation: Generation, total: int) -> None:
        """One more point of the curve, of ``total``; the same lineage length again replaces the row."""
        self.total = total
        self.rows[generation.lineage] = cells = row(generation)
        if self._screen is None:
            length, layers, margin, ancestor, descendants, gain = cells
            text = f"lineage {length}/{total}: layers {layers}, margin {margin}, ancestor {ancestor} %, descendants {descendants} %"
            self._line(f"{text}, gain over from-scratch {gain} points{self._left()}")

    def set_eta(self, done_weight: float, total_weight: float) -> None:
        """Work done and in all, in any unit that is proportional to time."""
        self.eta.set(done_weight, total_weight)

    def close(self) -> None:
        """Leave the whole table on the screen and give the terminal back; safe to call twice."""
        if self._screen is not None:
            screen, self._screen = self._screen, None
            screen.close()

    def _left(self) -> str:
        left = self.eta.left()
        return "" if left is None or left == 0 else f" (about {duration(left)} left)"

    def _line(self, text: str) -> None:
        if self._stream is None:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        safe = printable(text)
        try:
            safe.encode(encoding)
        except UnicodeEncodeError:
            safe = safe.replace("±", "+-").replace("…", "...").encode(encoding, "replace").decode(encoding)
        try:
            print(safe, file=self._stream, flush=True)
        except (OSError, ValueError):  # the reader went away or the disk is full: the lineage goes on without words
            self._stream = None


def _can_be_live(stream: IO[str] | None) -> bool:
    """A terminal that can move its cursor, show the characters we draw with, and is wide enough for the table."""
    from rich.console import Console

    if stream is None:
        return False

    console = Console(file=stream)
    utf = (getattr(stream, "encoding", None) or "").lower().replace("-", "") in ("utf8", "utf16")
    return bool(stream.isatty()) and console.is_terminal and not console.is_dumb_terminal and utf and console.width >= NARROWEST
