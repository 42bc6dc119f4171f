"""`evolve export RUN@TASK`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evolve.cli.options import DATA, FILE_OUT, FORCE, STORE


@click.command()
@click.argument("ancestor", metavar="RUN@TASK")
@FILE_OUT
@DATA
@STORE
@FORCE
def export(ancestor: str, out: Path, force: bool, **options: Any) -> None:
    """Write a run's ancestor into a file of its own.

    RUN@TASK means the ancestor as it was after TASK tasks.
    """
    from evolve.cli import gene

    gene.export(ancestor, out, options | {"device": "auto"}, force)
