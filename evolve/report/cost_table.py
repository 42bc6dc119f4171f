"""What the choice of the learngene costs, method by method (paper, appendix A.2).

CPU seconds of a lineage up to its last learngene: the ancestor's tasks, the gradient statistics
that only Heur-Learngene reads, and the condensations. All are those of the stages themselves, so
methods on one ancestor are compared within one run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolve.core.spent import duration
from evolve.report.compare import Case
from evolve.report.page.section import Spent

HEADS = ("condenser", "lineages", "ancestor", "gradient statistics", "condensations", "together")
STATISTICS = "gradient statistics"
READS = "gradient"  # the method that needs them


@dataclass(frozen=True)
class Cost:
    """One case: CPU seconds a lineage, mean over its seeds.

    Attributes:
        name: the case's.
        lineages: how many.
        ancestor: learning the tasks, without counting gradients.
        statistics: counting gradients; 0 where the method does not read them.
        condense: all condensations of the lineage.
        least: they are lower bounds, as a stage was resumed.
    """

    name: str
    lineages: int
    ancestor: float
    statistics: float
    condense: float
    least: bool

    @property
    def total(self) -> float:
        """All that the lineage's learngenes took."""
        return self.ancestor + self.statistics + self.condense


def costs(lineages: Iterable[tuple[Case, Mapping[str, Spent]]]) -> list[Cost]:
    """What each case's learngenes took.

    Args:
        lineages: cases with what their finished stages took, by stage key.

    Returns:
        A row a case, in their order.
    """
    named: dict[str, list[tuple[Case, Mapping[str, Spent]]]] = {}
    for case, spent in lineages:
        if any(stage.kind == "condense" for stage in spent.values()):
            named.setdefault(case.name, []).append((case, spent))
    return [_cost(name, held) for name, held in named.items()]


def _cost(name: str, lineages: Sequence[tuple[Case, Mapping[str, Spent]]]) -> Cost:
    stages = [stage for _, spent in lineages for stage in spent.values()]
    reads = lineages[0][0].scenario.settings.condense.method == READS
    counted = math.fsum(stage.parts.get(STATISTICS, 0.0) for stage in stages)
    cpu = {
        kind: math.fsum(stage.cpu for stage in stages if stage.kind == kind)
        for kind in ("accumulate", "condense")
    }
    n = len(lineages)
    return Cost(
        name,
        n,
        (cpu["accumulate"] - counted) / n,
        counted / n if reads else 0.0,
        cpu["condense"] / n,
        any(stage.resumed for stage in stages if stage.kind in cpu),
    )


def cost_rows(table: Sequence[Cost]) -> Iterator[dict[str, Any]]:
    """The table for a CSV file, in CPU seconds a lineage."""
    for row in table:
        yield {
            "condenser": row.name,
            "lineages": row.lineages,
            "ancestor": row.ancestor,
            "gradient_statistics": row.statistics,
            "condensations": row.condense,
            "together": row.total,
            "lower_bound": int(row.least),
        }


def cost_markdown(table: Sequence[Cost]) -> str:
    """The table in Markdown, times as a person says them."""
    lines = [HEADS, ("---",) * len(HEADS), *map(_cells, table)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(row: Cost) -> tuple[str, ...]:
    parts = (row.ancestor, row.statistics, row.condense, row.total)
    bound = "≥ " if row.least else ""
    name = row.name.replace("|", r"\|")
    return (name, str(row.lineages), *(bound + _time(seconds) for seconds in parts))


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 or seconds == 0 else f"{seconds:.2g} s"
