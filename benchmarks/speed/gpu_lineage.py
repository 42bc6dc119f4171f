"""The last part of :mod:`gpu`: whole quick lineages by `evolve run`.

Their curves stand beside a CPU's.
"""

from __future__ import annotations

import csv
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .gpu_setting import Row

if TYPE_CHECKING:
    from .gpu import Plan

TINY = (
    "stream.tasks=1",
    "stream.measure=[1]",
    "stream.images_per_class=8",
    "ancestor.width=0.0625",
    "ancestor.epochs=1",
    "condense.images_per_class=12",
    "condense.epochs=1",
    "descend.descendants=2",
    "descend.epochs=1",
    "controls.draws=1",
)
"""What a rehearsal changes."""


def lineages(plan: Plan) -> Iterator[Row]:
    """Wall time of the quick lineages, at the seeds of the runs ``beside``.

    Accuracies minus theirs are paired descendant by descendant.
    """
    named: dict[str, list[str]] = {"glyphs-seq25": []} | (
        {"cifar-seq25": ["--data", str(plan.data)]} if plan.data else {}
    )
    others = {identity(run)[0]: run for run in plan.beside}
    with tempfile.TemporaryDirectory(prefix="evolve-gpu-") as folder:
        for name, more in named.items():
            run, other = Path(folder) / name, others.get(name)
            yield from _run(
                run, plan, name, [*more, "--seed", identity(other)[1] if other else "0"]
            )
            if other is not None:
                yield from compared(name, run, other)


def _run(out: Path, plan: Plan, name: str, more: list[str]) -> Iterator[Row]:
    device = "cpu" if plan.rehearse else "cuda"
    tiny = [word for setting in TINY if plan.rehearse for word in ("--set", setting)]
    words = [
        sys.executable,
        "-m",
        "evolve.cli",
        "run",
        "--scenario",
        name,
        "--profile",
        "quick",
        "--device",
        device,
        "--out",
        str(out),
        *more,
        *tiny,
    ]
    begun = time.monotonic()
    code = subprocess.run(
        words, env=os.environ | {"EVOLVE_STORE": str(out.parent / "store")}
    ).returncode
    yield f"{name} quick, from an empty store (exit code {code})", time.monotonic() - begun, "s"
    for method, mean in means(out).items():
        yield f"{name} quick, mean accuracy, {method}", mean, ""


def identity(run: Path) -> tuple[str, str]:
    """Scenario and seed of a run's folder."""
    with (run / "descendants.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
        return first["scenario"], first["seed"]


def rows(run: Path) -> dict[tuple[str, ...], float]:
    """Accuracy by (length, method, ..., descendant), of a run's descendants.csv."""
    with (run / "descendants.csv").open(newline="") as file:
        return {
            tuple(row[name] for name in row if name in NAMES): float(row["accuracy"]) / 100
            for row in csv.DictReader(file)
        }


NAMES = ("lineage", "method", "descendant")


def means(run: Path) -> dict[str, float]:
    """Mean accuracy of each method over all its descendants."""
    grouped: dict[str, list[float]] = {}
    for key, accuracy in rows(run).items():
        grouped.setdefault(key[1], []).append(accuracy)
    return {method: statistics.mean(accuracies) for method, accuracies in grouped.items()}


def compared(name: str, ours: Path, theirs: Path) -> Iterator[Row]:
    """The mean of paired differences, with twice its standard error, by method.

    Args:
        name: the scenario's name.
        ours: a run's folder.
        theirs: the other run's folder.
    """
    mine, other = rows(ours), rows(theirs)
    grouped: dict[str, list[float]] = {}
    for key in mine.keys() & other.keys():
        grouped.setdefault(key[1], []).append(100 * (mine[key] - other[key]))
    for method, differences in sorted(grouped.items()):
        error = (
            statistics.stdev(differences) / math.sqrt(len(differences))
            if len(differences) > 1
            else math.nan
        )
        yield (
            f"{name} beside the CPU's, {method}, {len(differences)} pairs",
            f"{statistics.mean(differences):+.2f} ± {2 * error:.2f}",
            "points",
        )
