"""Reads the folders of runs and batches and their stores, and writes the page about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evolve.condensers.methods import method
from evolve.core.durable import canonical
from evolve.core.errors import UserError
from evolve.engine.store import Result, Store
from evolve.lineage.world import world_of
from evolve.report.compare import Case
from evolve.report.curves import title
from evolve.report.explain_files import read_panels
from evolve.report.page.section import Line, Section, Spent
from evolve.report.page.write import write_page
from evolve.runs.batch_folder import BATCH_FILE, is_batch, read_batch_file
from evolve.runs.folder import RUN_FILE, again_command, read_run
from evolve.runs.run import Run, request_from_run, run_record


@dataclass
class Reader:
    """Reads folders. Every result of a store is read once, however many lineages share it."""

    store: Path | None = None
    stores: dict[Path, tuple[Store, dict[str, Result]]] = field(default_factory=dict)

    def sections(self, folders: Sequence[Path]) -> list[Section]:
        """The page's sections: one a batch in the order given, then one for each set of runs that
        pool.

        Args:
            folders: folders of runs and batches.

        Raises:
            UserError: a folder is neither.
        """
        batches, runs = [], []
        for folder in dict.fromkeys(folders):
            if is_batch(folder):
                batches.append(self._batch(folder))
            elif (folder / RUN_FILE).is_file():
                runs.append(folder)
            else:
                raise UserError(
                    f"{folder}: neither a run's folder ({RUN_FILE}) nor a batch's ({BATCH_FILE}); "
                    "give one that `evolve run` or `evolve batch` made"
                )
        return batches + self._runs(runs)

    def _batch(self, folder: Path) -> Section:
        held = read_batch_file(folder)
        lines = tuple(self._line(folder / case.folder, case) for case in held.batch.cases)
        return Section(held.batch.title or held.batch.name, lines, held)

    def _runs(self, folders: Sequence[Path]) -> list[Section]:
        groups: dict[str, list[Line]] = {}
        for folder in folders:
            line = self._line(folder)
            record = line.record
            groups.setdefault(
                canonical([record.scenario, record.profile, record.tasks, record.settings]), []
            ).append(line)
        return [
            Section(
                title(
                    first.scenario, first.profile, [line.case.seed for line in lines], first.changes
                ),
                tuple(lines),
            )
            for group in groups.values()
            for lines in [sorted(group, key=lambda line: line.case.seed)]
            for first in [lines[0].record]
        ]

    def _line(self, folder: Path, case: Case | None = None) -> Line:
        run = self.opened(folder)
        facts = read_run(folder)
        record = run_record(run)
        case = case or Case(
            record.scenario, record.seed, record.scenario, (), {}, run.request.scenario
        )
        draws = method(case.scenario.settings.condense.method).draws
        again = again_command(folder, facts)
        return Line(case, folder, record, took(run), facts, again, draws, read_panels(folder))

    def opened(self, folder: Path) -> Run:
        """The run with its store, without its images.

        Args:
            folder: the run's.

        Raises:
            UserError: the folder is no run's, or its store is not there.
        """
        request = request_from_run(folder, None, self.store, "auto", 0)
        world = world_of(read_run(folder), str(folder / RUN_FILE))
        root = request.store.resolve()
        if root not in self.stores:
            self.stores[root] = Store(root), {}
        store, results = self.stores[root]
        return Run(request, world, store, {}, results)


def took(run: Run) -> dict[str, Spent]:
    """What the lineage's finished stages took, by their keys."""
    return {
        stage.key: _spent(run.results[stage.key])
        for stage in run.stages()
        if run.peek(stage.key) is not None
    }


def _spent(result: Result) -> Spent:
    provenance, kind = result.manifest["provenance"], result.manifest["kind"]
    spent, maker = (
        provenance["spent"],
        f"evolve {provenance['evolve']}, torch {provenance['torch']} on {provenance['device']}",
    )
    return Spent(
        kind,
        spent["seconds"],
        spent["cpu_seconds"],
        spent["resumed"],
        maker,
        spent.get("parts", {}),
    )


def report_folders(folders: Sequence[Path], out: Path, store: Path | None = None) -> Path:
    """Write the page about runs and batches.

    Args:
        folders: folders of runs and batches.
        out: the HTML file.
        store: their store; None: the one that each recorded.

    Returns:
        The file.

    Raises:
        UserError: another kind of folder, nothing measured yet, or a file that cannot be written.
    """
    sections = Reader(store).sections(folders)
    if not any(section.measured for section in sections):
        raise UserError(
            f"{folders[0]}: no generation has been measured yet: repeat the command that made it, "
            "or give its store with --store"
        )
    return write_page(sections, out)
