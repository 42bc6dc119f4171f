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


def write_figure(batch: Batch, shown: BatchFigure, out: Path) -> list[Path]:
    """Write a batch's picture and its numbers, each file whole or not at all.

    Args:
        batch: the batch.
        shown: its picture.
        out: the batch's folder.

    Returns:
        figure.png, .svg and .pdf, and its rows as figure.csv and .json.

    Raises:
        UserError: a file cannot be written.
    """
    body = {"figure": batch.figure, "caption": shown.caption, "rows": shown.rows}
    contents = {f"figure.{kind}": figures.encode(shown.draw, kind) for kind in KINDS}
    contents["figure.csv"] = csv_bytes(dict(row) for row in shown.rows)
    contents["figure.json"] = (json.dumps(finite(body), indent=1) + "\n").encode()
    return [write_whole(out / name, content, "batch report") for name, content in contents.items()]
