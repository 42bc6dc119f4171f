"""What the page tells about: runs' and batches' records, and what their stages took.

It needs no images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from evolve.report.compare import Batch, Case
from evolve.report.compare_tables import varieties
from evolve.report.curves import LineageRecord, Summary
from evolve.report.explain_files import Panel
from evolve.report.pooling import summarise


@dataclass(frozen=True)
class Spent:
    """What a stage took, in seconds; ``parts``: CPU seconds of what was measured by name."""

    kind: str
    seconds: float
    cpu: float
    resumed: bool  # only what was left after an interruption
    maker: str  # version and device that computed it
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One lineage.

    Attributes:
        spent: by stage key, finished stages only.
        facts: its run.json, ``command`` among them.
        again: the command that computes it again.
        draws: whether another seed selects another learngene.
        panels: what `evolve explain` left in its folder.
    """

    case: Case
    folder: Path
    record: LineageRecord
    spent: Mapping[str, Spent]
    facts: Mapping[str, Any]
    again: str
    draws: bool
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Section:
    """A batch, or runs of one scenario that differ in nothing but the seed.

    ``batch`` is None for runs.
    """

    title: str
    lines: tuple[Line, ...]
    batch: BatchFolder | None = None

    @property
    def makers(self) -> list[str]:
        """Versions and devices that computed the results."""
        return sorted({spent.maker for line in self.lines for spent in line.spent.values()})

    @property
    def measured(self) -> list[tuple[Case, LineageRecord]]:
        """Lineages that have measured something, as the comparison takes them."""
        return [(line.case, line.record) for line in self.lines if line.record.generations]

    @cached_property
    def varieties(self) -> dict[str, list[LineageRecord]]:
        """Case name -> its measured lineages by seed: what can be pooled."""
        return varieties(self.measured)

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Case name -> its lineages pooled."""
        return {name: summarise(records) for name, records in self.varieties.items()}


@dataclass(frozen=True)
class BatchFolder:
    """A batch as its folder holds it.

    Attributes:
        command: the words that started it first.
        text: the batch file as it was then.
    """

    batch: Batch
    command: tuple[str, ...]
    versions: Mapping[str, str]
    text: str
