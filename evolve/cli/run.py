"""`evolve run`. Imports nothing heavy until the command is called."""

from __future__ import annotations

import sys
from typing import Any

import click

from evolve.cli.options import cluster_options, lineage_options, run_request


@click.command()
@click.option(
    "--scenario",
    "name",
    required=True,
    help="A name that `evolve scenarios` lists, or a TOML file of your own.",
)
@lineage_options
@cluster_options
def run(name: str, profile: str, seed: int, **options: Any) -> None:
    """Run a lineage.

    The same command continues it after any interruption.
    """
    from evolve.runs.execute import execute

    execute(run_request(name, profile, seed, **options), sys.argv)
