"""`evolve bench`: from the options to the table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.status import Status

from evolve.core.durable import to_json, write_whole
from evolve.core.errors import UserError
from evolve.core.machine import usable_cores
from evolve.core.version import __version__
from evolve.data.sources import load_images
from evolve.engine.devices import choose_device

from .cases import DATA, Case, choose_cases
from .compare import comparison, read_earlier
from .machine import describe
from .processes import Process, crew
from .report import header, notes, table
from .rounds import QUIET, Pace, every, measure
from .summary import Row, rows

ROUNDS = 7
GPU_SECONDS = 3.0  # a chunk there pays for capturing once, as a stage of a lineage does


def bench(
    only: Sequence[str],
    rounds: int | None,
    quick: bool,
    device_name: str,
    json_file: Path | None,
    against: Path | None = None,
) -> None:
    """Measure and print the table.

    Args:
        only: names of cases; none: all.
        rounds: how many rounds; None: the usual number.
        quick: a smoke test.
        device_name: "auto", "cpu" or "cuda".
        json_file: where all raw numbers are written, whole, after every case.
        against: such a file of an earlier run, to compare with.

    Raises:
        UserError: an option is wrong, or the machine was not idle; that is said after the table.
    """
    device = choose_device(device_name)
    cases = choose_cases(only, quick, device.type)
    check_json(json_file)
    earlier = read_earlier(against) if against else None
    pace = _pace(rounds, quick, device.type)
    console = Console(stderr=True)
    results: list[dict[str, Any]] = []
    lines: list[Row] = []
    processes = 1 if device.type == "cuda" else usable_cores()
    with cache() as place, console.status("starting") as status:
        with crew(device.type, place, processes) as (plain, ours):
            load_images(DATA, None, place)  # drawn once, before the processes look for them
            about = _about(plain, ours, device, pace, quick)
            for case in cases:
                report = partial(say, status, case.name)
                measured = measure(case, plain, ours, pace, device.type, report)
                results.append(_result(case, measured, device.type, lines))
                if json_file is not None:
                    write_whole(json_file, to_json(about | {"cases": results}), "--json")
    _print(lines, results, about)
    if earlier:
        wide().print(comparison(lines, about["machine"], earlier), highlight=False)
    refuse([result["name"] for result in results if not result["measured"]["quoted"]], pace)


def _about(
    plain: Process, ours: Sequence[Process], device: torch.device, pace: Pace, quick: bool
) -> dict[str, Any]:
    """What the numbers belong to; asked once imports are done."""
    facts = every([plain, *ours], "facts")
    sides = {"processes": len(ours), "baseline_threads": facts[0]["threads"]}
    return {
        "evolve": __version__,
        "machine": describe(device) | sides,
        "pace": asdict(pace),
        "quick": quick,
    }


def say(status: Status, name: str, text: str) -> None:
    """Show what is being measured."""
    status.update(f"{name}: {text}")


def _result(case: Case, measured: dict[str, Any], device: str, lines: list[Row]) -> dict[str, Any]:
    """A case's raw numbers and rows as JSON; the rows are added to ``lines``."""
    case_rows = rows(case, measured, device)
    lines += case_rows
    return {
        "name": case.name,
        "measured": measured,
        "rows": [row.as_json() for row in case_rows],
    }


def _print(lines: Sequence[Row], results: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    console = wide()
    for line in header(about["machine"], about["pace"], about["quick"]):
        console.print(line, highlight=False)
    console.print(table(lines, about["quick"]), highlight=False)
    for line in notes(results):
        console.print(line, style="dim", highlight=False)


def wide() -> Console:
    """The terminal, or a file, which has no width to fit into."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _pace(rounds: int | None, quick: bool, device: str) -> Pace:
    usual = (
        Pace(2, 0.25, 0.1)
        if quick
        else Pace(ROUNDS, GPU_SECONDS if device == "cuda" else 2.0, 0.25)
    )
    return Pace(rounds or usual.rounds, usual.seconds, usual.sgemm, idle=not quick)


def refuse(disturbed: Sequence[str], pace: Pace) -> None:
    """Refuse to quote what was measured on a machine that was not idle.

    Args:
        disturbed: what could not be measured undisturbed.
        pace: as it was measured.

    Raises:
        UserError: there is any, and this is no smoke test.
    """
    if disturbed and pace.idle:
        raise UserError(
            f"the machine was not idle: other programs used more than {QUIET:g} cores, in the "
            f"repeated rounds, too ({'; '.join(disturbed)}); end them and measure again"
        )


def check_json(json_file: Path | None) -> None:
    """Before minutes of measuring, not after them."""
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise UserError(
            f"--json {json_file}: there is no folder {json_file.parent}; give a file in one that "
            "exists"
        )


@contextmanager
def cache() -> Iterator[Path]:
    """Where the decoded images lie: $EVOLVE_CACHE, else a temporary folder."""
    if "EVOLVE_CACHE" in os.environ:
        yield Path(os.environ["EVOLVE_CACHE"]).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="evolve-bench-") as folder:
        yield Path(folder)
