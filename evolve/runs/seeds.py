"""Several seeds of one scenario side by side, pooled at the end: a batch of one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from evolve.core.terminal import tell
from evolve.report.compare import Batch, Case
from evolve.report.curves import LineageRecord
from evolve.report.page.write import PAGE
from evolve.runs.batch.execute import check_finished, compute_batch, thin_batch
from evolve.runs.batch.run import BatchRequest
from evolve.runs.execute import stoppable
from evolve.runs.folder import claimed
from evolve.runs.run import Place, RunRequest
from evolve.runs.screens.summary import print_pooled


def seeds_request(request: RunRequest, seeds: Sequence[int]) -> BatchRequest:
    """The lineages of these seeds as one batch.

    Args:
        request: one lineage; its folder is that of all of them, its seed says nothing.
        seeds: one a lineage.
    """
    chosen = request.scenario
    name = chosen.settings.name
    batch = Batch(
        name,
        chosen.settings.title,
        chosen.profile,
        chosen.origin,
        method="case",
        reference="",
        cases=tuple(Case(name, seed, name, (), {}, chosen) for seed in seeds),
    )
    place = {field.name: getattr(request, field.name) for field in fields(Place)}
    return BatchRequest(**place, batch=batch)


def execute_seeds(request: BatchRequest, argv: list[str]) -> None:
    """Compute what the lineages lack; write every one's report, and the pooled one.

    Args:
        request: of :func:`seeds_request`.
        argv: the words of the command line.

    Raises:
        UserError: something the user gave does not fit.
        StageFailure: a lineage could not be finished; raised after all the others and the reports.
    """
    from evolve.report.files import write_report
    from evolve.runs.read import report_folders

    out = request.out
    with stoppable(), claimed(out):
        batch_run, failed, measured = compute_batch(request, argv)
        records = [record for _, record in measured]
        if records:
            write_report(records, out)
            report_folders([out / case.folder for case, _ in measured], out / PAGE)
        thin_batch(batch_run)
    if records:
        _print_end(out, records, measured[0][0])
    check_finished(batch_run, failed)


def _print_end(out: Path, records: Sequence[LineageRecord], first: Case) -> None:
    """Print the pooled verdict, and where everything is."""
    print_pooled(records)
    tell(f"report       {out / PAGE}   (everything on one page)")
    tell(f"picture      {out / 'curve.png'}")
    tell(f"tables       {out / 'generations.csv'}, descendants.csv, summary.json")
    tell(f"every seed   {out / first.folder} and so on, each a run of its own")
    tell(f"tensorboard  tensorboard --logdir {out}")
