"""Executes a run and keeps its screens and pictures in step with the store."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evolve.core.durable import result_folder
from evolve.core.errors import UserError
from evolve.core.terminal import tell
from evolve.engine.engine import Notice, StageDone, StageProgress, StageStarted, run_stages
from evolve.lineage.collect import generation
from evolve.lineage.lineage import places
from evolve.lineage.scenario import changes
from evolve.lineage.schedule import measured
from evolve.report.curves import LineageRecord
from evolve.report.economy import sentences
from evolve.report.pooling import summarise
from evolve.report.verdict import gain_sentence, verdict
from evolve.runs.estimate.outlook import Outlook
from evolve.runs.folder import claimed, resume_command
from evolve.runs.run import (
    Run,
    RunRequest,
    crew,
    open_run,
    prepare_folder,
    run_record,
    worker_count,
)
from evolve.runs.screens.display import Display
from evolve.runs.screens.summary import say
from evolve.runs.snapshots import thin


def execute(request: RunRequest, argv: list[str]) -> None:
    """Run or continue a lineage to its end, then write the report.

    Ctrl-C stops cleanly and says how to go on.

    Args:
        request: what to run, and where.
        argv: the words of the command line, for run.json.

    Raises:
        UserError: something the user gave does not fit.
        StageFailure: a stage could not be computed.
    """
    threading.excepthook = _thread_error
    with stoppable(), claimed(request.out):
        chosen = request.scenario
        display = Display(
            chosen.settings.name,
            chosen.profile,
            request.seed,
            str(request.out),
            changes=changes(chosen.settings, chosen.profile),
        )
        with display:
            run = open_run(request, display.notice)
            prepare_folder(run, argv)
            watcher = Watcher(run, display)
            watcher.compute()
            display.notice("writing the report")
            record = watcher.finish()
        thinned = thin(run.store, [run.world])
    print_end(request, record)
    for line in thinned:
        say(line)
    if len(run.makers) > 1:
        say(
            "Mind: the results come from different versions or devices "
            f"({'; '.join(run.makers)}); bit equality holds only within one."
        )


class Stopped(KeyboardInterrupt):
    """Raised by a signal that asks the run to end; it ends as after Ctrl-C."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop the run as cleanly as Ctrl-C does.

    A timeout, a batch system or a closed terminal sends them. One that this process was started to
    ignore (`nohup`) stays ignored, as Ctrl-C does in a background job.
    """

    def stop(number: int, frame: object) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [
        number
        for name in ("SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None)) is not None
        and signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _thread_error(failure: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread's exception, but for an OSError.

    TensorBoard's writer thread meets a full disk before we do. Our own line names it, and the
    traceback would only hide that.
    """
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


class Watcher:
    """Passes the engine's events on to the display and to TensorBoard."""

    def __init__(self, run: Run, display: Display) -> None:
        from evolve.report.tensorboard import Board

        self.run, self.display = run, display
        settings = run.world.settings
        self.outlook = Outlook([run], worker_count(run.request, [run]))
        self.shown: set[int] = set()
        display.expect(
            self.outlook.forecast, len(measured(settings)), 1 / settings.descend.classes_per_task
        )
        self.board = Board(self.run.request.out / "tensorboard", run_record(self.run))

    def compute(self) -> None:
        """Compute the stages that the store lacks."""
        self._show_finished(fresh=False)
        request, run = self.run.request, self.run
        try:
            run_stages(
                run.stages,
                run.store.root,
                "evolve.lineage.perform:perform_stage",
                run.context,
                crew(request, [run]),
                self.on_event,
            )
        except KeyboardInterrupt:
            self.display.notice(
                "stopped; every finished stage is kept. Continue with: "
                f"{resume_command(request.out)}"
            )
            raise
        self._show_finished(fresh=True)

    def on_event(self, event: Any) -> None:
        """Show one event of the engine.

        A failed stage needs no line: the exception that ends the run carries it.
        """
        self.outlook.event(event)
        if isinstance(event, StageStarted):
            self.display.stage_started(event.stage.label)
        elif isinstance(event, StageProgress):
            self.display.stage_progress(event.stage.label, event.fraction, event.text)
        elif isinstance(event, StageDone):
            self.display.stage_done(event.stage.label)
            self._show_finished(fresh=True)
        elif isinstance(event, Notice):
            self.display.notice(event.text)

    def finish(self) -> LineageRecord:
        """Close TensorBoard; write the report, the learngenes and the page."""
        from evolve.report.files import write_report
        from evolve.report.page.write import PAGE
        from evolve.runs.read import report_folders

        record, out = run_record(self.run), self.run.request.out
        self.board.close()
        write_report([record], out)
        export_learngenes(self.run, record)
        if record.generations:
            report_folders([out], out / PAGE)
        return record

    def _show_finished(self, fresh: bool) -> None:
        """Show every generation that has become complete, in order of lineage length."""
        stages = places(self.run.world, self.run.peek)
        tasks = self.run.world.settings.stream.tasks
        for length in measured(self.run.world.settings):
            if length in self.shown:
                continue
            complete = generation(self.run.world, length, stages, self.run.peek)
            if complete is None:
                continue
            self.shown.add(length)
            self.display.generation(complete, tasks)
            if fresh:  # the writer was made with all that was known before
                self.board.add(complete)


def export_learngenes(run: Run, record: LineageRecord) -> None:
    """Write every generation's learngene into the run folder, each as a file of its own.

    Args:
        run: the run, with all condensations in its store.
        record: what it measured.

    Raises:
        UserError: a result in the store is damaged.
    """
    from evolve.learngene.learngene import unflatten
    from evolve.networks.family import from_json

    stages = places(run.world, run.peek)
    folder = run.request.out / "learngenes"
    for shown in record.generations:
        stage = stages["condense", "", "", shown.lineage, 0]
        path = folder / f"lineage-{shown.lineage:02d}.safetensors"
        condensation = run.store.get(stage.key)
        if condensation is None:
            raise UserError(
                f"{run.store.root}: the result of {stage.label} is damaged; run the same command "
                "again to compute it anew"
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
        plan = from_json(condensation.record["ancestor_plan"])
        result_folder(folder, "learngenes")
        unflatten(condensation.tensors("learngene"), plan, origin).save(path)


def print_end(request: RunRequest, record: LineageRecord) -> None:
    """Print the verdict, and where everything is."""
    summary = summarise([record])
    say(gain_sentence(summary))
    say(verdict(summary))
    for line in sentences([record]):
        say(line)
    tell(f"report       {request.out / 'report.html'}   (everything on one page)")
    tell(
        f"picture      {request.out / 'curve.png'}   (which layers were inherited: "
        f"{request.out / 'genome.png'})"
    )
    tell(f"tables       {request.out / 'generations.csv'}, descendants.csv, summary.json")
    tell(f"learngenes   {request.out / 'learngenes'}")
    tell(f"tensorboard  tensorboard --logdir {request.out / 'tensorboard'}")
