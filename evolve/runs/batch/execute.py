"""Runs or continues a batch to its end, then writes every case's report and the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from evolve.core.errors import printable
from evolve.engine.engine import StageFailure
from evolve.report.compare import METRICS, Case, compare
from evolve.report.compare_tables import economy_lines, write_batch
from evolve.report.curves import LineageRecord
from evolve.report.page.write import PAGE
from evolve.runs.batch.opened import BatchOrder, OpenBatch
from evolve.runs.batch_folder import check_folder, write_batch_file
from evolve.runs.execute import export_learngenes, stoppable
from evolve.runs.folder import claimed
from evolve.runs.opened import run_record
from evolve.runs.read import write_report
from evolve.runs.screens.batch import BatchScreen, print_plan, print_tables
from evolve.runs.screens.summary import say
from evolve.runs.snapshots import thin


def execute(order: BatchOrder, argv: list[str]) -> None:
    """Compute what is missing, case reports and the table. Raises StageFailure, after all that, when a case could not be finished."""
    with stoppable(), claimed(order.out):
        check_folder(order.batch, order.out)
        opened = OpenBatch(order, lambda text: print(text, flush=True))
        opened.prepare(argv)
        write_batch_file(order.batch, order.out, argv)
        with BatchScreen(opened) as screen:
            try:
                failed = opened.run(screen.event)
            except KeyboardInterrupt:
                screen.notice("stopped; every finished stage is kept. The same command goes on.")
                raise
            screen.notice("writing the reports")
            records = _reports(opened)
        measured = [(case, record) for case, record in records if record.generations]
        tables = {metric: compare(order.batch, measured, metric) for metric in METRICS}
        write_batch(order.batch, tables, measured, order.out)
        if measured:
            write_report([order.out], order.out / PAGE)
            print(f"report       {order.out / PAGE}   (everything on one page)")
        for line in thin(opened.lineages[0].store, [one.world for one in opened.lineages]):
            print(line)
    print_tables(order.batch, tables)
    for line in economy_lines(measured):
        say(printable(line))
    print(
        f"tables       {order.out / 'table.md'}, table.tex, table.json, descendants.csv and .parquet (long form)"
    )
    print(
        f"every case   {order.out}/<case>-seed<n>   (curve.png, genome.png, learngenes; evolve summary reads them)"
    )
    print(f"tensorboard  tensorboard --logdir {order.out}")
    if failed:
        raise StageFailure(_failures(opened, failed))


def show_plan(order: BatchOrder) -> None:
    """Print what the batch would do, and do nothing."""
    print_plan(OpenBatch(order, lambda text: print(text, flush=True)))


def _reports(opened: OpenBatch) -> Sequence[tuple[Case, LineageRecord]]:
    """Every case's folder, as `evolve run` leaves it, as far as it came."""
    from evolve.report.files import write_report
    from evolve.runs.batch.board import write_board

    records = []
    for case, one in opened.runs.values():
        record = run_record(one)
        records.append((case, record))
        if record.generations:
            write_report(record, one.order.out)
            export_learngenes(one, record)
    write_board(
        opened.order.batch,
        [(case, record) for case, record in records if record.generations],
        opened.order.out,
    )
    return records


def _failures(opened: OpenBatch, failed: dict[str, str]) -> str:
    """One line: which cases are unfinished, and the first reason."""
    owners = opened.owners()
    cases = list(dict.fromkeys(folder for key in failed for folder in owners.get(key, ())))
    first = next(iter(failed.values()))
    return f"{len(cases)} of {len(opened.runs)} lineages unfinished ({', '.join(cases[:5])}{', ...' if len(cases) > 5 else ''}): {first}"
