"""`evolve report RUN|BATCH...`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path

import click

from evolve.core.terminal import tell
from evolve.runs.folder import StorePlace

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folders", metavar="RUN|BATCH...", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="The HTML file, or its folder; default: that of the run, or here for several folders.",
)
@click.option(
    "--store",
    type=StorePlace(),
    help="Results folder or address (s3://bucket/prefix); default: the one each run recorded.",
)
def report(folders: tuple[Path, ...], out: Path | None, store: Path | None) -> None:
    """Write one HTML page about runs and batches.

    It holds curves, tables, genomes, cost and commands, and needs no network and no other file.
    """
    from evolve.report.page.write import PAGE
    from evolve.runs.read import report_folders

    chosen = out or (folders[0] if len(folders) == 1 else Path())
    chosen = chosen / PAGE if out is None or out.is_dir() else chosen
    tell(f"report       {report_folders(folders, chosen, store)}")
