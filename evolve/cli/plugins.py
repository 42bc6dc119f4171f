"""`evolve plugins`. Imports nothing heavy until the command is called."""

from __future__ import annotations

import click

from evolve.core import registry
from evolve.core.errors import UserError
from evolve.core.version import __version__


@click.command()
@click.option("--check", is_flag=True, help="Import each plug-in, which runs its code, and tell.")
def plugins(check: bool) -> None:
    """List what a scenario may name, and which package brings it. Plug-ins are not imported."""
    print_plugins(check)


def print_plugins(check: bool) -> None:
    """Print every name of every kind, with the package that brings it and its help line.

    Args:
        check: import the plug-ins; one that cannot be imported stands with the reason.
    """
    from rich.table import Table

    from evolve.core.console import Console

    table = Table(box=None, pad_edge=False)
    for title in ("kind", "name", "package", "help or state"):
        table.add_column(title, no_wrap=title != "help or state")
    for kind in registry.TABLES:
        for name, record in registry.records(kind).items():
            table.add_row(kind, name, f"evolve {__version__}", record.help)
        for name, points in registry.plugged(kind).items():
            for point in points:
                table.add_row(kind, name, registry.owner(point), _state(kind, name, check))
    Console().print(table)


def _state(kind: str, name: str, check: bool) -> str:
    if name in registry.records(kind):
        return "not used: the name is evolve's own"
    if not check:
        several = len(registry.plugged(kind)[name]) > 1
        return "several packages bring it: uninstall all but one" if several else "not imported"
    try:
        registry.find(kind, name)
    except UserError as error:
        return str(error)
    return "good"
