"""A lineage's runs in Weights & Biases, one a method and control, grouped.

A run's identifier follows from the run folder's, so a resumed lineage goes on in the same runs. An
offline run knows nothing of an earlier one. It is written anew, and the earlier one's files go.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.report.tensorboard import SUMMARY
from evolve.report.trackers.tracker import Origin

MOST = 128  # characters of a group


class WandbRuns:
    """See :class:`evolve.report.trackers.tracker.Sink`. Offline unless $WANDB_MODE says otherwise.

    Args:
        origin: which lineage it is.
        config: its settings.
    """

    def __init__(self, origin: Origin, config: Mapping[str, Any]) -> None:
        self.origin, self.config = origin, dict(config)
        self.mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.runs: dict[str, Any] = {}
        self.first: dict[str, int] = {}  # steps before it are there already
        for earlier in (origin.folder / "wandb").glob(f"offline-run-*-{origin.key}-*"):
            shutil.rmtree(earlier)
        summary = self._run(SUMMARY)
        offline = f"wandb sync {origin.folder / 'wandb' / 'offline-run-*'}"
        self.where = summary.project_url if self.mode == "online" else offline

    def log(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        """See :class:`evolve.report.trackers.tracker.Sink`."""
        run = self._run(name)
        if step >= self.first[name]:
            run.log(dict(values), step=step)

    def end(
        self, step: int, values: Mapping[str, float], words: Mapping[str, str], picture: Path
    ) -> None:
        """See :class:`evolve.report.trackers.tracker.Sink`."""
        import wandb

        drawn = (
            {"6 pictures/evolution curve": wandb.Image(str(picture))} if picture.is_file() else {}
        )
        self.log(SUMMARY, step, {**values, **drawn})
        self._run(SUMMARY).summary.update(dict(words))
        for run in self.runs.values():
            run.finish()

    def _run(self, name: str) -> Any:
        if name not in self.runs:
            import wandb

            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "evolve"),
                dir=str(self.origin.folder),
                id=f"{self.origin.key}-{name}",
                name=f"{self.origin.group}/{name}",
                group=self.origin.group[:MOST],
                job_type=name,
                config=self.config,
                mode=self.mode,
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
            self.runs[name], self.first[name] = run, run.step
        return self.runs[name]
