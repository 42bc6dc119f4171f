"""`evolve batch FILE` and its plan. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from evolve.cli.options import (
    DATA,
    DEVICE,
    REFERENCE,
    WORKERS,
    cluster_options,
    complete,
    log_option,
)
from evolve.core.terminal import tell
from evolve.core.words import PROFILES
from evolve.runs.folder import StorePlace

OPTIONS = (
    click.option(
        "--profile",
        default="paper",
        show_default=True,
        type=click.Choice(PROFILES),
        help="quick: the batch's and the scenario's [quick] values.",
    ),
    click.option(
        "--scenario",
        "base",
        shell_complete=complete("scenario"),
        help="This scenario, by name or file, instead of the batch's, such as tinyimagenet-seq25.",
    ),
    click.option(
        "--seed",
        "seeds",
        multiple=True,
        type=click.IntRange(min=0),
        help="This seed instead of the file's; may be given many times.",
    ),
    DATA,
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="The batch's folder; default: runs/<batch>-<profile>.",
    ),
    click.option(
        "--store",
        type=StorePlace(),
        help=(
            "Results folder or address (s3://bucket/prefix); default: "
            "$EVOLVE_STORE or store/ beside the batch's folder."
        ),
    ),
    DEVICE,
    WORKERS,
    REFERENCE,
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Override one setting of every case.",
    ),
)


class _FileFirst(click.Group):
    """`evolve batch FILE` means `evolve batch run FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = next((arg for arg in args if not arg.startswith("-")), None)
        if named is not None and named not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def batch_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what every batch command takes beside the file."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group(cls=_FileFirst)
def batch() -> None:
    """Run a grid of lineages from a batch file and compare them.

    evolve batch FILE runs a file of yours, or a shipped one by its name; `batch list` shows those.
    """


@batch.command("run", hidden=True)
@click.argument("name", metavar="FILE", shell_complete=complete("batch"))
@batch_options
@cluster_options
@log_option
def run(name: str, **options: Any) -> None:
    """Run or continue the batch FILE; it ends in a table."""
    from evolve.runs.batch.execute import execute

    execute(_order(name, **options), sys.argv)


@batch.command("plan")
@click.argument("name", metavar="FILE", shell_complete=complete("batch"))
@batch_options
def plan(name: str, **options: Any) -> None:
    """Print the batch's cases and stages, and how long they take.

    Beside the distinct stages stand what is in the store, what sharing saves, and the time left.
    """
    from evolve.runs.batch.execute import show_plan

    show_plan(_order(name, **options))


@batch.command("list")
def list_shipped() -> None:
    """List the shipped batches."""
    from evolve.core.shipped import shipped
    from evolve.runs.batch import file

    for name in shipped("batch"):
        shipped_batch = file.load(name)
        tell(f"{name:20} {len(shipped_batch.cases):4} lineages  {shipped_batch.title}")


def _order(
    name: str,
    profile: str,
    overrides: tuple[str, ...],
    seeds: tuple[int, ...],
    base: str | None,
    **options: Any,
) -> Any:
    from evolve.runs.batch import file
    from evolve.runs.batch.run import BatchRequest, default_out
    from evolve.runs.folder import default_store

    chosen = file.load(name, profile, overrides, seeds, base)
    out = options.pop("out") or default_out(chosen)
    store = options.pop("store") or default_store(out)
    return BatchRequest(out, store, **options, batch=chosen)
