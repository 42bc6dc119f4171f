"""Reaches a cluster: a scheduler that is there, or one that is started with its workers.

The workers are on this machine, or batch jobs.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

from evolve.core.errors import UserError, first_line
from evolve.core.machine import usable_cores
from evolve.engine.cluster import SYSTEMS, Cluster
from evolve.engine.workers import SINGLE, birth

CONNECT_SECONDS = 20
# settings that --workers and --jobs decide
OURS = ("cores", "processes", "nanny", "n_workers", "scheduler", "asynchronous", "loop")
# parameters that no user sets
NOT_SETTINGS = frozenset(
    "self job_cls name dashboard_address scheduler_options job_extra args kwargs".split()
)
# settings that may be given several times
LISTS = (
    "job_extra_directives",
    "job_script_prologue",
    "env_extra",
    "worker_extra_args",
    "job_directives_skip",
)


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Connect to a cluster, which is started if need be.

    What was started ends with it; a scheduler that was there stays, without our stages.

    Returns:
        A ``distributed.Client``.

    Raises:
        UserError: Dask is missing, nobody answers, or the batch system refuses the settings.
    """
    distributed = _load("distributed")
    with ExitStack() as ends:
        ends.enter_context(_silence())
        if cluster.scheduler == "local":
            where = ends.enter_context(_local(distributed, cluster))
        elif cluster.scheduler in SYSTEMS:
            where = ends.enter_context(_batch_system(cluster))
        else:
            where = cluster.scheduler
        yield ends.enter_context(_client(distributed, where))


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Dask's log off the screen: what matters reaches the user as an event or an error."""
    loggers = list(logging.root.manager.loggerDict)
    levels = {
        name: logging.getLogger(name).level
        for name in loggers
        if name.partition(".")[0] in ("distributed", "dask_jobqueue")
    }
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"--scheduler needs {error.name or module}: pip install -e '.[cluster]' in evolve's "
            "folder"
        ) from None


def _client(distributed: Any, where: Any) -> Any:
    file = isinstance(where, str) and where.endswith(".json") and "://" not in where
    try:
        return distributed.Client(
            **{"scheduler_file" if file else "address": where},
            timeout=CONNECT_SECONDS,
            set_as_default=False,
        )
    except (OSError, ValueError, TimeoutError) as error:
        line = first_line(error) or type(error).__name__
        raise UserError(
            f"--scheduler {where}: no scheduler answers ({line}); start one with `dask scheduler`, "
            "or check the address"
        ) from None


def _local(distributed: Any, cluster: Cluster) -> Any:
    """A cluster on this machine. Its threads and their processes never hear a Ctrl-C.

    A scheduler runs whatever code a client sends, and any user of this machine can reach a loopback
    port. So all speak TLS with a certificate of this run, which every side must show. There is no
    dashboard, and Dask's status pages are empty.
    """
    _load("cryptography")  # makes the certificate
    share = cluster.gpu_share
    # Started here: the first start of a process would start it, and let Ctrl-C through again.
    resource_tracker.ensure_running()
    no_pages: dict[str, list[str]] = {
        f"distributed.{side}.http.routes": [] for side in ("scheduler", "worker")
    }
    with birth(SINGLE), _load("dask").config.set(no_pages):
        return distributed.LocalCluster(
            n_workers=cluster.workers or (int(1 / share + 1e-9) if share else usable_cores()),
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            host="127.0.0.1",
            protocol="tls",
            security=distributed.Security.temporary(),
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any free port for no pages
            resources={"GPU": share} if share else None,
            silence_logs=logging.CRITICAL,
        )


def _batch_system(cluster: Cluster) -> Any:
    """The batch system's cluster with its jobs asked for.

    Each job has ``processes`` workers of one thread. A job that ends early is replaced.
    """
    kind = getattr(_load("dask_jobqueue"), SYSTEMS[cluster.scheduler])
    processes = cluster.workers or (int(1 / cluster.gpu_share + 1e-9) if cluster.gpu_share else 1)
    settings: dict[str, Any] = {
        name: [value] if name in LISTS and isinstance(value, str) else value
        for name, value in cluster.settings.items()
    }
    _check_names(kind, cluster)
    if "memory" not in settings and not _load("dask").config.get(
        f"jobqueue.{cluster.scheduler}.memory", None
    ):
        raise UserError(
            f"--scheduler {cluster.scheduler}: how much memory has a job? Say it with --cluster "
            "memory=4GB (or in ~/.config/dask/jobqueue.yaml)"
        )
    if cluster.gpu_share:
        settings["worker_extra_args"] = [
            *settings.get("worker_extra_args", []),
            "--resources",
            f"GPU={cluster.gpu_share}",
        ]
    settings["scheduler_options"] = {"dashboard_address": "127.0.0.1:0"}
    try:
        batch = kind(cores=processes, processes=processes, **settings)
    except (OSError, ValueError, TypeError) as error:
        line = first_line(error) or type(error).__name__
        raise UserError(
            f"--scheduler {cluster.scheduler}: {line} (settings go by --cluster KEY=VALUE or "
            "~/.config/dask/jobqueue.yaml)"
        ) from None
    batch.adapt(minimum_jobs=cluster.jobs, maximum_jobs=cluster.jobs)
    return batch


def _check_names(kind: Any, cluster: Cluster) -> None:
    """Refuse a setting that neither the cluster nor its jobs know, and a list where none may be."""
    allowed = _setting_names(kind)
    for key, value in cluster.settings.items():
        if key in OURS:
            raise UserError(
                f"--cluster {key}: --jobs says how many jobs, --workers how many processes in "
                "each, one thread a process"
            )
        if key not in allowed:
            raise UserError(
                f"--cluster {key}: {cluster.scheduler} has no such setting; allowed are "
                f"{', '.join(allowed)}"
            )
        if isinstance(value, list) and key not in LISTS:
            raise UserError(
                f"--cluster {key}: given {len(value)} times; only {', '.join(LISTS)} may be "
                "repeated"
            )


def _setting_names(kind: Any) -> list[str]:
    """The parameters that a dask_jobqueue cluster and its jobs are made with."""
    makers: list[Callable[..., Any]] = [
        base.__init__ for base in (*kind.__mro__, *kind.job_cls.__mro__) if "__init__" in vars(base)
    ]
    texts = {
        p.name
        for make in makers
        for p in inspect.signature(make).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    return sorted(texts - {*OURS, *NOT_SETTINGS})
