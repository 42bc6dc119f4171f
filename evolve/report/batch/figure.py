"""A batch's picture with its numbers, and the files that hold it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.core.durable import write_whole
from evolve.core.registry import find
from evolve.report import figures
from evolve.report.compare import Batch, Case
from evolve.report.curves import LineageRecord
from evolve.report.files import csv_bytes, finite
from evolve.report.table import Table

Pair = tuple[Case, LineageRecord]
KINDS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class BatchFigure:
    """What a batch's picture shows.

    Attributes:
        rows: its numbers in long form, one row a point.
        tables: the same as tables to read, the paper's where it has one.
        draw: makes the matplotlib figure.
        caption: what is drawn, a few sentences.
    """

    rows: tuple[Mapping[str, Any], ...]
    tables: tuple[Table, ...]
    draw: Callable[[], Any]
    caption: str


def batch_figure(batch: Batch, measured: Sequence[Pair]) -> BatchFigure | None:
    """The picture that a batch names, of what is measured so far.

    Args:
        batch: the batch.
        measured: its cases with what they measured.

    Returns:
        None where it names none, or nothing is measured yet.
    """
    if not batch.figure or not measured:
        return None
    shown: BatchFigure = find("figures", batch.figure)(batch, measured)
    return shown if shown.rows else None


def write_figure(batch: Batch, measured: Sequence[Pair], out: Path) -> BatchFigure | None:
    """Write a batch's picture and its numbers, each file whole or not at all.

    figure.png, .svg and .pdf hold the picture, figure.csv and .json its rows.

    Args:
        batch: the batch.
        measured: its cases with what they measured.
        out: the batch's folder.

    Returns:
        The picture, see :func:`batch_figure`.

    Raises:
        UserError: a file cannot be written.
    """
    shown = batch_figure(batch, measured)
    if shown is None:
        return None
    body = {"figure": batch.figure, "caption": shown.caption, "rows": shown.rows}
    contents = figures.pictures("figure", shown.draw, KINDS)
    contents["figure.csv"] = csv_bytes(dict(row) for row in shown.rows)
    contents["figure.json"] = (json.dumps(finite(body), indent=1) + "\n").encode()
    for name, content in contents.items():
        write_whole(out / name, content, "batch report")
    return shown
