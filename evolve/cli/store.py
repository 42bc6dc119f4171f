"""`evolve store` and `evolve store gc`. Imports nothing heavy until a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evolve.core.terminal import tell
from evolve.runs.folder import StorePlace

STORE = click.option(
    "--store",
    "root",
    type=StorePlace(),
    help="Results folder; default: $EVOLVE_STORE, else runs/store.",
)


@click.group(invoke_without_command=True)
@STORE
@click.pass_context
def store(context: click.Context, root: Path | None) -> None:
    """Print what the store of results holds.

    Results are listed by stage and by run. `evolve store gc` removes what no run refers to.
    """
    context.obj = root
    if context.invoked_subcommand is None:
        from evolve.cli.store_tables import print_store

        print_store(_open(root))


@store.command()
@STORE
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also imported ancestors and what was condensed from them.",
)
@click.option(
    "--forget",
    multiple=True,
    metavar="HOST",
    help="Runs on this machine, which cannot be seen from here, refer to nothing any more.",
)
@click.pass_context
def gc(
    context: click.Context,
    root: Path | None,
    yes: bool,
    dry_run: bool,
    everything: bool,
    forget: tuple[str, ...],
) -> None:
    """Remove what no run refers to; asks first. What a running run needs is never touched."""
    from evolve.cli.store_tables import collect_garbage

    collect_garbage(_open(root or context.obj), yes, dry_run, everything, forget)


@store.command()
@click.argument("address", required=False)
@click.option("--off", is_flag=True, help="Use the mirror no more; what is there stays there.")
@STORE
@click.pass_context
def mirror(context: click.Context, address: str | None, off: bool, root: Path | None) -> None:
    """Keep a copy of all results at ADDRESS.

    ADDRESS is s3://bucket/prefix, gs://... and the like. What this store lacks is taken from there.
    A new folder becomes a store. Without ADDRESS: say where the mirror is.
    """
    from evolve.cli.store_tables import set_mirror

    place = root or context.obj
    set_mirror(_open(place, make=address is not None and not off), address, off)


def _open(root: Path | None, make: bool = False) -> Any:
    """The store that is there.

    Raises:
        UserError: none is there, and none is to be made. A typing error must not make one.
    """
    from evolve.core.errors import UserError
    from evolve.engine.store import Store
    from evolve.runs.folder import default_store

    place = root or default_store(Path("runs") / "any")
    if not make and not (place / "store.json").is_file():
        raise UserError(
            f"--store {place}: no store is there (no store.json); "
            "give the folder that `evolve run` keeps its results in"
        )
    return Store(place, lambda text: tell(text, err=True))
