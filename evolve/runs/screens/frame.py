"""What the live screens of a run and of a batch have in common: title, bar, stages, a table.

rich draws them four times a second in its own thread.
"""

from __future__ import annotations

import time
from typing import IO, Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evolve.core.console import Console
from evolve.core.spent import duration
from evolve.core.terminal import printable
from evolve.runs.estimate.forecast import Forecast
from evolve.runs.screens.rows import _Running

FRAME = 7  # lines that are not stages or rows: title, folder, bar, blank, headings, two at the end
LEAST_ROWS = 2


class State(Protocol):
    """What a frame draws."""

    title: str
    folder: str
    forecast: Forecast | None
    running: dict[str, _Running]


class Frame:
    """Draws a state; holds none of its own."""

    whole, label_width = "whole run", 24

    def __init__(self, state: State, stream: IO[str]) -> None:
        self.state = state
        self.console = Console(file=stream, highlight=False)
        self._live = Live(
            console=self.console,
            get_renderable=self.draw,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def rows(self) -> int:
        """How many rows the whole table has."""
        raise NotImplementedError

    def table(self, rows: int) -> RenderableType:
        """The table, cut to so many rows."""
        raise NotImplementedError

    def counted(self) -> str:
        """How far it is, in words."""
        raise NotImplementedError

    def label(self, label: str) -> str:
        """What a stage is called, in ``label_width`` characters if it can be."""
        return label

    def most_stages(self, room: int) -> int:
        """How many running stages may be shown in ``room`` lines."""
        return max(1, room - min(LEAST_ROWS, self.rows()))

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def stop(self) -> None:
        """Take the moving part away."""
        self._live.stop()

    def close(self) -> None:
        """Take the moving part away and leave the whole table."""
        self.stop()
        self.console.print(self._title())
        if self.rows():
            self.console.print(self.table(self.rows()))

    def print(self, text: str, style: str = "yellow") -> None:
        """Print a line above the moving part."""
        self._live.console.print(Text(text, style=style))

    def draw(self) -> RenderableType:
        """Everything, cut to the terminal's height."""
        running = list(self.state.running.items())
        room = max(self.console.size.height - FRAME - 1, LEAST_ROWS + 1)
        shown = running[: self.most_stages(room)]
        parts: list[RenderableType] = [
            self._title(),
            self._overall(),
            *[self._stage(label, stage) for label, stage in shown],
        ]
        if total := self.rows():
            parts += [Text(""), self.table(min(total, max(LEAST_ROWS, room - len(shown))))]
        return Group(*parts)

    def _title(self) -> Text:
        title = printable(self.state.title)
        text = Text(f"{title}\n", style="bold", no_wrap=True, overflow="ellipsis")
        return text.append(printable(self.state.folder), style="dim")

    def _overall(self) -> Table:
        forecast = self.state.forecast
        left = forecast.left() if forecast else None
        ends = f"about {duration(left)} left" if left and left >= 1 else ""
        text = "  ".join(filter(None, (ends, self.counted())))
        return self._bar_line(self.whole, forecast.fraction if forecast else 0.0, text, "green")

    def _stage(self, label: str, stage: _Running) -> Table:
        spent = duration(time.monotonic() - stage.started)
        text = f"{stage.text}  {spent}" if stage.text else spent
        return self._bar_line(self.label(label), stage.fraction, text, "cyan")

    def _bar_line(self, label: str, fraction: float, text: str, style: str) -> Table:
        """One line: label, bar, percentage, text. The text gives way where the line is narrow."""
        width = max(8, min(30, self.console.size.width // 6))
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(width=self.label_width, no_wrap=True, overflow="ellipsis")
        line.add_column(width=width)
        line.add_column(width=4, justify="right")
        line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(
            total=1.0, completed=fraction, width=width, complete_style=style, finished_style=style
        )
        line.add_row(
            Text(printable(label)),
            bar,
            Text(f"{100 * fraction:.0f}%"),
            Text(printable(text), style="dim"),
        )
        return line
