"""Executes a batch: all lineages' stages as one scheduler on one store, each computed once, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.engine.engine import Event, run_stages
from evolve.engine.store import Stage
from evolve.report.compare import Batch, Case
from evolve.runs.opened import Opened, Order, Place, crew, open_run, prepare_folder

if TYPE_CHECKING:
    from evolve.data.sources import ImageSet


@dataclass(frozen=True, kw_only=True)
class BatchOrder(Place):
    """A batch, as the user asked for it."""

    batch: Batch

    def of(self, case: Case) -> Order:
        """One case's run; its folder is a run like any other."""
        place = {f.name: getattr(self, f.name) for f in fields(Place)}
        return Order(
            **{**place, "out": self.out / case.folder}, scenario=case.scenario, seed=case.seed
        )


def default_out(batch: Batch) -> Path:
    """runs/<batch>-<profile>."""
    return Path("runs") / f"{batch.name}-{batch.profile}"


class OpenBatch:
    """A batch with its images and store at hand: one :class:`evolve.runs.opened.Opened` a case. ``count``: distinct stages, as last named."""

    def __init__(self, order: BatchOrder, notice: Callable[[str], None]) -> None:
        self.order, self.count = order, 0
        self.runs: dict[str, tuple[Case, Opened]] = {}
        images: dict[DataSettings, ImageSet] = {}
        for case in order.batch.cases:
            try:
                self.runs[case.folder] = case, open_run(order.of(case), notice, images)
            except UserError as error:
                raise UserError(
                    f"{order.batch.origin}, case {case.name!r}, seed {case.seed}: {error}"
                ) from None
        self._share_records()

    def _share_records(self) -> None:
        """Cases have most stages in common: each result is read once."""
        first, *others = self.lineages
        for one in others:
            one.results = first.results

    @property
    def lineages(self) -> list[Opened]:
        """The cases' runs; what they share, such as the store, is the first one's."""
        return [one for _, one in self.runs.values()]

    def stages(self) -> list[Stage]:
        """Every case's stages that can be named now, each once, under the name of the first case that needs it."""
        named: dict[str, Stage] = {}
        for folder, (_, opened) in self.runs.items():
            for stage in opened.stages():
                if stage.key not in named:
                    named[stage.key] = stage.labelled(f"{folder}: {stage.label}")
        self.count = len(named)
        return list(named.values())

    def context(self) -> dict[str, Any]:
        """What perform needs to find any case's images."""
        return {
            **self.lineages[0].context,
            "data": {one.world.data: one.context["data"] for one in self.lineages},
        }

    def owners(self) -> Mapping[str, list[str]]:
        """Stage key -> the folders of the cases that need it."""
        found: dict[str, list[str]] = {}
        for folder, (_, opened) in self.runs.items():
            for stage in opened.stages():
                found.setdefault(stage.key, []).append(folder)
        return found

    def prepare(self, argv: list[str]) -> None:
        """Every case's run folder. UserError where one holds another run."""
        for one in self.lineages:
            one.order.out.mkdir(parents=True, exist_ok=True)
            prepare_folder(one, argv)

    def run(self, events: Callable[[Event], None]) -> dict[str, str]:
        """Compute what is missing; {key: one line} of the stages that failed."""
        first = self.lineages[0]
        workers = crew(first.order, self.lineages)
        return run_stages(
            self.stages,
            first.store.root,
            "evolve.lineage.perform:perform_stage",
            self.context(),
            workers,
            events,
            keep_going=True,
        )
