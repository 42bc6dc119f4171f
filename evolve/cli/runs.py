"""`evolve runs`, `evolve diff` and `evolve watch`. Imports nothing heavy until one is called."""

from __future__ import annotations

from pathlib import Path

import click

from evolve.cli.options import STORE


@click.command("runs")
@click.argument("root", metavar="[FOLDER]", default="runs", type=click.Path(path_type=Path))
@STORE
def runs(root: Path, store: Path | None) -> None:
    """List the runs below FOLDER, and how far they are.

    FOLDER is runs/ of the working directory, if none is given.
    """
    from evolve.cli.run_tables import print_runs

    print_runs(root, store)


@click.command("diff")
@click.argument("first", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN", type=click.Path(path_type=Path))
@STORE
def diff(first: Path, second: Path, store: Path | None) -> None:
    """Say how two runs differ: settings, stages, curves."""
    from evolve.cli.run_tables import print_contrast

    print_contrast(first, second, store)


@click.command("watch")
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@STORE
def watch(folder: Path, store: Path | None) -> None:
    """Show a run or batch that another process or machine computes.

    It ends when everything is measured. Ctrl-C ends the watching, not the run.
    """
    from evolve.runs.listing import watch as show

    show(folder, store)
