"""Shall the meta-network choose single convolutions or stages?

Agreement and transfer, on condensing classes only.

    python benchmarks/ablations/granularity.py RUN@TASK [RUN@TASK ...]
        --draws 10 --json granularity.json [--set condense.KEY=VALUE]

Every ancestor is condensed ``--draws`` times at either granularity, with other pseudo-descendants
on the same images (those of `evolve condense --null`). Each set that was chosen is inherited by
descendants that learn few-shot tasks of *condensing* classes, as condenser "trial" does it; the
tasks, images and fresh weights of both granularities are the same, so their gains over from-scratch
are paired. No downstream class is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from evolve.cli.ancestors import Images, Weights, find_condensation, run_and_task
from evolve.cli.options import DATA, DEVICE
from evolve.condensers.candidates import Choice, candidate
from evolve.condensers.condense import condense_ancestor
from evolve.condensers.interface import Request
from evolve.condensers.null import overlap, requests
from evolve.condensers.trial import tried
from evolve.core.durable import to_json
from evolve.core.errors import UserError
from evolve.lineage.perform import condensation
from evolve.report.trends import Array, mean_interval
from evolve.runs.folder import StorePlace
from evolve.runs.screens.rows import compact

GRANULARITIES = ("conv", "stage")
HEADS = (
    "ancestor",
    "granularity",
    "decided",
    "same set",
    "overlap",
    "margin, least (% of 1/L)",
    "most often",
    "weights (%)",
    "gain (points)",
)


@dataclass(frozen=True)
class Row:
    """An ancestor's condensations at one granularity.

    Attributes:
        ancestor, granularity, seed: what was condensed.
        sets: the layers that each draw inherits, the fixed set where it decided nothing.
        decided: how many draws decided something.
        margins: of the draws that decided, times L, so as shares of the threshold 1/L.
        modal: the set chosen most often.
        same: by how many it was chosen.
        overlap: mean Jaccard index of two draws' layers, NaN with fewer than two.
        share: of the ancestor's weights that is inherited, mean over the draws.
        gains: accuracy less from-scratch's, in [-1, 1], a number a task, mean over the draws.
    """

    ancestor: str
    granularity: str
    seed: int
    sets: tuple[tuple[str, ...], ...]
    decided: int
    margins: tuple[float, ...]
    modal: tuple[str, ...]
    same: int
    overlap: float
    share: float
    gains: tuple[float, ...]


def row(ancestor: str, request: Request, count: int) -> Row:
    """Condense with other pseudo-descendants, and measure what the choices are worth.

    Args:
        ancestor: the ancestor's name.
        request: its condensation.
        count: how many pseudo-descendants.

    Raises:
        UserError: the settings ask for more images or classes than there are.
    """
    once = replace(request, c=replace(request.c, repeats=1))
    runs = [condense_ancestor(draw) for draw in requests(once, "other pseudo-descendants", count)]
    choice = Choice(request.architecture, request.c.granularity, request.inherit, request.c.budget)
    counted = Counter(run.selected for run in runs)
    trials = tried(once, [candidate(choice, chosen, ("draw",)) for chosen in counted])
    weights = np.array([counted[trial.layers] for trial in trials]) / count
    decided = [run for run in runs if run.status == "selected"]
    layers = [tuple(choice.layers(run.selected)) for run in decided]
    modal, same = Counter(layers).most_common(1)[0] if decided else ((), 0)
    return Row(
        ancestor=ancestor,
        granularity=request.c.granularity,
        seed=request.seed,
        sets=tuple(tuple(choice.layers(run.selected)) for run in runs),
        decided=len(decided),
        margins=tuple(run.margin * len(request.groups) for run in decided),
        modal=modal,
        same=same,
        overlap=agreement(layers),
        share=float(weights @ [trial.share for trial in trials]),
        gains=tuple((weights @ np.array([trial.gains for trial in trials])).tolist()),
    )


def agreement(sets: Sequence[Sequence[str]]) -> float:
    """Mean Jaccard index over all pairs of sets of layers; NaN for fewer than two."""
    pairs = [overlap(*pair) for pair in combinations(sets, 2)]
    return sum(pairs) / len(pairs) if pairs else float("nan")


def differences(rows: Sequence[Row]) -> Array:
    """Points that single convolutions gain more than stages, a number a task.

    Each is the mean over the ancestors of a seed, which share their tasks.
    """
    by_seed: dict[int, list[Array]] = {}
    by_name = {(row.ancestor, row.granularity): row for row in rows}
    for name, seed in dict.fromkeys((row.ancestor, row.seed) for row in rows):
        conv, stage = (np.array(by_name[name, granularity].gains) for granularity in GRANULARITIES)
        by_seed.setdefault(seed, []).append(100 * (conv - stage))
    return np.concatenate([np.mean(parts, axis=0) for parts in by_seed.values()])


def verdict(rows: Sequence[Row]) -> str:
    """Which granularity it shall be, in one line.

    It is the one that transfers better where the interval excludes 0, else the one whose draws
    agree more.
    """
    mean, low, high, tasks = mean_interval(differences(rows))
    overlaps = [
        float(np.mean([row.overlap for row in rows if row.granularity == granularity]))
        for granularity in GRANULARITIES
    ]
    numbers = (
        f"conv less stage: {mean:+.1f} points [{low:+.1f}, {high:+.1f}] ({tasks} tasks); "
        f"overlap {overlaps[0]:.2f} and {overlaps[1]:.2f}"
    )
    if low > 0 or high < 0:
        return f"{numbers}: {GRANULARITIES[int(high < 0)]}, which transfers better"
    if overlaps[0] != overlaps[1] and np.isfinite(overlaps).all():
        return (
            f"{numbers}: {GRANULARITIES[int(overlaps[1] > overlaps[0])]}, whose draws agree more "
            "(transfer does not decide)"
        )
    return f"{numbers}: undecided"


def markdown(rows: Sequence[Row]) -> str:
    """The table, gains as mean ± standard error over the tasks."""
    lines = [HEADS, ("---",) * len(HEADS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    draws, gains = len(row.sets), 100 * np.array(row.gains)
    margins = (
        f"{100 * np.median(row.margins):.2f}, {100 * min(row.margins):.2f}" if row.margins else "-"
    )
    error = float(gains.std(ddof=1)) / len(gains) ** 0.5
    same = f"{row.same} of {draws}", "-" if np.isnan(row.overlap) else f"{row.overlap:.2f}"
    chosen = compact(row.modal), f"{100 * row.share:.1f}", f"{gains.mean():+.1f} ± {error:.1f}"
    return row.ancestor, row.granularity, f"{row.decided} of {draws}", *same, margins, *chosen


def request_of(
    ancestor: str, granularity: str, overrides: Sequence[str], place: Mapping[str, Any]
) -> Request:
    """What condenses RUN@TASK at a granularity by the meta-network.

    It has the run's own images and its way to inherit and to learn.

    Args:
        ancestor: RUN@TASK.
        granularity: one of GRANULARITIES.
        overrides: SECTION.KEY=VALUE.
        place: where data and store are, and the device.

    Raises:
        UserError: this is no RUN@TASK of a finished run.
    """
    if run_and_task(ancestor) is None:
        raise UserError(
            f"{ancestor}: give RUN@TASK, a finished run's folder and a lineage length, such as "
            "runs/fig6/naive-seed2@5"
        )
    settled = (*overrides, "condense.method=meta-network", f"condense.granularity={granularity}")
    run, stages, _ = find_condensation(
        ancestor, Images(None, None, None, settled), Weights(None, 1.0, 32), dict(place)
    )
    request = condensation(stages[-1], run.store, run.context, lambda fraction, text: None)
    settings = run.world.settings
    c = replace(request.c, trial_tasks=settings.condense.trial_tasks)
    return replace(request, c=c, descend=settings.descend, inherit=settings.inherit)


@click.command()
@click.argument("ancestors", nargs=-1, required=True, metavar="RUN@TASK ...")
@click.option(
    "--draws",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="Random pseudo-descendants a granularity.",
)
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Every number, too."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="condense.KEY=VALUE",
    help="condense.trial_tasks: how many tasks.",
)
@click.option("--store", type=StorePlace(), help="The runs' store, where it is not where they say.")
@DATA
@DEVICE
def main(
    ancestors: tuple[str, ...],
    draws: int,
    file: Path | None,
    overrides: tuple[str, ...],
    **place: Any,
) -> None:
    """Print a table of agreement and transfer, and which granularity it shall be.

    A row is an ancestor and granularity.
    """
    torch.set_num_threads(1)  # as the engine's workers, for the same rounding
    rows = []
    try:
        for ancestor in dict.fromkeys(ancestors):
            for granularity in GRANULARITIES:
                rows.append(
                    row(ancestor, request_of(ancestor, granularity, overrides, place), draws)
                )
                click.echo(_cells(rows[-1]), err=True)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    print(markdown(rows), verdict(rows), sep="\n\n")
    if file is not None:
        file.write_bytes(
            to_json(
                {
                    "draws": draws,
                    "verdict": verdict(rows),
                    "rows": [asdict(measured) for measured in rows],
                }
            )
        )


if __name__ == "__main__":
    main()
