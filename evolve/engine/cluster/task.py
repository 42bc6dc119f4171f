"""What a Dask worker does with one stage.

It looks whether it is fit, then computes as a local worker would, under the store's lock. The
scheduler imports this module too: nothing heavy at its top.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolve.core.errors import UserError
from evolve.core.machine import settle_surroundings
from evolve.core.version import versions
from evolve.engine.execution import execute_quietly
from evolve.engine.store import Stage, Store
from evolve.engine.workers import ONE_THREAD, keep_memory

# those that Dask's nanny sets
BLAS_THREADS = tuple(name for name in ONE_THREAD if name.startswith(("OMP", "MKL", "OPENBLAS")))
REPORT_SECONDS = 2.0  # between two reports of progress that travel
SETTLE_SECONDS = 70.0  # NFS may show a folder's new entry after acdirmax, by default 60 s


@dataclass(frozen=True)
class Assignment:
    """One stage for whichever worker gets it.

    ``paths``: what must be there besides the store; ``topic``: where it reports.
    """

    stage: Stage
    store_root: Path
    perform: str
    context: Mapping[str, Any]
    versions: Mapping[str, str]
    paths: Sequence[Path]
    topic: str


class Released(KeyboardInterrupt):
    """Nobody wants the stage any more.

    As after Ctrl-C, no room takes it for an error of its own.
    """


def compute(packed: bytes) -> tuple[Any, ...]:
    """Compute one stage on a Dask worker.

    Args:
        packed: a pickled :class:`Assignment`.

    Returns:
        The message that ends the stage, as :func:`evolve.engine.execution.execute` sends it, or
        ("", "unfit", why) or ("", "released").
    """
    from distributed import get_worker

    settle_surroundings()
    worker = get_worker()
    task, work = worker.get_current_task(), pickle.loads(packed)
    end: list[tuple[Any, ...]] = []
    told = -REPORT_SECONDS

    def report(what: str, *content: Any) -> None:
        worker.log_event(work.topic, [work.stage.key, what, *content])

    def check_wanted() -> None:
        held = worker.state.tasks.get(task)
        if held is None or held.state == "cancelled":
            raise Released

    def send(key: str, what: str, *content: Any) -> None:
        nonlocal told
        if what not in ("progress", "waiting", "notice"):
            return end.append((key, what, *content))
        check_wanted()
        if what != "progress" or time.monotonic() - told >= REPORT_SECONDS:
            told = time.monotonic()
            report(what, *content)

    report("began", worker.address)
    name = f"worker {worker.address} on {socket.gethostname()}"
    if why := unfit(work, worker.state.nthreads):
        return "", "unfit", f"{name} {why}"
    try:
        store = Store(work.store_root, lambda text: send("", "notice", text))
        keep_memory()
        settle(store, work.stage.inputs.values())
        check_wanted()
        execute_quietly([work.stage], store, work.perform, work.context, send)
    except Released:
        return "", "released"
    except UserError as error:  # the store cannot be used here
        return work.stage.key, "refused", UserError(f"{name}: {error}")
    return end[0]


def unfit(work: Assignment, threads: int) -> str:
    """Why this process could not compute the very bits that the client's would.

    Args:
        work: what is to be computed.
        threads: the threads of this worker.

    Returns:
        The reason; empty if the process is fit.
    """
    here = versions()
    for name, wanted in work.versions.items():
        if here[name] != wanted:
            return (
                f"has {name} {here[name]}, this command {wanted}: their results may differ in "
                "bits; install the same version on both"
            )
    if threads != 1:
        return (
            f"runs {threads} threads: start it with --nthreads 1 (and --nworkers as many as it "
            "has cores)"
        )
    if wrong := next((name for name in BLAS_THREADS if os.environ.get(name) != "1"), ""):
        return (
            f"has {wrong}={os.environ.get(wrong)}: start it with its nanny (Dask's default), "
            f"or with {wrong}=1"
        )
    if not (work.store_root / "store.json").is_file():
        return (
            f"does not see the store {work.store_root}: give a --store on a folder that all "
            "machines share, under the same path"
        )
    if lost := next((path for path in work.paths if not path.exists()), None):
        return (
            f"does not see {lost}: put it on a folder that all machines share, under the same path"
        )
    return ""


def settle(store: Store, keys: Iterable[str], seconds: float = SETTLE_SECONDS) -> bool:
    """Wait until this machine, too, sees results.

    Over NFS a machine may go on not seeing a folder that another has just made. Listing the one
    around it makes it look again.

    Args:
        store: where they lie.
        keys: of their stages.
        seconds: how long to wait.

    Returns:
        Whether it sees them.
    """
    end = time.monotonic() + seconds
    wanted = list(keys)
    while lacking := [key for key in wanted if not store.has(key)]:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
        for key in lacking:
            list(store.root.glob(f"results/*/{key[:2]}/*"))
    return True
