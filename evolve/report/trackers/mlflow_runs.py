"""A lineage's runs in MLflow: the summary, and below it one a method and control.

MLflow names its runs itself. So a tag says whose a run is, and a resumed lineage goes on in those
that have it. Steps that are there are not written again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolve.report.tensorboard import SUMMARY
from evolve.report.trackers.tracker import Origin

MOST_PARAMS = 100  # of one request
TAG, METHOD = "evolve.lineage", "evolve.method"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # who names a folder wants it, though MLflow advises a base
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the run waits: a minute or two, once, not half an hour
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def metric_name(tag: str) -> str:
    """TensorBoard's tag without the signs that MLflow does not take.

    "1 evolution curve/accuracy (%)" becomes "1 evolution curve/accuracy percent".
    """
    return re.sub(r"[^\w\-. :/]", "", tag.replace("%", "percent"))


class MlflowRuns:
    """See :class:`evolve.report.trackers.tracker.Sink`. $MLFLOW_TRACKING_URI says where they go.

    Args:
        origin: which lineage it is.
        config: its settings.
    """

    def __init__(self, origin: Origin, config: Mapping[str, Any]) -> None:
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
        from mlflow.tracking import MlflowClient

        self.origin = origin
        self.config = config
        self.client: Any = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "evolve")
        there = self.client.get_experiment_by_name(name)
        self.experiment = there.experiment_id if there else self.client.create_experiment(name)
        self.runs: dict[str, str] = {}
        self.held: dict[str, set[tuple[str, int]]] = {}  # metric and step by run
        self._run(SUMMARY)
        self.where = f"mlflow ui --backend-store-uri {self.client.tracking_uri}"

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """See :class:`evolve.report.trackers.tracker.Sink`."""
        from mlflow.entities import Metric

        run, now = self._run(name), int(1000 * time.time())
        named = {metric_name(tag): value for tag, value in values.items()}
        metrics = [
            Metric(key, value, now, step)
            for key, value in named.items()
            if (key, step) not in self.held[name]
        ]
        self.client.log_batch(run, metrics=metrics)

    def end(
        self, step: int, values: Mapping[str, float], words: Mapping[str, str], picture: Path
    ) -> None:
        """See :class:`evolve.report.trackers.tracker.Sink`."""
        self.log(SUMMARY, step, values)
        for name, text in words.items():
            self.client.set_tag(self._run(SUMMARY), name, text)
        if picture.is_file():
            self.client.log_artifact(self._run(SUMMARY), str(picture))
        for run in self.runs.values():
            self.client.set_terminated(run)

    def _run(self, name: str) -> str:
        """The identifier of the lineage's run of this name; what it holds is in ``held``."""
        if name not in self.runs:
            tags = {TAG: self.origin.key, METHOD: name}
            query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
            earlier = self.client.search_runs([self.experiment], query, max_results=1)
            if name != SUMMARY:
                tags["mlflow.parentRunId"] = self.runs[SUMMARY]
            run = (
                earlier[0]
                if earlier
                else self.client.create_run(
                    self.experiment, tags=tags, run_name=f"{self.origin.group}/{name}"
                )
            )
            self._begin(name, run)
        return self.runs[name]

    def _begin(self, name: str, run: Any) -> None:
        from mlflow.entities import Param

        number = self.runs[name] = run.info.run_id
        self.client.update_run(number, status="RUNNING")
        self.held[name] = {
            (key, point.step)
            for key in run.data.metrics
            for point in self.client.get_metric_history(number, key)
        }
        params = [Param(key, str(value)) for key, value in self.config.items()]
        for first in range(0, len(params), MOST_PARAMS):
            self.client.log_batch(number, params=params[first : first + MOST_PARAMS])
