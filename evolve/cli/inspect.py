"""`evolve inspect FILE`. Imports nothing heavy until the command is called."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it for a program.")
def inspect(file: Path, as_json: bool) -> None:
    """Print what a FILE of evolve's holds.

    That is a learngene's, an ancestor's or a model's FILE: its layers and sizes, and where it comes
    from.
    """
    from evolve.cli.file_table import print_file

    print_file(file, as_json)
