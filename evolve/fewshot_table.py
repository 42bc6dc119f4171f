"""Table III: every few-shot learner's accuracy over the downstream tasks, beside the descendants of the last generation on the same tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.curves import Descent, Interval, LineageRecord, differences, evolved, pooled_interval

INHERITED = "inherited"


@dataclass(frozen=True)
class Line:
    """One method over all tasks of all seeds. ``accuracy`` is a fraction; ``behind``: inherited minus this method, paired by task, None where
    nothing has been inherited yet or for the inherited descendants themselves.
    """

    method: str
    accuracy: Interval
    behind: Interval | None
    lineage: int | None  # the generation that ``behind`` compares with


def table(records: Sequence[LineageRecord]) -> list[Line]:
    """The learners that all seeds have measured, after the last generation's inherited descendants; nothing without a learner."""
    learners = [one.method for one in records[0].fewshot if all(_find(record, one.method) for record in records)] if records else []
    last = [evolved(record)[-1] for record in records if evolved(record)]
    lineage = last[0].lineage if len(last) == len(records) and len({g.lineage for g in last}) == 1 else None
    lines = [_line(name, records, lineage) for name in learners]
    if not lines or lineage is None:
        return lines
    own = pooled_interval([np.array(g.inherited.accuracy) for g in last])
    return [Line(INHERITED, own, None, lineage), *lines]


def rows(records: Sequence[LineageRecord]) -> Iterator[dict[str, object]]:
    """The table for a CSV file; fractions."""
    for line in table(records):
        row: dict[str, object] = {"scenario": records[0].scenario, "profile": records[0].profile}
        row |= {"seeds": " ".join(str(record.seed) for record in records), "method": line.method, "tasks": line.accuracy.n}
        row |= {"mean": line.accuracy.mean, "low": line.accuracy.low, "high": line.accuracy.high, "lineage": line.lineage}
        behind = line.behind
        row |= {"inherited_minus": behind.mean, "minus_low": behind.low, "minus_high": behind.high} if behind else {"inherited_minus": None}
        yield row


def sentences(records: Sequence[LineageRecord]) -> list[str]:
    """A line a method, in percent and points."""
    return [_sentence(line) for line in table(records)]


def _sentence(line: Line) -> str:
    text = f"{line.method}: {_percent(line.accuracy)} % over {line.accuracy.n} tasks"
    if line.behind is not None:
        text += f"; inherited (lineage {line.lineage}) minus it: {_percent(line.behind, '+')} points"
    return text


def _percent(interval: Interval, sign: str = "") -> str:
    half = f" ± {100 * interval.half:.2f}" if np.isfinite(interval.half) else ""
    return f"{100 * interval.mean:{sign}.2f}{half}"


def _find(record: LineageRecord, method: str) -> Descent | None:
    return next((one for one in record.fewshot if one.method == method), None)


def _line(method: str, records: Sequence[LineageRecord], lineage: int | None) -> Line:
    found = [one for record in records if (one := _find(record, method))]
    accuracy = pooled_interval([np.array(one.accuracy) for one in found])
    if lineage is None:
        return Line(method, accuracy, None, None)
    pairs = [np.array(differences(evolved(record)[-1].inherited, one)) for record, one in zip(records, found, strict=True)]
    return Line(method, accuracy, pooled_interval(pairs), lineage)

