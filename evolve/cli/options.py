"""The command line's options that several commands share. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from evolve.core.errors import UserError
from evolve.core.shipped import shipped
from evolve.core.words import PROFILES, TRACKERS
from evolve.runs.folder import StorePlace

if TYPE_CHECKING:
    from evolve.runs.run import RunRequest


def complete_setting(
    ctx: click.Context, param: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Shell completion of SECTION.KEY= for --set."""
    from dataclasses import fields, is_dataclass

    from evolve.core.settings import Settings

    names = [
        f"{section.name}.{field.name}="
        for section in fields(Settings)
        if is_dataclass(value := getattr(Settings(), section.name))
        for field in fields(value)
    ]
    return [CompletionItem(name) for name in names if name.startswith(typed)]


DATA = click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    help="Where the images lie, or are downloaded to.",
)
DEVICE = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"])
)
WORKERS = click.option(
    "--workers",
    default=0,
    type=click.IntRange(min=0),
    help="Worker processes; default: one a core; on GPUs, as many as their memory holds.",
)
REFERENCE = click.option(
    "--reference",
    is_flag=True,
    help="Take the plain path everywhere: the same mathematics, slower, other rounding.",
)

SET_HELP = "Override one setting, such as --set ancestor.strategy=ewc; may be given many times."
PROFILE = click.option(
    "--profile",
    default="paper",
    show_default=True,
    type=click.Choice(PROFILES),
    help="quick: the scenario's [quick] values; paper: as the file says.",
)
SEED = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of tasks, weights and batches.",
)
OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder; default: runs/<scenario>-<profile>-seed<n>.",
)
STORE = click.option(
    "--store",
    type=StorePlace(),
    help=(
        "Results folder or address (s3://bucket/prefix); default: "
        "$EVOLVE_STORE or store/ beside the run folder."
    ),
)
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help=SET_HELP,
    shell_complete=complete_setting,
)
FORCE = click.option("--force", is_flag=True, help="Replace the file of --out if it is there.")
FILE_OUT = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The .safetensors file to write."
)
CLUSTER = (
    click.option(
        "--scheduler",
        metavar="WHERE",
        help=(
            "Compute on a Dask cluster: tcp://HOST:PORT or a scheduler file (.json), local, "
            "slurm, pbs, sge, lsf, oar, moab, htcondor."
        ),
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        help="With a batch system: how many jobs; --workers processes in each (default: one).",
    ),
    click.option(
        "--cluster",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="With a batch system: queue=, walltime=, memory= and so on, for dask-jobqueue.",
    ),
    click.option(
        "--gpu-share",
        type=click.FloatRange(0, 1, min_open=True),
        help="The part of a GPU that a stage takes on the cluster, such as 0.25.",
    ),
)


def scenario_name(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a scenario's name, as its argument or as --scenario: ``name``."""

    @wraps(command)
    def wrapped(*args: Any, argument: str | None, option: str | None, **rest: Any) -> None:
        if (argument is None) == (option is None):
            what = "no scenario" if argument is None else "two scenarios"
            raise click.UsageError(
                f"{what}; give the name of one that `evolve scenarios` lists, or a TOML file"
            )
        command(*args, name=argument or option, **rest)

    for decorate in (
        click.option(
            "--scenario",
            "option",
            metavar="SCENARIO",
            shell_complete=complete("scenario"),
            help="The same as the argument.",
        ),
        click.argument(
            "argument",
            metavar="[SCENARIO]",
            required=False,
            shell_complete=complete("scenario"),
        ),
    ):
        wrapped = decorate(wrapped)
    return wrapped


def complete(what: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Shell completion: the shipped files of a kind by name, and files of one's own.

    Args:
        what: "scenario" or "batch".
    """

    def items(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
        names = [name for name in shipped(what) if name.startswith(typed)]
        return [CompletionItem(name) for name in names] or [CompletionItem(typed, type="file")]

    return items


def lineage_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name one lineage and where it lies."""
    for option in reversed((PROFILE, SEED, DATA, OUT, STORE, DEVICE, WORKERS, REFERENCE, SET)):
        command = option(command)
    return command


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a Dask cluster.

    It gets them as ``cluster``, an :class:`evolve.engine.cluster.Cluster` or None.
    """

    @wraps(command)
    def wrapped(
        *args: Any,
        scheduler: str | None,
        jobs: int | None,
        gpu_share: float | None,
        settings: tuple[str, ...],
        **rest: Any,
    ) -> None:
        from evolve.engine.cluster import chosen

        command(
            *args, cluster=chosen(scheduler, jobs, gpu_share, settings, rest["workers"]), **rest
        )

    for option in reversed(CLUSTER):
        wrapped = option(wrapped)
    return wrapped


def log_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``log``: trackers, whose packages are there before anything is computed."""

    @wraps(command)
    def wrapped(*args: Any, log: tuple[str, ...], **rest: Any) -> None:
        for name in log:
            there = find_spec(name)
            if there is None or there.origin is None:  # a folder of that name is no package
                raise UserError(
                    f"--log {name}: not installed; pip install 'evolve-learngene[{name}]'"
                )
        command(*args, log=tuple(dict.fromkeys(log)), **rest)

    return click.option(
        "--log",
        multiple=True,
        type=click.Choice(TRACKERS),
        help="Show the curve to this tracker too, beside TensorBoard; may be given for each.",
    )(wrapped)


def run_request(
    name: str,
    profile: str,
    seeds: int | tuple[int, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    store: Path | None,
    **place: Any,
) -> RunRequest:
    """The run that :func:`lineage_options` ask for.

    Args:
        name: a shipped scenario's name, or a file.
        profile: "paper" or "quick".
        seeds: of tasks, weights and batches; of several, the request is the first one's in the
            folder of all.
        overrides: "section.key=value", on top of the file.
        out: the run's folder; None: the default.
        store: the store's folder; None: the default.
        place: the other fields of :class:`evolve.runs.run.Place`.

    Raises:
        UserError: names file, key and value that do not fit.
    """
    from evolve.lineage import scenario
    from evolve.runs.folder import default_out, default_store
    from evolve.runs.run import RunRequest

    chosen = scenario.load(name, profile, overrides)
    out = out or default_out(chosen, seeds, place["reference"])
    first = seeds if isinstance(seeds, int) else seeds[0]
    return RunRequest(out, store or default_store(out), **place, scenario=chosen, seed=first)
