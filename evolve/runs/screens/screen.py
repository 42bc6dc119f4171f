"""The live terminal screen that :mod:`evolve.runs.screens.display` shows.

rich draws it four times a second in its own thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING

from rich.console import Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evolve.core.console import Console
from evolve.core.spent import duration
from evolve.core.terminal import printable
from evolve.runs.screens.rows import HEADINGS, mark, row, scale_of, strip

if TYPE_CHECKING:
    from evolve.runs.screens.display import Display

FRAME = 7  # lines that are not stages or rows: title, folder, bar, blank, headings, rule, legend
LEAST_ROWS = 2
WIDE = 104  # columns from which on the table also has HIDDEN
HIDDEN = ("margin", "ancestor %")
LEAST_STRIP, MOST_STRIP = 12, 48  # characters of the curve
LEGEND = "┊ chance  ○ from-scratch  ● inherited  ─ 95 % of the gain  ◇ whole ancestor"


class Screen:
    """Draws a Display's state; holds none of its own."""

    def __init__(self, display: Display, stream: IO[str]) -> None:
        self.display = display
        self.console = Console(file=stream, highlight=False)
        self._live = Live(
            console=self.console,
            get_renderable=self.draw,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def start(self) -> None:
        """Begin to draw."""
        self._live.start()

    def close(self) -> None:
        """Take the moving part away and leave the whole table."""
        self._live.stop()
        self.console.print(self._title())
        if self.display.generations:
            self.console.print(self.table(len(self.display.generations)))

    def print(self, text: str) -> None:
        """Print a line above the moving part."""
        self._live.console.print(Text(text, style="yellow"))

    def draw(self) -> RenderableType:
        """Everything, cut to the terminal's height: the last rows and the first stages win."""
        height = self.console.size.height
        running = list(self.display.running.items())
        room = max(height - FRAME - 1, LEAST_ROWS + 1)
        shown = running[: max(1, room - min(LEAST_ROWS, len(self.display.generations)))]
        rows = min(len(self.display.generations), max(LEAST_ROWS, room - len(shown)))
        parts: list[RenderableType] = [
            self._title(),
            self._overall(),
            *[self._stage(label, stage) for label, stage in shown],
        ]
        if self.display.generations:
            parts += [Text(""), self.table(rows)]
        return Group(*parts)

    def table(self, last: int) -> RenderableType:
        """The last ``last`` generations as a table, with the curve beside it."""
        d, width = self.display, self.console.size.width
        lengths = sorted(d.generations)[-last:]
        hidden = HIDDEN if width < WIDE else ()
        shown = [i for i, heading in enumerate(HEADINGS) if heading not in hidden]
        rows = {n: [row(d.generations[n])[i] for i in shown] for n in lengths}
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for heading in (HEADINGS[i] for i in shown):
            justify: JustifyMethod = "left" if heading == "inherited layers" else "right"
            table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")
        curve = self._curve(lengths, _room(width, rows.values(), shown))
        if curve:
            table.add_column(curve[0], no_wrap=True, overflow="crop")
        for number, cells in enumerate(rows.values()):
            style = "yellow" if "(" in cells[1] else ""
            table.add_row(*cells, *curve[number + 1 : number + 2], style=style)
        return Group(table, Text(LEGEND, style="dim", no_wrap=True)) if curve else table

    def _curve(self, lengths: Sequence[int], width: int) -> list[str]:
        """The scale, then a line a generation; nothing where there is no room."""
        if width < LEAST_STRIP:
            return []
        d, width = self.display, min(width, MOST_STRIP)
        marks = [mark(g) for g in d.generations.values()]
        low, high = scale = scale_of(marks, d.chance)
        ends = f"{100 * low:.0f} %", f"{100 * high:.0f} %"
        head = ends[0] + ends[1].rjust(width - len(ends[0]))
        return [head] + [strip(mark(d.generations[n]), d.chance, scale, width) for n in lengths]

    def _title(self) -> Text:
        title = printable(self.display.title)
        text = Text(f"{title}\n", style="bold", no_wrap=True, overflow="ellipsis")
        return text.append(printable(self.display.folder), style="dim")

    def _overall(self) -> Table:
        d = self.display
        left = d.forecast.left() if d.forecast else None
        ends = "" if left is None else f"about {duration(left)} left"
        points = f"{len(d.generations)} of {d.points} generations" if d.points else ""
        return _bar_line(
            "whole run",
            d.forecast.fraction if d.forecast else 0.0,
            "  ".join(filter(None, (ends, points))),
            self._bar_width(),
            "green",
        )

    def _stage(self, label: str, stage: object) -> Table:
        fraction, text, started = (getattr(stage, name) for name in ("fraction", "text", "started"))
        spent = duration(time.monotonic() - started)
        return _bar_line(
            label, fraction, f"{text}  {spent}" if text else spent, self._bar_width(), "cyan"
        )

    def _bar_width(self) -> int:
        return max(8, min(30, self.console.size.width // 6))


def _room(width: int, rows: Iterable[Sequence[str]], shown: Sequence[int]) -> int:
    """Columns that the table's cells leave free in a terminal of ``width``."""
    heads = [HEADINGS[i] for i in shown]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return width - sum(widths) - 2 * len(widths) - 1


def _bar_line(label: str, fraction: float, text: str, width: int, style: str) -> Table:
    """One line: label, bar, percentage, text. The text gives way where the line is narrow."""
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(width=24, no_wrap=True, overflow="ellipsis")
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
