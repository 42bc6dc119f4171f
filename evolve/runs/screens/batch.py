"""The screens of a batch: its plan, a line a finished stage, a bar, the tables at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from evolve.core.console import Console
from evolve.core.spent import duration
from evolve.engine.engine import Event, Notice, StageDone, StageFailed, StageStarted
from evolve.engine.stage import Stage
from evolve.report.batch.figure import BatchFigure
from evolve.report.compare import Batch, Row
from evolve.report.compare_tables import TITLES, cells, note, power_words, reference_of
from evolve.runs.estimate import cost
from evolve.runs.estimate.outlook import Outlook
from evolve.runs.run import worker_count

if TYPE_CHECKING:
    from evolve.runs.batch.run import BatchRun


class BatchScreen:
    """Shows a batch while it is computed: a context manager whose ``event`` takes the engine's."""

    def __init__(self, batch_run: BatchRun) -> None:
        self.console = Console(highlight=False)
        self.batch_run, self.begun = batch_run, time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f}%"),
            TextColumn("{task.fields[left]}"),
        )
        self.progress = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self.task = self.progress.add_task("stages", total=1.0, left="")
        lineages = batch_run.lineages
        self.outlook = Outlook(lineages, worker_count(lineages[0].request, lineages))

    def __enter__(self) -> BatchScreen:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def notice(self, text: str) -> None:
        """Print a line of its own."""
        self.console.print(text, style="dim", soft_wrap=True)

    def event(self, event: Any) -> None:
        """Show one event of the engine."""
        self.outlook.event(event)
        self._show(event)
        left = self.outlook.forecast.left()
        self.progress.update(
            self.task,
            completed=self.outlook.forecast.fraction,
            left="" if left is None else f"about {duration(left)} left",
        )

    def _show(self, event: Event) -> None:
        if isinstance(event, StageDone):
            if not event.from_store:
                self.console.print(
                    f"{self._clock()}  {event.stage.label}  {event.seconds:.1f} s",
                    markup=False,
                    soft_wrap=True,
                )
        elif isinstance(event, StageFailed):
            self.console.print(
                f"{self._clock()}  {event.stage.label} FAILED: {event.text}",
                style="red",
                markup=False,
                soft_wrap=True,
            )
        elif isinstance(event, StageStarted):
            self.progress.update(self.task, description=event.stage.label)
        elif isinstance(event, Notice):
            self.notice(event.text)

    def _clock(self) -> str:
        spent = int(time.monotonic() - self.begun)
        return f"{spent // 3600}:{spent // 60 % 60:02}:{spent % 60:02}"


def print_plan(batch_run: BatchRun) -> None:
    """Print cases, stages, what the store has, what sharing saves, and the time left."""
    batch, console = batch_run.request.batch, Console(highlight=False)
    owners = batch_run.owners()
    weights = _weights(batch_run)
    stages = batch_run.stages()
    first = batch_run.lineages[0]
    missing = [s for s in stages if not first.store.has(s.key)]
    console.print(f"{batch.name} ({batch.profile}): {len(batch.cases)} lineages", soft_wrap=True)
    console.print(_stage_table(stages, missing, owners, weights))
    alone = sum(weights[s.key] * len(owners[s.key]) for s in stages)
    shared = sum(weights[s.key] for s in stages)
    workers = worker_count(first.request, batch_run.lineages)
    if alone > 0:
        console.print(
            f"sharing saves {1 - shared / alone:.0%} of the work of running every lineage by itself"
        )
    rest = sum(weights[s.key] for s in missing)
    console.print(
        f"left: about {duration(rest / workers)} with {workers} workers "
        "(rough; `evolve plan SCENARIO` times this machine)"
    )
    waiting = sum(case.scenario.settings.controls.from_scratch for case in batch.cases)
    if waiting and missing:
        console.print(
            "not counted: from-scratch controls "
            "whose architecture the condensers have yet to choose",
            style="dim",
        )


def _stage_table(
    stages: Sequence[Stage],
    missing: Sequence[Stage],
    owners: Mapping[str, Sequence[str]],
    weights: Mapping[str, float],
) -> Table:
    """One row a kind of stage. ``weights``: estimated seconds by stage key."""
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "asked for", "distinct", "in the store", "left", "left takes"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for kind in dict.fromkeys(s.kind for s in stages):
        mine = [s for s in stages if s.kind == kind]
        left = [s for s in missing if s.kind == kind]
        asked = sum(len(owners[s.key]) for s in mine)
        table.add_row(
            kind,
            str(asked),
            str(len(mine)),
            str(len(mine) - len(left)),
            str(len(left)),
            duration(sum(weights[s.key] for s in left)),
        )
    return table


def _weights(batch_run: BatchRun) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for run in batch_run.lineages:
        for stage in run.stages():
            weights.setdefault(
                stage.key,
                cost.seconds(run.world.settings, stage.kind, stage.recipe, run.counts),
            )
    return weights


def print_tables(batch: Batch, tables: Mapping[str, Sequence[Row]]) -> None:
    """Print the comparison, metric by metric; a file or pipe gets lines as long as they are."""
    console = _console()
    for metric, rows in tables.items():
        if not rows:
            continue
        table = Table(box=None, pad_edge=False, collapse_padding=True)
        for title in (
            batch.method,
            TITLES[metric],
            f"minus {reference_of(batch, rows)}",
            "p (Holm)",
            "lineages",
        ):
            table.add_column(
                title, justify="left" if title == batch.method else "right", no_wrap=True
            )
        for row in rows:
            table.add_row(row.method, *cells(row), style="bold" if row.best else "")
        console.print(table)
        if power := power_words(metric, rows):
            console.print(power, style="dim", soft_wrap=True)
        console.print()
    console.print(note(batch, tables), style="dim", soft_wrap=True)


def print_figure(shown: BatchFigure, out: Path) -> None:
    """Print the tables of a batch's picture, and where in the folder ``out`` it is."""
    console = _console()
    for described in shown.tables:
        table = Table(box=None, pad_edge=False, title=described.caption, title_justify="left")
        for place, head in enumerate(described.heads):
            table.add_column(head, justify="left" if place < described.words else "right")
        for row in described.rows:
            table.add_row(*row.cells, style="bold" if row.bold else "")
        console.print(table)
        console.print()
    console.print(f"picture      {out / 'figure.png'}, .svg, .pdf; its numbers: .csv, .json")


def _console() -> Console:
    """The terminal, names as they are; a file or pipe gets lines as long as they are."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    return console
