"""How descendants begin, by network and images, beside the paper's Table II."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evolve.report.batch.dots import dots
from evolve.report.batch.figure import BatchFigure, Pair
from evolve.report.batch.sides import compared, empty_panels, network, rows, tables
from evolve.report.compare import Batch

TABLE = "initialisations"
PROTOCOL = "500 images a class, 50 epochs, mean of five descendants, no interval"


def initialisations(batch: Batch, measured: Sequence[Pair]) -> BatchFigure:
    """Accuracy by initialisation, a panel a network and set of images (paper, Table II).

    Args:
        batch: its methods and controls are the rows, the ancestors and images the columns.
        measured: its cases with what they measured.
    """
    reference = batch.reference or batch.methods[0]
    panels = [
        replace(panel, marks=tuple(compared(TABLE, batch, panel)))
        for panel in empty_panels(measured, network)
    ]
    named = [*(name for name in batch.methods if name != reference), reference]
    note = f"open diamonds: the paper's protocol ({PROTOCOL})"
    beside = any(mark.paper for panel in panels for mark in panel.marks)
    return BatchFigure(
        rows(panels),
        tables(panels, reference, PROTOCOL),
        lambda: dots(panels, named, batch.title or batch.name, note if beside else ""),
        "Accuracy of descendants by how they begin, mean over seeds and tasks; bars: 95 % "
        "interval. From-Scratch, Feature Distillation and the whole ancestor are those of "
        f"{reference}'s lineages. *: above all other rows by the corrected test."
        + (f" {note[0].upper()}{note[1:]}." if beside else ""),
    )
