"""Which experiment trackers a run is shown to, and as what."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evolve.core.durable import canonical
from evolve.core.terminal import tell
from evolve.report.curves import LineageRecord
from evolve.report.trackers.tracker import Make, Origin, Tracker
from evolve.runs.folder import read_run

MOVES = ("store", "data_dir")  # what may change while a run stays the same


def open_trackers(
    names: Sequence[str],
    record: LineageRecord,
    out: Path,
    group: str,
    warn: Callable[[str], None],
    labels: Mapping[str, Any] = {},
) -> list[Tracker]:
    """Open trackers of a run; what is measured already is written at once.

    Args:
        names: of evolve.core.words.TRACKERS.
        record: what is measured.
        out: the run's folder, with its run.json.
        group: what the tracker calls the lineage.
        warn: takes a line about one that fails.
        labels: stand among the settings.
    """
    origin = Origin(run_key(out), group, out, labels) if names else None
    return [Tracker(name, sink(name), record, origin, warn) for name in names if origin]


def run_key(out: Path) -> str:
    """A name of the run in a folder, which it keeps when it goes on or moves.

    Args:
        out: the run's folder, with its run.json.
    """
    facts = {name: value for name, value in read_run(out).items() if name not in MOVES}
    return hashlib.sha256(canonical(facts).encode()).hexdigest()[:16]


def say_where(name: str, where: str | None) -> None:
    """Print what shows the runs in a tracker; nothing where it failed."""
    if where:
        tell(f"{name:<12} {where}")


def sink(name: str) -> Make:
    """What opens a tracker.

    Nothing is sent anywhere, errors and usage included, unless the user's variables say so.

    Args:
        name: of evolve.core.words.TRACKERS. Its package is there.
    """
    if name == "wandb":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        from evolve.report.trackers.wandb_runs import WandbRuns

        return WandbRuns
    from evolve.report.trackers.mlflow_runs import MlflowRuns

    return MlflowRuns
