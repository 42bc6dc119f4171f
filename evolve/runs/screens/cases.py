"""What a batch's cases have measured so far: the rows of its table in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolve.lineage.collect import generation
from evolve.lineage.lineage import places
from evolve.lineage.schedule import measured
from evolve.report.compare import METRICS, Case, task_means
from evolve.report.curves import Generation, LineageRecord, pooled_interval
from evolve.runs.run import Run

HEADINGS = ("case", "lineages", "lengths", "accuracy %", "gain (points)")


@dataclass(frozen=True)
class Row:
    """One case, its seeds pooled.

    Attributes:
        lineages: finished, and how many there are.
        lengths: measured lineage lengths of all of them, and how many there will be.
        accuracy: in % with its interval, as the batch's table pools it; "" where none is measured.
        gain: over from-scratch, in points.
        failed: lineages that cannot be finished.
    """

    name: str
    lineages: tuple[int, int]
    lengths: tuple[int, int]
    accuracy: str = ""
    gain: str = ""
    failed: int = 0

    @property
    def cells(self) -> tuple[str, ...]:
        """The row under HEADINGS."""
        counts = ("/".join(map(str, pair)) for pair in (self.lineages, self.lengths))
        name = f"({self.failed} failed) {self.name}" if self.failed else self.name
        return (name, *counts, self.accuracy or "-", self.gain or "-")


class Cases:
    """The rows of a batch, from what the store holds. It looks only at lineages that changed.

    A row is a case with its seeds; of a batch with a single case it is a seed.
    """

    def __init__(self, runs: Sequence[tuple[Case, Run]]) -> None:
        self.runs = runs
        self.failed: set[int] = set()  # places in ``runs``
        self.changed: set[int] = set(range(len(runs)))  # those to look at
        self.alone = len({case.name for case, _ in runs}) == 1
        self._measured: list[dict[int, Generation]] = [{} for _ in runs]
        self._wanted = [len(measured(run.world.settings)) for _, run in runs]
        self._mine: dict[str, list[int]] = {}
        for number in range(len(runs)):
            self._mine.setdefault(self._name(number), []).append(number)
        self.rows = {name: self._row(name, mine) for name, mine in self._mine.items()}
        self.total = self._total()
        self.last = list(reversed(self.rows))  # the one that changed last at the end

    def look(self) -> list[Row]:
        """Look at the lineages that changed.

        Returns:
            The rows that are others now.
        """
        names = dict.fromkeys(self._name(number) for number in sorted(self.changed))
        while self.changed:
            self._collect(self.changed.pop())
        rows = [self._row(name, self._mine[name]) for name in names]
        others = [row for row in rows if row != self.rows[row.name]]
        for row in others:
            self.rows[row.name] = row
            self.last.remove(row.name)
            self.last.append(row.name)
        self.total = self._total()
        return others

    def fail(self, numbers: Iterable[int]) -> None:
        """These lineages, places in ``runs``, cannot be finished."""
        self.failed.update(numbers)
        self.changed.update(numbers)

    @property
    def unfinished(self) -> list[int]:
        """The places of lineages of which something is to be measured."""
        return [n for n, points in enumerate(self._measured) if len(points) < self._wanted[n]]

    def shown(self, most: int) -> list[Row]:
        """The rows that changed last, in the batch's order."""
        names = set(self.last[-most:])
        return [row for name, row in self.rows.items() if name in names]

    def _total(self) -> Row:
        """All rows as one; the seeds of one case also have a mean."""
        rows = self.rows.values()
        if self.alone:
            return self._row(f"all {len(rows)} seeds", range(len(self.runs)))
        lineages, lengths = _sum(row.lineages for row in rows), _sum(row.lengths for row in rows)
        return Row(f"all {len(rows)} cases", lineages, lengths, failed=len(self.failed))

    def _name(self, number: int) -> str:
        case = self.runs[number][0]
        return f"seed {case.seed}" if self.alone else case.name

    def _collect(self, number: int) -> None:
        """Read the generations of a lineage that have become complete."""
        run, points = self.runs[number][1], self._measured[number]
        stages = places(run.world, run.peek)
        for length in measured(run.world.settings):
            complete = None if length in points else generation(run.world, length, stages, run.peek)
            if complete is not None:
                points[length] = complete

    def _row(self, name: str, mine: Sequence[int]) -> Row:
        counts = [len(self._measured[number]) for number in mine]
        wanted = [self._wanted[number] for number in mine]
        finished = sum(count == all_of for count, all_of in zip(counts, wanted, strict=True))
        records = [(self.runs[number][0], self._record(number)) for number in mine]
        return Row(
            name,
            (finished, len(mine)),
            (sum(counts), sum(wanted)),
            accuracy=_interval(records, "accuracy", ""),
            gain=_interval(records, "gain", "+"),
            failed=len(self.failed.intersection(mine)),
        )

    def _record(self, number: int) -> LineageRecord:
        case, run = self.runs[number]
        generations = tuple(g for _, g in sorted(self._measured[number].items()))
        tasks = run.world.settings.stream.tasks
        return LineageRecord(case.name, "", case.seed, tasks, generations=generations)


def _sum(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*pairs, strict=True)
    return sum(first), sum(second)


def _interval(records: Iterable[tuple[Case, LineageRecord]], metric: str, sign: str) -> str:
    """The mean with half its 95 % interval, as the batch's table has it; "" where there is none."""
    groups = list(task_means(records, METRICS[metric]).values())
    if not groups:
        return ""
    pooled = pooled_interval(groups)
    half = f" ± {pooled.half:.1f}" if pooled.half == pooled.half else ""
    return f"{pooled.mean:{sign}.1f}{half}"
