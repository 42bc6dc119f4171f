"""The command line's options that several commands share. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

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


OPTIONS = (
    click.option(
        "--scheduler",
        metavar="WHERE",
        help="Compute on a Dask cluster: tcp://HOST:PORT or a scheduler file (.json), local, slurm, pbs, sge, lsf, oar, moab, htcondor.",
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


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the options; it gets them as ``cluster``, an :class:`evolve.engine.cluster.Cluster` or None."""

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

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped
