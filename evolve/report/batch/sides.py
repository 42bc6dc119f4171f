"""Methods side by side, a panel a network and set of images, with the paper's numbers beside ours.

What Tables II and III share: which cases belong to which panel, the tables, the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from evolve.core.settings import Settings, descend_source
from evolve.core.toml import read_toml
from evolve.core.words import WHOLE
from evolve.report.batch.figure import Pair
from evolve.report.compare import Batch, compare
from evolve.report.compare_tables import plus_minus
from evolve.report.curves import NAMES, Interval
from evolve.report.table import Row, Table

SCRATCH = "From-Scratch"
# Controls as the paper's tables call them.
ROWS = {
    "from-scratch": SCRATCH,
    "distilled": "Feature Distillation",
    NAMES["full_ancestor"]: WHOLE,
}
# Source -> (how it is called here, the paper's images beside it)
IMAGES = {
    "cifar100": ("CIFAR-100", "CIFAR100"),
    "miniimagenet": ("ImageNet100 (miniImageNet)", "ImageNet100"),
    "tinyimagenet": ("Tiny ImageNet", "ImageNet100"),
}
NETWORKS = ("ViT", "VGG", "ResNet")
Printed = tuple[float, ...]  # an accuracy as the paper prints it, and its +- where it has one


@dataclass(frozen=True)
class Mark:
    """One method's result in one panel, in points.

    Attributes:
        minus: the method minus the reference, paired by task; None for the reference.
        paper: the paper's number; empty without one.
        best: shown to be above every other method of the comparison.
        network: the architecture, where it is the method's own.
        trouble: why there is no result; ``interval`` is then not to be shown.
    """

    method: str
    interval: Interval
    minus: Interval | None
    paper: Printed = ()
    best: bool = False
    network: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Panel:
    """The methods of one network on one set of images.

    Attributes:
        images: the set's name.
        beside: the paper's set of images that its numbers are of; "" for none.
        column: "VGG", or "VGG, 10-shot".
        pairs: the panel's cases with what they measured.
        marks: one a method, in the table's order.
    """

    images: str
    beside: str
    column: str
    pairs: tuple[Pair, ...] = field(repr=False)
    marks: tuple[Mark, ...] = ()


@lru_cache(maxsize=1)
def _paper() -> Mapping[str, Any]:
    return read_toml(Path(__file__).with_name("paper.toml"))


def printed(table: str, panel: Panel, method: str) -> Printed:
    """What the paper prints.

    Args:
        table: "initialisations" (Table II) or "fewshot" (Table III).
        panel: whose images and column.
        method: as the paper's row is called.

    Returns:
        The accuracy in %, and what stands behind its +-; empty where the paper has no such number.
    """
    return tuple(_paper()[table].get(panel.beside, {}).get(panel.column, {}).get(method, ()))


def empty_panels(measured: Sequence[Pair], column: Callable[[Settings], str]) -> list[Panel]:
    """A batch's cases by images and column, without marks.

    Args:
        measured: cases with what they measured.
        column: a case's settings -> its column.

    Returns:
        In the order of the cases.
    """
    parts: dict[tuple[str, str, str], list[Pair]] = {}
    for case, record in measured:
        settings = case.scenario.settings
        source = descend_source(settings.data)
        images, beside = IMAGES.get(source, (source, ""))
        parts.setdefault((images, beside, column(settings)), []).append((case, record))
    return [Panel(*key, tuple(pairs)) for key, pairs in parts.items()]


def network(settings: Settings) -> str:
    """The ancestor's family as the paper calls it; another one by its own name."""
    name = settings.ancestor.network
    return next((family for family in NETWORKS if name.startswith(family.lower())), name)


def compared(table: str, batch: Batch, panel: Panel) -> list[Mark]:
    """The batch's methods and controls in one panel, in the order of the paper's rows.

    Args:
        table: see :func:`printed`.
        batch: the batch.
        panel: the panel.
    """
    rows = {
        ROWS.get(row.method, row.method): row for row in compare(batch, panel.pairs, "accuracy")
    }
    order = sorted(rows, key=lambda name: (name == WHOLE, name not in ROWS.values()))
    return [
        Mark(
            name,
            rows[name].interval,
            difference.interval if (difference := rows[name].difference) else None,
            printed(table, panel, name),
            rows[name].best,
        )
        for name in order
    ]


def rows(panels: Sequence[Panel]) -> tuple[Mapping[str, Any], ...]:
    """All numbers in long form, in points, one row a panel and method."""
    return tuple(
        {"images": panel.images, "column": panel.column, "method": mark.method}
        | _bounds("accuracy", "", None if mark.trouble else mark.interval)
        | _bounds("minus_reference", "minus_", mark.minus)
        | {"tasks": mark.interval.n, "network": mark.network, "note": mark.trouble}
        | {"paper": mark.paper[0] if mark.paper else None, "paper_images": panel.beside}
        | {"paper_plus_minus": mark.paper[1] if len(mark.paper) > 1 else None}
        for panel in panels
        for mark in panel.marks
    )


def _bounds(name: str, prefix: str, interval: Interval | None) -> dict[str, float | None]:
    numbers = (interval.mean, interval.low, interval.high) if interval else (None,) * 3
    return dict(zip((name, f"{prefix}low", f"{prefix}high"), numbers, strict=True))


def tables(panels: Sequence[Panel], reference: str, protocol: str) -> tuple[Table, ...]:
    """The paper's table, one a set of images, and under it the paired differences.

    Args:
        panels: with their marks.
        reference: what the differences are to.
        protocol: what the paper's numbers were measured with, for the caption.
    """
    return tuple(
        shown
        for images in dict.fromkeys(panel.images for panel in panels)
        for shown in _of_images(
            [panel for panel in panels if panel.images == images], reference, protocol
        )
    )


def _of_images(panels: Sequence[Panel], reference: str, protocol: str) -> tuple[Table, Table]:
    first, methods = panels[0], methods_of(panels)
    beside = f"the paper ({first.beside})" if first.beside else ""
    heads = ["method"]
    for panel in panels:
        heads += [panel.column, *([beside] if beside else [])]
    caption = f"{first.images}, accuracy (%), {trained(panels)}"
    if beside:
        caption += f"; the paper's numbers: {protocol}"
    accuracies = tuple(
        Row((method, *(cell for panel in panels for cell in _cells(panel, method))))
        for method in methods
    )
    gaps = tuple(
        Row((method, *(_gap(panel, method) for panel in panels)))
        for method in methods
        if any(mark.minus for panel in panels for mark in panel.marks if mark.method == method)
    )
    minus = f"{first.images}, the method minus {reference} (points), paired by task"
    return (
        Table(caption, tuple(heads), accuracies),
        Table(minus, ("method", *(panel.column for panel in panels)), gaps),
    )


def trained(panels: Sequence[Panel]) -> str:
    """How the descendants of some panels learned: "10 and 20 images a class, 15 epochs"."""
    learning = [case.scenario.settings.descend for panel in panels for case, _ in panel.pairs]
    shots, epochs = ({d.shots for d in learning}, {d.epochs for d in learning})
    return f"{_joined(shots)} images a class, {_joined(epochs)} epochs"


def _joined(numbers: set[int]) -> str:
    return " and ".join(map(str, sorted(numbers)))


def methods_of(panels: Sequence[Panel]) -> list[str]:
    """Every method of some panels once, in their order."""
    return list(dict.fromkeys(mark.method for panel in panels for mark in panel.marks))


def _cells(panel: Panel, method: str) -> list[str]:
    mark = next((mark for mark in panel.marks if mark.method == method), None)
    own = "" if mark is None else mark.trouble or plus_minus(mark.interval)
    if mark and mark.best:
        own += " *"
    paper = " ± ".join(f"{number:.2f}" for number in mark.paper) if mark else ""
    return [own, paper] if panel.beside else [own]


def _gap(panel: Panel, method: str) -> str:
    mark = next((mark for mark in panel.marks if mark.method == method), None)
    if mark is None or mark.minus is None or math.isnan(mark.minus.mean):
        return ""
    return plus_minus(mark.minus, signed=True)
