"""Runs or continues a batch to its end, then writes every case's report and the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evolve.core.durable import write_whole
from evolve.core.machine import usable_cores
from evolve.core.terminal import tell
from evolve.engine.engine import StageFailure
from evolve.report.batch.figure import write_figure
from evolve.report.compare import METRICS, Case, compare
from evolve.report.compare_tables import economy_lines, write_batch
from evolve.report.cost_table import cost_markdown, cost_rows, costs
from evolve.report.curves import LineageRecord
from evolve.report.files import csv_bytes
from evolve.report.page.write import PAGE
from evolve.runs.batch.run import BatchRequest, BatchRun
from evolve.runs.batch_folder import check_folder, write_batch_file
from evolve.runs.estimate.counts import lying
from evolve.runs.estimate.needs import needs
from evolve.runs.execute import export_learngenes, stoppable
from evolve.runs.folder import claimed
from evolve.runs.read import report_folders, took
from evolve.runs.run import run_record
from evolve.runs.screens.batch import BatchScreen, print_figure, print_plan, print_tables
from evolve.runs.screens.summary import say
from evolve.runs.snapshots import thin


def execute(request: BatchRequest, argv: list[str]) -> None:
    """Compute what a batch lacks, then write the cases' reports and the comparison.

    Args:
        request: the batch, and where it is computed.
        argv: the words of the command line.

    Raises:
        StageFailure: a case could not be finished; raised after all the others and the reports.
    """
    with stoppable(), claimed(request.out):
        batch_run, failed, measured = compute_batch(request, argv)
        tables = {metric: compare(request.batch, measured, metric) for metric in METRICS}
        write_batch(request.batch, tables, measured, request.out)
        shown = write_figure(request.batch, measured, request.out)
        if measured:
            report_folders([request.out], request.out / PAGE)
            tell(f"report       {request.out / PAGE}   (everything on one page)")
        thin_batch(batch_run)
    print_tables(request.batch, tables)
    if shown:
        print_figure(shown, request.out)
    for line in economy_lines(measured):
        say(line)
    _write_costs(batch_run)
    _print_files(request.out)
    check_finished(batch_run, failed)


Measured = list[tuple[Case, LineageRecord]]


def compute_batch(
    request: BatchRequest, argv: list[str]
) -> tuple[BatchRun, Mapping[str, str], Measured]:
    """Compute what a batch lacks, and write every case's own report. The folder is claimed.

    Args:
        request: the batch, and where it is computed.
        argv: the words of the command line.

    Returns:
        The batch; key -> reason of the stages that failed; the cases that measured something.
    """
    check_folder(request.batch, request.out)
    batch_run = BatchRun(request, tell)
    batch_run.prepare(argv)
    write_batch_file(request.batch, request.out, argv)
    with BatchScreen(batch_run) as screen:
        try:
            failed = batch_run.compute(screen.event)
        except KeyboardInterrupt:
            screen.notice("stopped; every finished stage is kept. The same command goes on.")
            raise
        screen.notice("writing the reports")
        records = _reports(batch_run)
    return batch_run, failed, [(case, record) for case, record in records if record.generations]


def thin_batch(batch_run: BatchRun) -> None:
    """Thin the snapshots that the batch does not keep, and say so."""
    for line in thin(batch_run.lineages[0].store, [run.world for run in batch_run.lineages]):
        tell(line)


def check_finished(batch_run: BatchRun, failed: Mapping[str, str]) -> None:
    """Say which cases are unfinished.

    Raises:
        StageFailure: some are.
    """
    if failed:
        raise StageFailure(_failures(batch_run, failed))


def _write_costs(batch_run: BatchRun) -> None:
    """Write and print what the condensers cost; nothing in a batch that compares no condensers."""
    methods = {case.scenario.settings.condense.method for case, _ in batch_run.runs.values()}
    if len(methods) < 2:
        return
    table = costs((case, took(run)) for case, run in batch_run.runs.values())
    out, text = batch_run.request.out, cost_markdown(table)
    write_whole(out / "cost.csv", csv_bytes(cost_rows(table)), "batch")
    write_whole(out / "cost.md", text.encode(), "batch")
    tell("CPU time a lineage, up to its last learngene:")
    tell(*text.splitlines())
    tell(f"cost         {out / 'cost.md'}, cost.csv")


def _print_files(out: Path) -> None:
    """Print where the batch's files are."""
    tell(
        f"tables       {out / 'table.md'}, table.tex, table.json, "
        "descendants.csv and .parquet (long form)"
    )
    tell(
        f"every case   {out}/<case>-seed<n>   "
        "(curve.png, genome.png, learngenes; evolve summary reads them)"
    )
    tell(f"tensorboard  tensorboard --logdir {out}")


def show_plan(request: BatchRequest) -> None:
    """Print what the batch would do, and do nothing but read the images."""
    first = request.batch.cases[0].scenario
    counted = lying(first.settings, request.data_dir)
    alone = needs(first, request.workers or usable_cores(), counted)
    count = len(request.batch.cases)
    tell(f"{request.batch.name}: {count} lineages share stages; one alone: {alone}")
    print_plan(BatchRun(request, tell))


def _reports(batch_run: BatchRun) -> Sequence[tuple[Case, LineageRecord]]:
    """Every case's folder, as `evolve run` leaves it, as far as it came."""
    from evolve.report.files import write_report
    from evolve.runs.batch.board import write_board

    records = []
    for case, run in batch_run.runs.values():
        record = run_record(run)
        records.append((case, record))
        if record.generations:
            write_report(record, run.request.out)
            export_learngenes(run, record)
    write_board(
        batch_run.request.batch,
        [(case, record) for case, record in records if record.generations],
        batch_run.request.out,
    )
    return records


def _failures(batch_run: BatchRun, failed: Mapping[str, str]) -> str:
    """One line: which cases are unfinished, and the first reason."""
    owners = batch_run.owners()
    cases = list(dict.fromkeys(folder for key in failed for folder in owners.get(key, ())))
    first = next(iter(failed.values()))
    return (
        f"{len(cases)} of {len(batch_run.runs)} lineages unfinished "
        f"({', '.join(cases[:5])}{', ...' if len(cases) > 5 else ''}): {first}"
    )
