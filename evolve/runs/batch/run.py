"""A batch's run: the stages of all lineages in one scheduler on one store, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.durable import result_folder
from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.engine.engine import Event, run_stages
from evolve.engine.store import Stage
from evolve.report.compare import Batch, Case
from evolve.runs.run import Place, Run, RunRequest, crew, open_run, prepare_folder

if TYPE_CHECKING:
    from evolve.data.sources import ImageSet


@dataclass(frozen=True, kw_only=True)
class BatchRequest(Place):
    """A batch, as the user asked for it."""

    batch: Batch

    def of(self, case: Case) -> RunRequest:
        """The request of one case; its folder is a run's like any other."""
        place = {f.name: getattr(self, f.name) for f in fields(Place)}
        return RunRequest(
            **{**place, "out": self.out / case.folder}, scenario=case.scenario, seed=case.seed
        )


def default_out(batch: Batch) -> Path:
    """runs/<batch>-<profile>."""
    return Path("runs") / f"{batch.name}-{batch.profile}"


class BatchRun:
    """A batch with its images and store at hand: one :class:`evolve.runs.run.Run` a case.

    Attributes:
        runs: case folder -> case and run.
    """

    def __init__(self, request: BatchRequest, notice: Callable[[str], None]) -> None:
        self.request = request
        self.runs: dict[str, tuple[Case, Run]] = {}
        images: dict[DataSettings, ImageSet] = {}
        for case in request.batch.cases:
            try:
                self.runs[case.folder] = case, open_run(request.of(case), notice, images)
            except UserError as error:
                raise UserError(
                    f"{request.batch.origin}, case {case.name!r}, seed {case.seed}: {error}"
                ) from None
        self._share_records()

    def _share_records(self) -> None:
        """Cases have most stages in common: each result is read once."""
        first, *others = self.lineages
        for run in others:
            run.results = first.results

    @property
    def lineages(self) -> list[Run]:
        """The cases' runs; what they share, such as the store, is the first one's."""
        return [run for _, run in self.runs.values()]

    def stages(self) -> list[Stage]:
        """Every case's stages that can be named now, each once.

        A stage is labelled with the first case that needs it.
        """
        named: dict[str, Stage] = {}
        for folder, (_, run) in self.runs.items():
            for stage in run.stages():
                if stage.key not in named:
                    named[stage.key] = stage.labelled(f"{folder}: {stage.label}")
        return list(named.values())

    def context(self) -> dict[str, Any]:
        """What the engine's workers need to load any case's images."""
        return {
            **self.lineages[0].context,
            "data": {run.world.data: run.context["data"] for run in self.lineages},
        }

    def owners(self) -> Mapping[str, list[str]]:
        """Stage key -> the folders of the cases that need it."""
        folders: dict[str, list[str]] = {}
        for folder, (_, run) in self.runs.items():
            for stage in run.stages():
                folders.setdefault(stage.key, []).append(folder)
        return folders

    def prepare(self, argv: list[str]) -> None:
        """Prepare every case's run folder.

        Args:
            argv: the words of the command line.

        Raises:
            UserError: a folder holds another run.
        """
        for run in self.lineages:
            result_folder(run.request.out, "--out")
            prepare_folder(run, argv)

    def compute(self, events: Callable[[Event], None]) -> dict[str, str]:
        """Compute what is missing.

        Args:
            events: takes the engine's events.

        Returns:
            Key -> one line, of the stages that failed.
        """
        first = self.lineages[0]
        workers = crew(first.request, self.lineages)
        return run_stages(
            self.stages,
            first.store.root,
            "evolve.lineage.perform:perform_stage",
            self.context(),
            workers,
            events,
            keep_going=True,
        )
