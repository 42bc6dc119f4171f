"""What the user sees while a batch is computed: a bar and a table that fills.

Anything but a terminal gets a line a finished stage.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from rich.console import RenderableType
from rich.table import Table

from evolve.core.console import Console
from evolve.engine.engine import Event, Notice, StageDone, StageFailed, StageProgress, StageStarted
from evolve.report.compare import Batch, Case
from evolve.runs.estimate.forecast import Forecast
from evolve.runs.estimate.outlook import Outlook
from evolve.runs.run import Run
from evolve.runs.screens.cases import HEADINGS, Cases, Row
from evolve.runs.screens.display import can_be_live
from evolve.runs.screens.frame import Frame
from evolve.runs.screens.rows import _Running

LOOK_EVERY = 0.5  # seconds between two looks at the lineages that changed


class BatchScreen:
    """Shows a batch while it is computed: a context manager whose ``event`` takes the engine's.

    Args:
        batch: the batch.
        folder: its folder.
        runs: its cases with their runs, in the batch's order.
        workers: how many stages are computed at once.
        stream: where to; None: standard output.
        live: whether it moves; None: where the stream is a terminal that can.
    """

    def __init__(
        self,
        batch: Batch,
        folder: Path,
        runs: Sequence[tuple[Case, Run]],
        workers: int,
        stream: IO[str] | None = None,
        live: bool | None = None,
    ) -> None:
        self.title = f"{batch.name} {batch.profile}, {len(runs)} lineages"
        self.folder, self.begun = str(folder), time.monotonic()
        self.running: dict[str, _Running] = {}
        self.outlook = Outlook([run for _, run in runs], workers)
        self.forecast: Forecast | None = self.outlook.forecast
        self.cases = Cases(runs)
        stream = stream or sys.stdout
        self.console = Console(file=stream, highlight=False)
        self.frame: BatchFrame | None = None
        self._live, self._looked = can_be_live(stream) if live is None else live, 0.0

    def __enter__(self) -> BatchScreen:
        if self._live:
            self.look()  # what is there already
            self.frame = BatchFrame(self, self.console.file)
            self.frame.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.frame is not None:
            self.look()
            frame, self.frame = self.frame, None
            frame.close()

    def notice(self, text: str) -> None:
        """Print a line of its own."""
        if self.frame is not None:
            self.look()
        self._print(text, "dim", "yellow")

    def event(self, event: Event) -> None:
        """Show one event of the engine."""
        self.outlook.event(event)
        if isinstance(event, StageStarted):
            self.running[event.stage.label] = _Running(time.monotonic())
        elif isinstance(event, StageProgress):
            stage = self.running.setdefault(event.stage.label, _Running(time.monotonic()))
            stage.fraction, stage.text = event.fraction, event.text
        elif isinstance(event, StageDone):
            self._done(event)
        elif isinstance(event, StageFailed):
            self.running.pop(event.stage.label, None)
            self.cases.fail(self.outlook.owners(event.stage.key))
            self._print(f"{self._clock()}  {event.stage.label} FAILED: {event.text}", "red", "red")
        elif isinstance(event, Notice):
            self.notice(event.text)
        if self.frame is not None and time.monotonic() - self._looked >= LOOK_EVERY:
            self.look()

    def look(self) -> Sequence[Row]:
        """Fill the table with what the lineages that changed have measured: the changed rows."""
        self._looked = time.monotonic()
        return self.cases.look()

    def poll(self) -> bool:
        """Look for what another process has computed, and say whether anything is left."""
        self.outlook.look()
        self.cases.changed.update(self.cases.unfinished)
        for row in self.look():
            if self.frame is None:
                name, lineages, lengths, accuracy, gain = row.cells
                text = f"{name}: {lineages} lineages, {lengths} lengths, accuracy {accuracy} %"
                self._print(f"{text}, gain over from-scratch {gain} points")
        return self.outlook.forecast.fraction < 1

    def _done(self, event: StageDone) -> None:
        stage = event.stage
        self.running.pop(stage.label, None)
        if stage.kind == "descend":  # the last stage of a lineage length is one
            self.cases.changed.update(self.outlook.owners(stage.key))
        if not event.from_store and self.frame is None:
            self._print(f"{self._clock()}  {stage.label}  {event.seconds:.1f} s")

    def _print(self, text: str, style: str = "", live_style: str = "") -> None:
        if self.frame is not None:
            self.frame.print(text, live_style)
        else:
            self.console.print(text, style=style, markup=False, soft_wrap=True)

    def _clock(self) -> str:
        spent = int(time.monotonic() - self.begun)
        return f"{spent // 3600}:{spent // 60 % 60:02}:{spent % 60:02}"


class BatchFrame(Frame):
    """Draws a batch's state: where its cases do not fit, those that changed last."""

    whole, label_width = "whole batch", 36

    def __init__(self, screen: BatchScreen, stream: IO[str]) -> None:
        self.cases = screen.cases
        super().__init__(screen, stream)  # draws

    def rows(self) -> int:
        """A row a case."""
        return len(self.cases.rows)

    def counted(self) -> str:
        """The table's last row says it."""
        return ""

    def close(self) -> None:
        """Take the moving part away; a batch that is complete has its own tables."""
        done, count = self.cases.total.lineages
        if done < count:
            super().close()
        else:
            self.stop()

    def label(self, label: str) -> str:
        """The stage whole; its lineage's name gives way."""
        lineage, _, stage = label.rpartition(": ")
        room = self.label_width - len(stage) - 2
        return f"{lineage[: room - 1]}…: {stage}" if len(lineage) > room > 1 else label

    def most_stages(self, room: int) -> int:
        """The cases are what one looks at: the stages get a quarter of the room."""
        return max(1, room // 4, room - self.rows())

    def table(self, rows: int) -> RenderableType:
        """``rows`` cases, how many more there are, and all of them as one."""
        shown, total = self.cases.shown(rows), self.cases.total
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        widths = [
            max(map(len, column))
            for column in zip(HEADINGS, total.cells, *(row.cells for row in shown), strict=True)
        ]
        room = self.console.size.width - sum(widths[1:]) - 2 * len(widths)
        widths[0] = max(1, min(widths[0], room))  # names alone give way
        for heading, width in zip(HEADINGS, widths, strict=True):
            left = heading == HEADINGS[0]
            table.add_column(
                heading,
                justify="left" if left else "right",
                no_wrap=True,
                overflow="ellipsis",
                width=width,
            )
        for row in shown:
            table.add_row(*row.cells, style="red" if row.failed else "")
        if more := self.rows() - rows:
            table.add_row(f"... {more} more", style="dim")
        if self.rows() > 1:
            table.add_row(*total.cells, style="bold")
        return table
