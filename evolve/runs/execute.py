"""Executes a run and keeps its screens and pictures in step with the store."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evolve.core.errors import UserError
from evolve.engine.engine import Notice, StageDone, StageProgress, StageStarted, run_stages
from evolve.lineage.collect import generation
from evolve.lineage.schedule import measured
from evolve.report.curves import LineageRecord, summarise
from evolve.report.economy import sentences
from evolve.report.verdict import gain_sentence, verdict
from evolve.runs.folder import claimed
from evolve.runs.opened import (
    Opened,
    Order,
    crew,
    open_run,
    prepare_folder,
    remaining_seconds,
    run_record,
)
from evolve.runs.screens.display import Display
from evolve.runs.screens.summary import say
from evolve.runs.snapshots import thin


def execute(order: Order, argv: list[str]) -> None:
    """Run or continue ``order`` to its end, then write the report. Ctrl-C stops cleanly and says how to go on."""
    threading.excepthook = _thread_error
    with stoppable(), claimed(order.out):
        display = Display(
            order.scenario.settings.name, order.scenario.profile, order.seed, str(order.out)
        )
        with display:
            opened = open_run(order, display.notice)
            prepare_folder(opened, argv)
            watcher = Watcher(opened, display)
            try:
                watcher.run()
            except KeyboardInterrupt:
                display.notice(
                    f"stopped; every finished stage is kept. Continue with: evolve resume {order.out}"
                )
                raise
            display.notice("writing the report")
            record = watcher.finish()
        thinned = thin(opened.store, [opened.world])
    print_end(order, record)
    for line in thinned:
        say(line)
    if len(opened.makers) > 1:
        say(
            f"Mind: the results come from different versions or devices ({'; '.join(opened.makers)}); bit equality holds only within one."
        )


class Stopped(KeyboardInterrupt):
    """A signal asked the run to end; it ends as after Ctrl-C."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (timeout, a batch system, a closed terminal) stop the run as cleanly as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [
        n
        for n in (getattr(signal, "SIGTERM", None), getattr(signal, "SIGHUP", None))
        if n is not None
    ]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _thread_error(found: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer thread meets a full disk before we do; our own line names it, its traceback would only hide that."""
    if not isinstance(found.exc_value, OSError):
        threading.__excepthook__(found)


class Watcher:
    """Turns the engine's events into the display's and TensorBoard's."""

    def __init__(self, opened: Opened, display: Display) -> None:
        from evolve.report.tensorboard import Board

        self.opened, self.display = opened, display
        self.left = remaining_seconds(opened)
        self.total = sum(self.left.values())
        self.shown: set[int] = set()
        self.fractions: dict[str, float] = {}
        self.board = Board(self.opened.order.out / "tensorboard", run_record(self.opened))

    def run(self) -> None:
        """Execute what is missing."""
        self._show_finished(fresh=False)
        order, opened = self.opened.order, self.opened
        run_stages(
            opened.stages,
            opened.store.root,
            "evolve.lineage.perform:perform_stage",
            opened.context,
            crew(order, [opened]),
            self.on_event,
        )
        self._show_finished(fresh=True)

    def on_event(self, event: Any) -> None:
        """One event of the engine. A failed stage needs no line: the exception that ends the run carries it."""
        if isinstance(event, StageStarted):
            self.display.stage_started(event.stage.label)
        elif isinstance(event, StageProgress):
            self.fractions[event.stage.key] = event.fraction
            self.display.stage_progress(event.stage.label, event.fraction, event.text)
        elif isinstance(event, StageDone):
            self.fractions[event.stage.key] = 1.0
            self.display.stage_done(event.stage.label)
            self._show_finished(fresh=True)
            self.left = remaining_seconds(self.opened)
        elif isinstance(event, Notice):
            self.display.notice(event.text)
        self._eta()

    def finish(self) -> LineageRecord:
        """Close TensorBoard, write the report and the learngenes."""
        from evolve.report.files import write_report
        from evolve.report.page.write import PAGE
        from evolve.runs.read import write_report as write_page

        record, out = run_record(self.opened), self.opened.order.out
        self.board.close()
        write_report([record], out)
        export_learngenes(self.opened, record)
        if record.generations:
            write_page([out], out / PAGE)
        return record

    def _show_finished(self, fresh: bool) -> None:
        """Show every generation that has become complete, in order of lineage length."""
        known = {stage.place: stage for stage in self.opened.stages()}
        tasks = self.opened.world.settings.stream.tasks
        for length in measured(self.opened.world.settings):
            if length in self.shown:
                continue
            found = generation(self.opened.world, length, known, self.opened.peek)
            if found is None:
                continue
            self.shown.add(length)
            self.display.generation(found, tasks)
            if fresh:  # the writer was made with all that was known before
                self.board.add(found)

    def _eta(self) -> None:
        left = sum(
            seconds * (1 - self.fractions.get(key, 0.0)) for key, seconds in self.left.items()
        )
        self.total = max(self.total, left)
        self.display.set_eta(self.total - left, self.total)


def export_learngenes(opened: Opened, record: LineageRecord) -> None:
    """Every generation's learngene as one file a stranger can open, in the run folder."""
    from evolve.learngene.learngene import unflatten
    from evolve.networks.family import from_json

    known = {stage.place: stage for stage in opened.stages()}
    folder = opened.order.out / "learngenes"
    for shown in record.generations:
        stage = known["condense", "", "", shown.lineage, 0]
        path = folder / f"lineage-{shown.lineage:02d}.safetensors"
        found = opened.store.get(stage.key)
        if found is None:
            raise UserError(
                f"{opened.store.root}: the result of {stage.label} is damaged; run the same command again to compute it anew"
            )
        origin = {
            "scenario": record.scenario,
            "profile": record.profile,
            "seed": record.seed,
            "lineage": shown.lineage,
            "key": stage.key,
            "selected_by": shown.selected_by,
            "evolve": record.versions.get("evolve", ""),
        }
        plan = from_json(found.record["ancestor_plan"])
        folder.mkdir(exist_ok=True)
        unflatten(found.tensors("learngene"), plan, origin).save(path)


def print_end(order: Order, record: LineageRecord) -> None:
    """The verdict, and where everything is."""
    summary = summarise([record])
    say(gain_sentence(summary))
    say(verdict(summary))
    for line in sentences([record]):
        say(line)
    print(f"report       {order.out / 'report.html'}   (everything on one page)")
    print(
        f"picture      {order.out / 'curve.png'}   (which layers were inherited: {order.out / 'genome.png'})"
    )
    print(f"tables       {order.out / 'generations.csv'}, descendants.csv, summary.json")
    print(f"learngenes   {order.out / 'learngenes'}")
    print(f"tensorboard  tensorboard --logdir {order.out / 'tensorboard'}")
