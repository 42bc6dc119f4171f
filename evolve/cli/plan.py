"""`evolve plan SCENARIO`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from typing import Any

import click

from evolve.cli.options import lineage_options, run_request, scenario_name


@click.command()
@scenario_name
@lineage_options
def plan(name: str, profile: str, seed: int, **options: Any) -> None:
    """Print the stages of SCENARIO and how long they take here.

    Which of them are in the store is said, too. A few steps are timed.
    """
    from evolve.cli.plan_tables import plan_table

    request = run_request(name, profile, seed, **options)
    plan_table(request)
