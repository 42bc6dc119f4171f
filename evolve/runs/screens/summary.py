"""`evolve summary`: one run, or several seeds of one scenario, read back from their stores."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from evolve.core import toml
from evolve.core.errors import UserError
from evolve.core.terminal import printable, tell
from evolve.engine.store import Store
from evolve.lineage.collect import collect
from evolve.lineage.world import described, world_of
from evolve.report.curves import LineageRecord, Summary
from evolve.report.economy import sentences
from evolve.report.pooling import summarise
from evolve.report.verdict import gain_sentence, verdict
from evolve.runs.folder import find_store, read_run

LABELS = {
    "reference": "from-scratch, paper's architecture (another one)",
    "lineage 0": "lineage 0 (gains compared)",
}


def say(text: str) -> None:
    """Print words, broken between words where the terminal ends."""
    width = shutil.get_terminal_size((160, 24)).columns
    tell(*textwrap.wrap(printable(text), max(40, width - 1)))


def summarise_runs(
    folders: Iterable[Path], out: Path | None, store: Path | None = None, as_json: bool = False
) -> None:
    """Pool runs of one scenario that differ in seed; print effects and verdict.

    Args:
        folders: the runs' folders.
        out: where to write the pooled report; None: nowhere.
        store: their store; None: the one that each recorded.
        as_json: print what summary.json holds instead of words.

    Raises:
        UserError: the runs differ in more than their seed, or have measured nothing yet.
    """
    from evolve.report.files import summary_json, write_report

    records = [record_of(folder, store) for folder in folders]
    summary = summarise(records)
    if not summary.measured:
        raise UserError(
            "no generation has been measured yet: continue the run with `evolve resume`, or give "
            "its store with --store"
        )
    if as_json:
        tell(*summary_json(records, summary).decode().splitlines())
    else:
        print_pooled(records)
    if out is not None:
        write_report(records, out)
        tell(f"written to {out}", err=as_json)


def print_pooled(records: Sequence[LineageRecord]) -> None:
    """Print the effects, the verdict and the economy of one run or several seeds."""
    summary = summarise(records)
    print_effects(summary)
    say(gain_sentence(summary))
    say(verdict(summary))
    for line in sentences(records):
        say(line)


def print_effects(summary: Summary) -> None:
    """Print every paired difference: points, and the 95 % interval over pairs."""
    from rich.table import Table

    from evolve.core.console import Console

    table = Table(
        box=None,
        pad_edge=False,
        title=f"{summary.title}: inherited minus ...",
        title_justify="left",
    )
    for title in ("", "points", "95 % interval", "pairs", "generations"):
        table.add_column(title, justify="left" if not title else "right")
    for effect in summary.effects:
        i = effect.interval
        table.add_row(
            LABELS.get(effect.over, effect.over),
            f"{i.mean:+.2f}",
            f"[{i.low:+.2f}, {i.high:+.2f}]",
            str(i.n),
            str(effect.generations),
        )
    Console().print(table)


def record_of(folder: Path, given: Path | None = None) -> LineageRecord:
    """Read a run's record from its folder and store, without its images. Writes nothing.

    Args:
        folder: the run's folder.
        given: its store; None: the one that it recorded.

    Raises:
        UserError: the folder is no run's, or its store is not there.
    """
    facts = read_run(folder)
    world = world_of(facts, str(folder / "run.json"))
    store = Store(find_store(folder, facts["store"], given))
    return collect(
        world,
        store.record,
        facts["scenario"],
        facts["profile"],
        described(world, toml.to_dict(world.settings)),
        facts["versions"],
    )
