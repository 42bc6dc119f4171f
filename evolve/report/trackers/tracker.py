"""What a growing lineage is shown to beside the terminal, and what all trackers have in common.

A tracker gets what TensorBoard gets: the same runs, tags, values and steps. It may be a service
that is away for an hour of a run of days. So its first failure is a line, after which it gets no
more, and nothing that it raises goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from evolve.core.terminal import printable
from evolve.report.curves import Generation, LineageRecord
from evolve.report.settings import flat
from evolve.report.tensorboard import headline, scalars


class Logger(Protocol):
    """Shows a lineage while it grows: TensorBoard's Board, or a Tracker."""

    def add(self, generation: Generation) -> None:
        """Show one more generation."""

    def close(self, record: LineageRecord | None = None) -> None:
        """Show the rest, and what is known at the end only."""


@dataclass(frozen=True)
class Origin:
    """Which lineage it is that a tracker gets.

    Attributes:
        key: names the run folder; the same after a resume.
        group: what the lineage's runs are grouped by, such as the folder's name.
        folder: the run's.
        labels: further entries of the configuration.
    """

    key: str
    group: str
    folder: Path
    labels: Mapping[str, Any]


class Sink(Protocol):
    """A tracker's own side. Anything may be raised; what was written before is not written again.

    Attributes:
        where: a command or address that shows the runs.
    """

    where: str

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """Write values of one step into the run ``name``; steps of a run come in rising order."""

    def end(
        self, step: int, values: Mapping[str, float], words: Mapping[str, str], picture: Path
    ) -> None:
        """End all runs; the summary gets values, words, and the picture if it is there."""


# Makes a sink of the lineage and its configuration.
Make = Callable[[Origin, Mapping[str, Any]], Sink]


class Tracker:
    """Shows a lineage to an experiment tracker.

    Generations are written in the order of their length: one that is ahead waits.

    Args:
        name: the tracker's, of evolve.core.words.TRACKERS.
        make: opens it.
        record: what is measured already.
        origin: which lineage it is.
        warn: takes the line that says that it failed.
    """

    def __init__(
        self,
        name: str,
        make: Make,
        record: LineageRecord,
        origin: Origin,
        warn: Callable[[str], None],
    ) -> None:
        self.name, self.warn, self.origin = name, warn, origin
        self.record = record
        self._known = {g.lineage: g for g in record.generations}
        self._written: set[tuple[str, int]] = set()
        self._sink: Sink | None = None
        self._guarded(lambda: self._open(make))

    @property
    def where(self) -> str | None:
        """What shows the runs; None where the tracker failed."""
        return self._sink.where if self._sink else None

    def add(self, generation: Generation) -> None:
        """Show one more generation, once those before it are there."""
        self._known[generation.lineage] = generation
        self._guarded(lambda: self._write(self._ready()))

    def close(self, record: LineageRecord | None = None) -> None:
        """Show the rest, the headline, the verdict in words, and the evolution curve's picture.

        Args:
            record: what was measured in the end; None: what was known at first and added.
        """
        if record is not None:
            self.record = record
            self._known |= {g.lineage: g for g in record.generations}
        self._guarded(self._end)

    def _open(self, make: Make) -> None:
        r = self.record
        where = {"scenario": r.scenario, "profile": r.profile, "seed": r.seed}
        self._sink = make(self.origin, {**flat(r.settings), **where, **self.origin.labels})
        self._write(self._ready())

    def _ready(self) -> Iterable[Generation]:
        """The known generations before the first gap."""
        for length in self.record.lengths or range(1, self.record.tasks + 1):
            if length not in self._known:
                return
            yield self._known[length]

    def _write(self, generations: Iterable[Generation]) -> None:
        for g in generations:
            for name, values in scalars(g, self.record.reference).items():
                if self._sink is not None and values and (name, g.lineage) not in self._written:
                    self._sink.log(name, g.lineage, values)
                    self._written.add((name, g.lineage))

    def _end(self) -> None:
        generations = tuple(g for _, g in sorted(self._known.items()))
        self._write(generations)
        values, words = headline(replace(self.record, generations=generations))
        if self._sink is not None:
            last = generations[-1].lineage if generations else 0
            text = {"verdict": " ".join(words)} if words else {}
            self._sink.end(last, values, text, self.origin.folder / "curve.png")

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a service, its client or its disk comes up with
            self._sink = None
            reason = printable(str(error).strip().split("\n")[0] or type(error).__name__)[:300]
            self.warn(
                f"--log {self.name} failed and gets no more; the run goes on. The same command "
                f"writes all of it again ({reason})"
            )
