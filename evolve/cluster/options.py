"""The command line's options for a cluster; the same for every command that computes a lineage."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

OPTIONS = (
    click.option(
        "--scheduler",
        metavar="WHERE",
        help="Compute on a Dask cluster: tcp://HOST:PORT or a scheduler file (.json), local, slurm, pbs, sge, lsf, oar, moab, htcondor.",
    ),
    click.option("--jobs", type=click.IntRange(min=1), help="With a batch system: how many jobs; --workers processes in each (default: one)."),
    click.option(
        "--cluster", "settings", multiple=True, metavar="KEY=VALUE", help="With a batch system: queue=, walltime=, memory= and so on, for dask-jobqueue."
    ),
    click.option("--gpu-share", type=click.FloatRange(0, 1, min_open=True), help="The part of a GPU that a stage takes on the cluster, such as 0.25."),
)


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` the options; it gets them as ``cluster``, an :class:`evolve.cluster.Cluster` or None."""

    @wraps(command)
    def wrapped(*args: Any, scheduler: str | None, jobs: int | None, gpu_share: float | None, settings: tuple[str, ...], **rest: Any) -> None:
        from evolve.cluster import chosen

        command(*args, cluster=chosen(scheduler, jobs, gpu_share, settings, rest["workers"]), **rest)

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped
