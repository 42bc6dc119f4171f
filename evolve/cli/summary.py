"""`evolve summary RUN...`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path

import click

from evolve.cli.options import STORE


@click.command()
@click.argument(
    "folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Also write the pooled curve, tables and summary into this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of words.")
@STORE
def summary(folders: tuple[Path, ...], out: Path | None, as_json: bool, store: Path | None) -> None:
    """Summarise one run, or pool several runs.

    Runs can be pooled that are of one scenario and differ in their seed.
    """
    from evolve.runs.screens.summary import summarise_runs

    summarise_runs(list(folders), out, store, as_json)
