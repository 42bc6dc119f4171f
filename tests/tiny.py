"""The tests' small lineages: one scenario of glyphs, and how it is run.

A test changes the scenario where it is about something else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.engine.engine import run_stages
from evolve.lineage import scenario
from evolve.report.curves import LineageRecord
from evolve.runs.run import Run, RunRequest, open_run, run_record

PERFORM = "evolve.lineage.perform:perform_stage"
SETTINGS: dict[str, Any] = {
    "data.source": "glyphs",
    "data.size": 16,
    "data.split": [12, 4, 8],
    "data.glyph_train": 12,
    "data.glyph_test": 6,
    "stream.tasks": 2,
    "stream.classes_per_task": 3,
    "ancestor.width": 0.0625,
    "ancestor.epochs": 1,
    "ancestor.batch": 8,
    "condense.epochs": 1,
    "condense.batch": 8,
    "condense.meta_batch": 8,
    "descend.descendants": 2,
    "descend.classes_per_task": 3,
    "descend.shots": 6,
    "descend.epochs": 1,
}
NO_CONTROLS = {"controls.shuffled": 0, "controls.from_scratch": False}


def toml(changes: Mapping[str, Any] | None = None) -> str:
    """The tiny scenario as a file's text, or as the lines below a batch's [set].

    Args:
        changes: Settings to add or replace, such as {"stream.tasks": 3}.
    """
    return "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in {**SETTINGS, **(changes or {})}.items()
    )


def opened(file: Path, out: Path, store: Path, *overrides: str, seed: int = 0) -> Run:
    """The lineage of the scenario in ``file``, with SECTION.KEY=VALUE ``overrides``."""
    chosen = scenario.load(str(file), "paper", overrides)
    return open_run(
        RunRequest(out, store, device="cpu", scenario=chosen, seed=seed), lambda text: None
    )


def computed(run: Run) -> LineageRecord:
    """Compute what is missing of ``run``, in this process."""
    run_stages(run.stages, run.store.root, PERFORM, run.context, 0, lambda event: None)
    return run_record(run)


def rows(run: Path, name: str = "generations.csv") -> list[dict[str, str]]:
    """A table of the run in folder ``run``."""
    with open(run / name, newline="") as file:
        return list(csv.DictReader(file))
