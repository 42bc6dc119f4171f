"""`evolve show SCENARIO`. Imports nothing heavy until the command is called."""

from __future__ import annotations

import click

from evolve.cli.options import PROFILE, SET
from evolve.core import toml


@click.command()
@click.argument("name", metavar="SCENARIO")
@PROFILE
@SET
def show(name: str, profile: str, overrides: tuple[str, ...]) -> None:
    """Print SCENARIO as it resolves.

    The output is a TOML file to copy, edit and run.
    """
    from evolve.lineage import scenario

    chosen = scenario.load(name, profile, overrides)
    header = (
        f"{chosen.settings.name}, profile {profile}. Save it as my.toml, edit it, and: "
        "evolve run --scenario my.toml"
    )
    click.echo(toml.dump(chosen.settings, header, profile), nl=False)
