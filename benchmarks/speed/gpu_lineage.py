"""The last part of :mod:`gpu`: whole quick lineages by `evolve run`, and their curves beside a CPU's."""

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

TINY = ("stream.tasks=1", "stream.measure=[1]", "stream.images_per_class=8", "ancestor.width=0.0625", "ancestor.epochs=1")
TINY += ("condense.images_per_class=12", "condense.epochs=1", "descend.descendants=2", "descend.epochs=1", "controls.draws=1")


def lineages(plan: Plan) -> Iterator[Row]:
    """Wall time of the quick lineages; the glyphs' accuracies minus those of the run ``beside``, paired descendant by descendant."""
    with tempfile.TemporaryDirectory(prefix="evolve-gpu-") as folder:
        scratch = Path(folder)
        yield from _run(scratch, plan, "glyphs-seq25", [])
        if plan.beside is not None:
            yield from compared(scratch / "glyphs-seq25", plan.beside)
        if plan.data is not None:
            yield from _run(scratch, plan, "cifar-seq25", ["--data", str(plan.data)])


def _run(scratch: Path, plan: Plan, name: str, more: list[str]) -> Iterator[Row]:
    device = "cpu" if plan.rehearse else "cuda"
    out, tiny = scratch / name, [word for setting in TINY if plan.rehearse for word in ("--set", setting)]
    words = [sys.executable, "-m", "evolve.cli", "run", "--scenario", name, "--profile", "quick", "--device", device, "--out", str(out), *more, *tiny]
    begun = time.monotonic()
    code = subprocess.run(words, env=os.environ | {"EVOLVE_STORE": str(scratch / "store")}).returncode
    yield f"{name} quick, from an empty store (exit code {code})", time.monotonic() - begun, "s"
    for method, mean in means(out).items():
        yield f"{name} quick, mean accuracy, {method}", mean, ""


def rows(run: Path) -> dict[tuple[str, ...], float]:
    """Accuracy by (length, method, ..., descendant), of a run's descendants.csv."""
    with (run / "descendants.csv").open(newline="") as file:
        return {tuple(row[name] for name in row if name in NAMES): float(row["accuracy"]) for row in csv.DictReader(file)}


NAMES = ("lineage", "method", "descendant")


def means(run: Path) -> dict[str, float]:
    """Mean accuracy of each method over all its descendants."""
    grouped: dict[str, list[float]] = {}
    for key, accuracy in rows(run).items():
        grouped.setdefault(key[1], []).append(accuracy)
    return {method: statistics.mean(found) for method, found in grouped.items()}


def compared(ours: Path, theirs: Path) -> Iterator[Row]:
    """The mean of paired differences, with twice its standard error, by method."""
    mine, other = rows(ours), rows(theirs)
    grouped: dict[str, list[float]] = {}
    for key in mine.keys() & other.keys():
        grouped.setdefault(key[1], []).append(100 * (mine[key] - other[key]))
    for method, differences in sorted(grouped.items()):
        error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
        yield f"glyphs-seq25 beside the CPU's, {method}, {len(differences)} pairs", f"{statistics.mean(differences):+.2f} ± {2 * error:.2f}", "points"
