"""What the user sees while a lineage runs: a live screen in a terminal, plain lines anywhere else.

It only looks on: nothing here can change a number. A terminal that is too small, or cannot show a
character, must not end a run. rich is imported late, inside.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from evolve.core.spent import duration
from evolve.core.terminal import printable
from evolve.report.curves import Generation, title
from evolve.runs.screens.rows import _Running, row

if TYPE_CHECKING:
    from evolve.runs.estimate.forecast import Forecast

NARROWEST = 64  # columns below which plain lines tell more than a cut table


class Display:
    """Shows a running lineage: a context manager, whose methods may be called from any thread."""

    def __init__(
        self,
        scenario: str,
        profile: str,
        seed: int,
        folder: object,
        stream: IO[str] | None = None,
        live: bool | None = None,
        changes: Sequence[str] = (),
    ) -> None:
        self.title, self.folder = title(scenario, profile, (seed,), changes), str(folder)
        self.forecast: Forecast | None = None
        self.running: dict[str, _Running] = {}
        self.generations: dict[int, Generation] = {}
        self.points = 0
        self.chance = 0.0
        # None where the process was started without one (>&-).
        self._stream: IO[str] | None = stream if stream is not None else sys.stdout
        self._screen: Any = None
        self._live = can_be_live(self._stream) if live is None else live

    def __enter__(self) -> Display:
        if self._live and self._stream is not None:
            from evolve.runs.screens.screen import Screen

            self._screen = Screen(self, self._stream)
            self._screen.start()
        else:
            self._line(f"{self.title}, in {self.folder}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def expect(self, forecast: Forecast, points: int, chance: float) -> None:
        """Say what is to come.

        Args:
            forecast: how far the run is.
            points: how many lineage lengths are measured, an untrained ancestor's included.
            chance: accuracy of guessing.
        """
        self.forecast, self.points, self.chance = forecast, points, chance

    def stage_started(self, label: str) -> None:
        """A stage has begun."""
        self.running[label] = _Running(time.monotonic())

    def stage_progress(self, label: str, fraction: float, text: str = "") -> None:
        """A stage has come so far; ``fraction`` is in [0, 1]."""
        stage = self.running.setdefault(label, _Running(time.monotonic()))
        stage.fraction, stage.text = min(1.0, max(0.0, fraction)), text

    def stage_done(self, label: str) -> None:
        """A stage has ended."""
        self.running.pop(label, None)

    def notice(self, text: str) -> None:
        """Print a line that stays."""
        if self._screen is not None:
            self._screen.print(printable(text))
        else:
            self._line(text)

    def generation(self, generation: Generation, tasks: int) -> None:
        """Show one more point of the curve; the same lineage length again replaces its row.

        Args:
            generation: the point.
            tasks: how many tasks the whole lineage has.
        """
        self.generations[generation.lineage] = generation
        if self._screen is None:
            length, layers, margin, ancestor, descendants, gain = row(generation)
            text = (
                f"lineage {length}/{tasks}: layers {layers}, margin {margin}, ancestor {ancestor} "
                f"%, descendants {descendants} %"
            )
            self._line(f"{text}, gain over from-scratch {gain} points{self._left()}")

    def close(self) -> None:
        """Leave the whole table on the screen and give the terminal back; safe to call twice."""
        if self._screen is not None:
            screen, self._screen = self._screen, None
            screen.close()

    def _left(self) -> str:
        left = self.forecast.left() if self.forecast else None
        return "" if left is None or left == 0 else f" (about {duration(left)} left)"

    def _line(self, text: str) -> None:
        if self._stream is None:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        safe = printable(text)
        try:
            safe.encode(encoding)
        except UnicodeEncodeError:
            safe = (
                safe.replace("±", "+-")
                .replace("…", "...")
                .encode(encoding, "replace")
                .decode(encoding)
            )
        try:
            print(safe, file=self._stream, flush=True)
        except (OSError, ValueError):
            # The reader went away or the disk is full: the lineage goes on without words.
            self._stream = None


def can_be_live(stream: IO[str] | None) -> bool:
    """Whether the terminal can move its cursor, show our characters, and is wide enough."""
    from evolve.core.console import Console

    if stream is None:
        return False

    console = Console(file=stream)
    utf = (getattr(stream, "encoding", None) or "").lower().replace("-", "") in ("utf8", "utf16")
    return (
        bool(stream.isatty())
        and console.is_terminal
        and not console.is_dumb_terminal
        and utf
        and console.width >= NARROWEST
    )
