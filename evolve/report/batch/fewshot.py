"""Descendants of a few images beside few-shot learners, and the paper's Table III."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evolve.core.settings import Settings
from evolve.report import fewshot_table
from evolve.report.batch.dots import dots
from evolve.report.batch.figure import BatchFigure, Pair
from evolve.report.batch.sides import (
    Mark,
    Panel,
    compared,
    empty_panels,
    network,
    printed,
    rows,
    tables,
)
from evolve.report.compare import Batch
from evolve.report.curves import Interval

TABLE = "fewshot"
PROTOCOL = "100 tasks, with the knowledge transformation that we leave out (ADR 0007)"
# Learners as the paper's table calls them.
LEARNERS = {
    "matchingnet": "MatchingNet",
    "maml": "MAML",
    "protonet": "ProtoNet",
    "reptile": "Reptile",
    "baseline++": "Baseline++",
    "deepemd": "DeepEMD",
    "protomaml": "ProtoMAML",
    "mtl": "First-order MTL",
    "boil": "BOIL",
}


def fewshot(batch: Batch, measured: Sequence[Pair]) -> BatchFigure:
    """Accuracy of few-shot learners and descendants, a panel a network and number of images.

    Args:
        batch: its methods are the last rows.
        measured: its cases with what they measured; the reference's lineages hold the learners.
    """
    reference = batch.reference or batch.methods[0]
    panels = []
    for panel in empty_panels(measured, _column):
        # the test behind a star knows no learner
        own = (replace(mark, best=False) for mark in compared(TABLE, batch, panel))
        panels.append(replace(panel, marks=(*_learners(panel, reference), *own)))
    named = [*(name for name in batch.methods if name != reference), reference]
    note = f"open diamonds: the paper's protocol ({PROTOCOL}), its ± as printed"
    beside = any(mark.paper for panel in panels for mark in panel.marks)
    return BatchFigure(
        rows(panels),
        tables(panels, reference, PROTOCOL),
        lambda: dots(panels, named, batch.title or batch.name, note if beside else ""),
        " ".join(
            (
                "Accuracy of few-shot learners and of descendants on the same tasks, mean over "
                "seeds and tasks; bars: 95 % interval.",
                *([f"{note[0].upper()}{note[1:]}."] if beside else []),
                *dict.fromkeys(_architectures(panel, reference) for panel in panels),
            )
        ).strip(),
    )


def _column(settings: Settings) -> str:
    return f"{network(settings)}, {settings.descend.shots}-shot"


def _lines(panel: Panel, reference: str) -> list[fewshot_table.Line]:
    mine = (record for case, record in panel.pairs if case.method == reference)
    return fewshot_table.table([record for record in mine if record.generations])


def _learners(panel: Panel, reference: str) -> list[Mark]:
    """The few-shot learners, in the paper's order."""
    lines = {line.method: line for line in _lines(panel, reference)}
    lines.pop(fewshot_table.INHERITED, None)
    order = [
        *(name for name in LEARNERS if name in lines),
        *(name for name in lines if name not in LEARNERS),
    ]
    return [_mark(panel, lines[name]) for name in order]


def _mark(panel: Panel, line: fewshot_table.Line) -> Mark:
    name = LEARNERS.get(line.method, line.method)
    behind = line.behind
    return Mark(
        name,
        _points(line.accuracy),
        _points(behind, -1) if behind else None,
        printed(TABLE, panel, name),
        network=line.backbone,
        trouble="diverged" if line.trouble else "",
    )


def _points(i: Interval, sign: int = 1) -> Interval:
    """Fractions as points; turned round where ``sign`` is -1."""
    low, high = (i.low, i.high) if sign > 0 else (i.high, i.low)
    scale = 100 * sign
    return Interval(scale * i.mean, scale * low, scale * high, i.n)


def _architectures(panel: Panel, reference: str) -> str:
    """Which architectures a panel compares, where the condenser chose another than the paper's."""
    words = fewshot_table.architectures(_lines(panel, reference))
    return f"{panel.column}, {panel.images}: {words}." if words else ""
