"""`evolve report RUN|BATCH...`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path

import click

from evolve.runs.folder import StorePlace

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folders", metavar="RUN|BATCH...", nargs=-1, required=True, type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="The HTML file; default: report.html in the folder, or here for several folders.",
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

    chosen = out or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
    click.echo(f"report       {report_folders(folders, chosen, store)}")
