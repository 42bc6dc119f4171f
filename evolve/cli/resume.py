"""`evolve resume RUN`. Imports nothing heavy until the command is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from evolve.cli.options import DATA, DEVICE, STORE, WORKERS, cluster_options, log_option


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@DATA
@STORE
@DEVICE
@WORKERS
@cluster_options
@log_option
def resume(folder: Path, **options: Any) -> None:
    """Continue the run in folder RUN."""
    from evolve.runs.execute import execute
    from evolve.runs.run import request_from_run

    execute(request_from_run(folder, **options), sys.argv)
