"""`evolve scenarios`. Imports nothing heavy until the command is called."""

from __future__ import annotations

import click


@click.command()
def scenarios() -> None:
    """List the shipped scenarios, with a cost estimate."""
    from evolve.cli.plan_tables import scenario_table

    scenario_table()
