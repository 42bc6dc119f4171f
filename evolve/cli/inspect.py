"""`evolve inspect FILE`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from evolve.core.registry import without_plugins


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
@click.option("--plugins", is_flag=True, help="Import the plug-in that a FILE's network needs.")
def inspect(file: Path, as_json: bool, plugins: bool) -> None:
    """Print what a FILE of evolve's holds.

    That is a learngene's, an ancestor's or a model's FILE: its layers and sizes, and where it comes
    from. No plug-in is imported unless --plugins is given.
    """
    from evolve.cli.file_table import print_file

    with nullcontext() if plugins else without_plugins():
        print_file(file, as_json)
