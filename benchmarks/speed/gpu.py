"""All that is claimed of GPUs, measured on this machine's in ten to fifteen minutes, part by part.

    python -m evolve.benchmarks.speed.gpu --out DIR [--data cifar100.zip] [--only PART ...]

Run it in the repository's root. Every part is a process of its own with a limit in seconds: one
that fails or takes too long is reported and the others still run; what it measured until then
counts. ``--rehearse`` runs every part on the CPU, tiny, to find mistakes where time costs nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

SECONDS = {
    "tests": 150,
    "equality": 100,
    "descendants": 150,
    "ancestor": 120,
    "condenser": 60,
    "paper": 120,
    "lineage": 150,
}
"""The parts, in order, and what each may take."""
ENDED = {0: "done", -signal.SIGKILL: "stopped at its limit"}


@dataclass(frozen=True)
class Plan:
    """What one call was asked for."""

    out: Path
    data: Path | None
    beside: tuple[Path, ...]
    rehearse: bool

    def words(self) -> list[str]:
        """The options that a part's process gets."""
        words = ["--out", str(self.out)]
        words += ["--data", str(self.data)] if self.data else []
        words += [word for run in self.beside for word in ("--beside", str(run))]
        return [*words, "--rehearse"] if self.rehearse else words


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="folder for gpu.json and gpu.log"
)
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="CIFAR-100, as `evolve run --data` takes it",
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="a CPU's run folder, to compare a lineage with",
)
@click.option("--only", multiple=True, type=click.Choice(list(SECONDS)), help="these parts alone")
@click.option("--scale", default=1.0, show_default=True, help="every part's limit times this")
@click.option("--rehearse", is_flag=True, help="tiny sizes, on the CPU")
@click.option(
    "--part", type=click.Choice(list(SECONDS)), hidden=True, help="in a part's own process"
)
def main(
    out: Path,
    data: Path | None,
    beside: tuple[Path, ...],
    only: Sequence[str],
    scale: float,
    rehearse: bool,
    part: str | None,
) -> None:
    """Measure, print a table and write DIR/gpu.json and DIR/gpu.log."""
    plan = Plan(out.resolve(), data, beside, rehearse)
    out.mkdir(parents=True, exist_ok=True)
    if part is not None:
        run_part(part, plan)
        return
    measured: dict[str, Any] = {"parts": {}}
    for name in [name for name in SECONDS if not only or name in only]:
        measured["parts"][name] = supervised(name, plan, SECONDS[name] * scale)
        (out / "gpu.json").write_text(json.dumps(measured, indent=1))
        for line in lines(name, measured["parts"][name]):
            print(line, flush=True)


def supervised(name: str, plan: Plan, limit: float) -> dict[str, Any]:
    """Run a part in a process group of its own; how it ended, its seconds and rows."""
    rows = plan.out / f"{name}.rows"
    rows.unlink(missing_ok=True)
    words = [sys.executable, "-m", __spec__.name, "--part", name, *plan.words()]
    begun = time.monotonic()
    with (plan.out / "gpu.log").open("ab") as log:
        log.write(f"\n===== {name}\n".encode())
        log.flush()
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        with suppress(ProcessLookupError):  # and whatever it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    text = rows.read_text() if rows.exists() else ""
    rows.unlink(missing_ok=True)
    ended = ENDED.get(code, f"failed with code {code}, see gpu.log")
    return {
        "ended": ended,
        "seconds": time.monotonic() - begun,
        "rows": [json.loads(line) for line in text.splitlines()],
    }


def lines(name: str, part: dict[str, Any]) -> Iterator[str]:
    """A part as a few lines of text."""
    yield f"== {name}: {part['ended']}, {part['seconds']:.0f} s"
    for row in part["rows"]:
        value = row["value"]
        shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
        yield f"  {row['what']:<58} {shown:>12} {row['unit']}"


def run_part(name: str, plan: Plan) -> None:
    """In the part's own process: every row is written as soon as it is known."""
    from . import gpu_equal, gpu_lineage, gpu_parts

    work = {
        "tests": gpu_equal.tests,
        "equality": gpu_equal.equality,
        "descendants": gpu_parts.descendants,
        "ancestor": gpu_parts.ancestor,
        "condenser": gpu_parts.condenser,
        "paper": gpu_parts.paper,
        "lineage": gpu_lineage.lineages,
    }[name]
    with (plan.out / f"{name}.rows").open("w") as file:
        for what, value, unit in work(plan):
            file.write(json.dumps({"what": what, "value": value, "unit": unit}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
