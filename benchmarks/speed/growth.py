"""`evolve bench --growth`: how the cost of each kind of stage grows on this machine.

The formula that `evolve plan` uses stands beside it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from evolve.core.settings import DataSettings, Settings
from evolve.data.resident import Resident
from evolve.data.sources import load_images
from evolve.lineage import scenario
from evolve.runs.estimate import cost
from evolve.runs.estimate.timing import NoCheckpoint, silent

REPEATS = 3
CLASSES = {"ancestor": range(64), "condense": range(64, 80), "descend": range(80, 100)}


@dataclass(frozen=True)
class Point:
    """One stage to time: what it varies, its kind and settings."""

    what: str
    kind: str
    settings: Settings
    task: int = 1


def growth_table() -> None:
    """Time every point, one thread, and print measured seconds, the formula's, and their ratio."""
    torch.set_num_threads(1)
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "what varies", "measured s", "formula s", "measured / formula"):
        table.add_column(
            title, no_wrap=True, justify="left" if title in ("stage", "what varies") else "right"
        )
    ratios = []
    with tempfile.TemporaryDirectory(prefix="evolve-growth-") as folder:
        for point in points():
            measured, formula = seconds(point, Path(folder)), expected(point)
            ratios.append(measured / formula)
            table.add_row(
                point.kind, point.what, f"{measured:.2f}", f"{formula:.2f}", f"{ratios[-1]:.2f}"
            )
    console = Console()
    console.print(
        f"one thread, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}; "
        f"medians of {REPEATS}"
    )
    console.print(table)
    console.print(
        f"measured / formula: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to "
        f"{max(ratios):.2f}"
    )


def points() -> Iterator[Point]:
    """Small stages that differ in one thing from a common one (width 1/8, 32 px)."""
    base = _base()
    yield from _descend_points(base)
    for width in (0.125, 0.25, 0.5):
        yield Point(
            f"width {width:g}",
            "accumulate",
            replace(base, ancestor=replace(base.ancestor, width=width)),
        )
    yield Point("batch 64", "accumulate", replace(base, ancestor=replace(base.ancestor, batch=64)))
    yield Point("size 64", "accumulate", replace(base, data=replace(base.data, size=64)))
    yield Point("task 5, tested on all", "accumulate", base, task=5)
    for width in (0.125, 0.25):
        yield Point(
            f"width {width:g}",
            "condense",
            replace(base, ancestor=replace(base.ancestor, width=width)),
        )
    yield Point("T = 1", "condense", replace(base, condense=replace(base.condense, lookahead=1)))
    yield Point("T = 4", "condense", replace(base, condense=replace(base.condense, lookahead=4)))
    yield Point("size 64", "condense", replace(base, data=replace(base.data, size=64)))


def _descend_points(base: Settings) -> Iterator[Point]:
    for width in (0.125, 0.25, 0.5, 1.0):
        wide = replace(base, ancestor=replace(base.ancestor, width=width))
        short = (
            replace(wide, descend=replace(wide.descend, shots=16, epochs=1))
            if width > 0.25
            else wide
        )
        yield Point(f"width {width:g}, {short.descend.shots} shots", "descend", short)
    varied: dict[str, tuple[Any, ...]] = {
        "descendants": (1, 2),
        "shots": (20, 80),
        "epochs": (2, 8),
    }
    for name, values in varied.items():
        for value in values:
            yield Point(
                f"{name} {value}",
                "descend",
                replace(base, descend=replace(base.descend, **{name: value})),
            )
    yield Point("size 64", "descend", replace(base, data=replace(base.data, size=64)))


def _base() -> Settings:
    s = scenario.load("glyphs-seq25", "quick").settings
    return replace(
        s,
        data=DataSettings(source="glyphs", size=32, glyph_train=96, glyph_test=20),
        stream=replace(s.stream, images_per_class=48),
        ancestor=replace(s.ancestor, epochs=3),
        condense=replace(s.condense, images_per_class=24),
        descend=replace(s.descend, shots=40, epochs=3),
    )


def seconds(point: Point, cache: Path) -> float:
    """The median of a few runs of a stage, after one that warms up."""
    resident = Resident(load_images(point.settings.data, None, cache), torch.device("cpu"))
    run = {"descend": _descend, "accumulate": _accumulate, "condense": _condense}[point.kind](
        point, resident
    )
    spent = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        run()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent[1:])


def expected(point: Point) -> float:
    """What the formula says."""
    recipe: dict[str, Any] = {
        "task": point.task,
        "ancestor": {"strategy": "naive"},
        "method": "inherited",
    }
    return cost.seconds(point.settings, point.kind, recipe)


def _descend(point: Point, resident: Resident) -> Callable[[], None]:
    from evolve.descendants.descendants import Group, downstream_tasks, train_together
    from evolve.learngene.inheritance import inherit
    from evolve.lineage.world import paper_descendant

    d = point.settings.descend
    tasks = downstream_tasks(d, CLASSES["descend"], resident, 0)
    plan, numbers = paper_descendant(point.settings), range(len(tasks))

    def run() -> None:
        models = [inherit(plan, None, d.classes_per_task, 0, number) for number in numbers]
        train_together(models, Group(tasks, numbers, resident, d, 0), silent)

    return run


def _accumulate(point: Point, resident: Resident) -> Callable[[], None]:
    from evolve.ancestor.accumulate import Accumulated, AccumulateRequest, accumulate

    s, classes = point.settings, CLASSES["ancestor"]
    request = AccumulateRequest(
        s.ancestor, s.stream, classes, resident, 0, 0, NoCheckpoint(), silent
    )
    untrained = accumulate(request)
    # An untrained network stands for one that has learned the tasks before: what it knows does not
    # change what a task costs.
    start = (
        Accumulated(untrained.tensors, untrained.record | {"task": point.task - 1, "strategy": {}})
        if point.task > 1
        else untrained
    )
    return lambda: void(accumulate(replace(request, task=point.task, previous=start)))


def _condense(point: Point, resident: Resident) -> Callable[[], None]:
    from evolve.condensers.condense import condense_ancestor
    from evolve.condensers.interface import Request
    from evolve.lineage.world import ancestor_plan

    plan = ancestor_plan(point.settings)
    request = Request(
        plan,
        plan.build(2).state_dict(),
        {},
        CLASSES["condense"],
        resident,
        point.settings.condense,
        0,
        silent,
    )
    return lambda: void(condense_ancestor(request))


def void(result: object) -> None:
    """Only the time is wanted."""
