"""Table III: every few-shot learner's accuracy over the downstream tasks.

Beside the learners stand the descendants of the last generation on the same tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evolve.report.curves import (
    Descent,
    Interval,
    LineageRecord,
    differences,
    evolved,
    percent,
    pooled_interval,
)

INHERITED = "inherited"


@dataclass(frozen=True)
class Line:
    """One method over all tasks of all seeds.

    Attributes:
        accuracy: a fraction.
        behind: inherited minus this method, paired by task. None where nothing has been inherited
            yet, for the inherited descendants themselves, or where the method diverged.
    """

    method: str
    accuracy: Interval
    behind: Interval | None
    lineage: int | None  # the generation that ``behind`` compares with
    backbone: str = ""  # the network's architecture, of several seeds every one
    # ``behind`` compares with another architecture's descendants: the condenser chose other layers.
    others: bool = False
    trouble: str = ""  # "diverged (...)": then ``accuracy`` is chance


def table(records: Sequence[LineageRecord]) -> list[Line]:
    """The learners that all seeds have measured, after the last generation's descendants.

    Args:
        records: lineages of one scenario that differ in their seed.

    Returns:
        A line a method; nothing without a learner.
    """
    learners = (
        [
            learner.method
            for learner in records[0].fewshot
            if all(_find(record, learner.method) for record in records)
        ]
        if records
        else []
    )
    last = [evolved(record)[-1] for record in records if evolved(record)]
    lineage = (
        last[0].lineage
        if len(last) == len(records) and len({g.lineage for g in last}) == 1
        else None
    )
    lines = [_line(name, records, lineage) for name in learners]
    if not lines or lineage is None:
        return lines
    own = pooled_interval([np.array(g.inherited.accuracy) for g in last])
    return [Line(INHERITED, own, None, lineage, _joined(bare(g.descendant) for g in last)), *lines]


def _percents(i: Interval) -> tuple[float, ...]:
    return tuple(map(percent, (i.mean, i.low, i.high)))


def rows(records: Sequence[LineageRecord]) -> Iterator[dict[str, object]]:
    """The table for a CSV file; accuracies in %, differences in points."""
    for line in table(records):
        row: dict[str, object] = {"scenario": records[0].scenario, "profile": records[0].profile}
        row |= {
            "seeds": " ".join(str(record.seed) for record in records),
            "method": line.method,
            "tasks": line.accuracy.n,
        }
        accuracy, behind = None if line.trouble else line.accuracy, line.behind
        row |= (
            dict(zip(("mean", "low", "high"), _percents(accuracy), strict=True))
            if accuracy
            else {"mean": None, "low": None, "high": None}
        )
        row |= {"lineage": line.lineage}
        row |= (
            dict(
                zip(("inherited_minus", "minus_low", "minus_high"), _percents(behind), strict=True)
            )
            if behind
            else {"inherited_minus": None}
        )
        yield row | {
            "backbone": line.backbone,
            "same_backbone": None if behind is None else not line.others,
            "note": line.trouble,
        }


def sentences(records: Sequence[LineageRecord]) -> list[str]:
    """The table in words, in percent and points.

    Args:
        records: lineages of one scenario that differ in their seed.

    Returns:
        A line a method. Where the architectures behind the differences differ, they end the list.
    """
    lines = table(records)
    return [*(_sentence(line) for line in lines), *filter(None, [architectures(lines)])]


def _sentence(line: Line) -> str:
    if line.trouble:
        return f"{line.method}: {line.trouble}"
    text = f"{line.method}: {line.accuracy.percent()} % over {line.accuracy.n} tasks"
    if line.behind is not None:
        text += f"; inherited (lineage {line.lineage}) minus it: {line.behind.percent('+')} points"
    return text


def architectures(lines: Sequence[Line]) -> str:
    """Which architectures a table compares, where learners and descendants differ in them.

    Else nothing.
    """
    others = list(dict.fromkeys(line.backbone for line in lines if line.others))
    if not others:
        return ""
    return (
        f"the architectures differ: learners {', '.join(others)}; inherited {lines[0].backbone} "
        "(the condenser's choice)"
    )


def bare(description: str) -> str:
    """An architecture's description without the marks of what is inherited."""
    return description.replace("*", "")


def _joined(descriptions: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(filter(None, descriptions)))


def _find(record: LineageRecord, method: str) -> Descent | None:
    return next((learner for learner in record.fewshot if learner.method == method), None)


def _line(method: str, records: Sequence[LineageRecord], lineage: int | None) -> Line:
    learners = [learner for record in records if (learner := _find(record, method))]
    accuracy = pooled_interval([np.array(learner.accuracy) for learner in learners])
    backbone, diverged = (
        _joined(bare(learner.backbone) for learner in learners),
        sum(learner.diverged for learner in learners),
    )
    if diverged:
        where = f" in {diverged} of {len(learners)} seeds" if len(learners) > 1 else ""
        return Line(
            method, accuracy, None, lineage, backbone, trouble=f"diverged (loss not finite){where}"
        )
    if lineage is None:
        return Line(method, accuracy, None, None, backbone)
    pairs = list(zip((evolved(record)[-1] for record in records), learners, strict=True))
    behind = pooled_interval([np.array(differences(g.inherited, learner)) for g, learner in pairs])
    others = any(
        learner.backbone and bare(g.descendant) != bare(learner.backbone) for g, learner in pairs
    )
    return Line(method, accuracy, behind, lineage, backbone, others)
