"""The tables of `evolve runs` and `evolve diff`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.table import Table

from evolve.core.console import Console
from evolve.core.errors import UserError
from evolve.core.spent import duration
from evolve.core.terminal import tell
from evolve.core.toml import toml_value
from evolve.report.curves import paired_gain
from evolve.runs.listing import Listed, contrast, listed, runs_below
from evolve.runs.read import Reader


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000
    return console


def _table(*titles: str, left: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="left" if title in left else "right", overflow="fold")
    return table


def print_runs(root: Path, store: Path | None) -> None:
    """Print a line a run below ``root``, the last changed first.

    Args:
        root: the folder.
        store: the runs' store; None: the one that each recorded.

    Raises:
        UserError: there is no run.
    """
    reader = Reader(store)
    lines = sorted(
        (listed(folder, reader) for folder in runs_below(root)), key=lambda line: -line.changed
    )
    if not lines:
        raise UserError(f"{root}: no run below it; give a folder that `evolve run` wrote into")
    table = _table(
        "run", "scenario", "seed", "lengths", "gain (points)", "begun", "state",
        left=("run", "scenario", "state"),
    )  # fmt: skip
    for line in lines:
        table.add_row(*_cells(line))
    _console().print(table)


def _cells(line: Listed) -> tuple[str, ...]:
    gain = paired_gain(line.last).percent("+", digits=1) if line.last else "-"
    at = f" at {line.last.lineage}" if line.last else ""
    ago = f"{duration(max(0.0, time.time() - line.changed))} ago"
    points = f"{line.points} of {line.wanted}"
    return str(line.folder), line.name, str(line.seed), points, gain + at, ago, line.state


def print_contrast(first: Path, second: Path, store: Path | None) -> None:
    """Print which settings differ, which stages are shared, and both curves.

    Args:
        first: a run's folder.
        second: another's.
        store: their store; None: the one that each recorded.

    Raises:
        UserError: a folder is no run's.
    """
    differences = contrast(first, second, Reader(store))
    console = _console()
    tell(f"A  {first}", f"B  {second}", "")
    if not differences.settings:
        console.print("the settings and the seed are the same")
    else:
        table = _table("setting", "A", "B", left=("setting", "A", "B"))
        for key, values in differences.settings.items():
            table.add_row(key, *map(_shown, values))
        console.print(table)
    shared = ", ".join(
        f"{common} of {max(of_a, of_b)} {kind}"
        for kind, (common, of_a, of_b) in differences.shared.items()
    )
    tell("", f"stages in common: {shared}")
    console.print(
        "the ancestors and learngenes are the same at every length"
        if differences.parts is None
        else f"the ancestors or learngenes part at lineage length {differences.parts}"
    )
    if differences.gains:
        table = _table("length", "gain of A (points)", "gain of B (points)")
        for length, gains in differences.gains.items():
            table.add_row(str(length), *gains)
        console.print()
        console.print(table)


def _shown(value: Any) -> str:
    return "-" if value is None else toml_value(value)
