"""Reads the folders of runs and batches and what their stores hold, and writes the page about them."""

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
from evolve.report.page.section import Line, Section, Spent
from evolve.report.page.write import write_page
from evolve.runs.batch_folder import BATCH_FILE, is_batch, read_batch_file
from evolve.runs.folder import RUN_FILE, again_command, read_run
from evolve.runs.opened import Opened, order_from_run, run_record


@dataclass
class Reader:
    """Reads folders; every result of a store is read once, however many lineages share it."""

    store: Path | None = None
    stores: dict[Path, tuple[Store, dict[str, Result]]] = field(default_factory=dict)

    def sections(self, folders: Sequence[Path]) -> list[Section]:
        """One section a batch, in the order given, then one for each set of runs that can be pooled. Raises UserError for other folders."""
        found, runs = [], []
        for folder in dict.fromkeys(folders):
            if is_batch(folder):
                found.append(self._batch(folder))
            elif (folder / RUN_FILE).is_file():
                runs.append(folder)
            else:
                raise UserError(
                    f"{folder}: neither a run's folder ({RUN_FILE}) nor a batch's ({BATCH_FILE}); give one that `evolve run` or `evolve batch` made"
                )
        return found + self._runs(runs)

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
                f"{lines[0].record.scenario} ({lines[0].record.profile})",
                tuple(sorted(lines, key=lambda one: one.case.seed)),
            )
            for lines in groups.values()
        ]

    def _line(self, folder: Path, case: Case | None = None) -> Line:
        opened = self._opened(folder)
        facts = read_run(folder)
        record = run_record(opened)
        case = case or Case(
            record.scenario, record.seed, record.scenario, (), {}, opened.order.scenario
        )
        draws = method(case.scenario.settings.condense.method).draws
        return Line(case, folder, record, _took(opened), facts, again_command(folder, facts), draws)

    def _opened(self, folder: Path) -> Opened:
        """The run with its store, without its images."""
        order = order_from_run(folder, None, self.store, "auto", 0)
        world = world_of(read_run(folder), str(folder / RUN_FILE))
        root = order.store.resolve()
        if root not in self.stores:
            self.stores[root] = Store(root), {}
        store, results = self.stores[root]
        return Opened(order, world, store, {}, results)


def _took(opened: Opened) -> dict[str, Spent]:
    """What the lineage's finished stages took."""
    return {
        stage.key: _spent(opened.results[stage.key])
        for stage in opened.stages()
        if opened.peek(stage.key) is not None
    }


def _spent(result: Result) -> Spent:
    made, kind = result.manifest["provenance"], result.manifest["kind"]
    took, maker = (
        made["spent"],
        f"evolve {made['evolve']}, torch {made['torch']} on {made['device']}",
    )
    return Spent(kind, took["seconds"], took["cpu_seconds"], took["resumed"], maker)


def write_report(folders: Sequence[Path], out: Path, store: Path | None = None) -> Path:
    """Write the page about ``folders`` (runs and batches) to ``out``.

    Raises UserError for another folder, where nothing has been measured yet, and where the file cannot be written.
    """
    sections = Reader(store).sections(folders)
    if not any(section.measured for section in sections):
        raise UserError(
            f"{folders[0]}: no generation has been measured yet: repeat the command that made it, or give its store with --store"
        )
    return write_page(sections, out)
