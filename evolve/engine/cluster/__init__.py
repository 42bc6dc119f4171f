"""Stages on a Dask cluster: one that is there, one on this machine, or one of batch jobs.

Batch jobs are those of SLURM, PBS and others. Importing this imports neither Dask nor torch. The
user's side is docs/cluster.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from evolve.core.errors import UserError

# Batch systems by the name of their class in dask_jobqueue.
SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "htcondor": "HTCondorCluster",
}
FORMS = f"a scheduler's address (tcp://host:8786), its file (.json), local, {', '.join(SYSTEMS)}"


@dataclass(frozen=True)
class Cluster:
    """Which cluster computes. Nothing here can change a number.

    ``workers``: with an address, how many stages at once at most; with "local" the processes; with
    a batch system the processes of one job. 0 leaves it to the scheduler's workers, the cores, or
    one a job. ``settings``: the batch system's, repeated keys as lists.
    """

    scheduler: str
    jobs: int = 1
    workers: int = 0
    gpu_share: float = 0.0  # the part of a GPU that a stage takes; 0: it asks for none
    settings: dict[str, str | list[str]] = field(default_factory=dict)


def chosen(
    scheduler: str | None,
    jobs: int | None,
    gpu_share: float | None,
    settings: tuple[str, ...],
    workers: int,
) -> Cluster | None:
    """The cluster that the command line's options mean.

    Args:
        scheduler: --scheduler.
        jobs: --jobs.
        gpu_share: --gpu-share.
        settings: --cluster, "KEY=VALUE" each.
        workers: --workers.

    Returns:
        The cluster; None: this machine's own processes.

    Raises:
        UserError: the options do not fit each other.
    """
    given = {"--jobs": jobs, "--gpu-share": gpu_share, "--cluster": settings or None}
    if scheduler is None:
        if name := next((name for name, value in given.items() if value is not None), ""):
            raise UserError(f"{name} needs --scheduler: {FORMS}")
        return None
    address = "://" in scheduler or scheduler.endswith(".json")
    if scheduler not in ("local", *SYSTEMS) and not address:
        raise UserError(f"--scheduler {scheduler}: unknown; allowed are {FORMS}")
    if scheduler not in SYSTEMS and (
        name := next((name for name in ("--jobs", "--cluster") if given[name] is not None), "")
    ):
        raise UserError(
            f"{name} is for a batch system ({', '.join(SYSTEMS)}), not for --scheduler {scheduler}"
        )
    return Cluster(scheduler, jobs or 1, workers, gpu_share or 0.0, _table(settings))


def _table(pairs: tuple[str, ...]) -> dict[str, str | list[str]]:
    """KEY=VALUE pairs; a key that is given several times has a list."""
    lists: dict[str, list[str]] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UserError(
                f"--cluster {pair}: write KEY=VALUE, such as --cluster walltime=12:00:00"
            )
        lists.setdefault(key, []).append(value)
    return {key: values if len(values) > 1 else values[0] for key, values in lists.items()}
