"""The live terminal screen that :mod:`evolve.runs.screens.display` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from evolve.runs.screens.frame import Frame
from evolve.runs.screens.rows import HEADINGS, mark, row, scale_of, strip

if TYPE_CHECKING:
    from evolve.runs.screens.display import Display

WIDE = 104  # columns from which on the table also has HIDDEN
HIDDEN = ("margin", "ancestor %")
LEAST_STRIP, MOST_STRIP = 12, 48  # characters of the curve
LEGEND = "┊ chance  ○ from-scratch  ● inherited  ─ 95 % of the gain  ◇ whole ancestor"


class Screen(Frame):
    """Draws a Display's state: the curve as a table that grows; the last rows win."""

    def __init__(self, display: Display, stream: IO[str]) -> None:
        self.display = display
        super().__init__(display, stream)  # draws

    def rows(self) -> int:
        """A row a generation."""
        return len(self.display.generations)

    def counted(self) -> str:
        """Of all lengths that will be measured."""
        d = self.display
        return f"{len(d.generations)} of {d.points} generations" if d.points else ""

    def table(self, rows: int) -> RenderableType:
        """The last ``rows`` generations as a table, with the curve beside it."""
        d, width = self.display, self.console.size.width
        lengths = sorted(d.generations)[-rows:]
        hidden = HIDDEN if width < WIDE else ()
        shown = [i for i, heading in enumerate(HEADINGS) if heading not in hidden]
        cells = {n: [row(d.generations[n])[i] for i in shown] for n in lengths}
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for heading in (HEADINGS[i] for i in shown):
            justify: JustifyMethod = "left" if heading == "inherited layers" else "right"
            table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")
        curve = self._curve(lengths, _room(width, cells.values(), shown))
        if curve:
            table.add_column(curve[0], no_wrap=True, overflow="crop")
        for number, line in enumerate(cells.values()):
            style = "yellow" if "(" in line[1] else ""
            table.add_row(*line, *curve[number + 1 : number + 2], style=style)
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


def _room(width: int, rows: Iterable[Sequence[str]], shown: Sequence[int]) -> int:
    """Columns that the table's cells leave free in a terminal of ``width``."""
    heads = [HEADINGS[i] for i in shown]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return width - sum(widths) - 2 * len(widths) - 1
