"""Worker processes, which compute one stage or one set of stages at a time.

A worker computes on one thread (faster on a shared machine, and bit-stable), keeps its caches from
stage to stage, ignores Ctrl-C (the engine decides) and dies with its parent, whatever kills that.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from evolve.core.errors import UserError
from evolve.core.machine import SURROUNDINGS, set_variables, unpinned
from evolve.engine.execution import execute_quietly, portable
from evolve.engine.store import Stage, Store

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ),
    "1",
)
SINGLE: Mapping[str, str | None] = {**SURROUNDINGS, **ONE_THREAD}
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES = 1 << 30


class Worker:
    """A worker process as the engine sees it.

    ``stages`` is what it computes now, by key; empty while idle. ``place`` is environment variables
    of its own, such as the one GPU that it sees.
    """

    def __init__(
        self, store_root: Path, perform: str, context: Mapping[str, Any], place: Mapping[str, str]
    ) -> None:
        self.place = place
        spawn = multiprocessing.get_context("spawn")
        self.connection, far_end = spawn.Pipe()
        self.process = spawn.Process(
            target=_main,
            args=(far_end, os.getpid(), store_root, perform, dict(context)),
            daemon=True,
        )
        with birth({**SINGLE, **place}):
            self.process.start()
        far_end.close()
        self.stages: dict[str, Stage] = {}

    def give(self, stages: Sequence[Stage]) -> None:
        """Hand over a stage or a set. If the process is dead, :meth:`messages` will say so."""
        self.stages = {stage.key: stage for stage in stages}
        with suppress(OSError):
            self.connection.send(list(stages))

    def messages(self) -> Iterator[tuple[Any, ...] | None]:
        """What has arrived; a last None if the process is dead."""
        try:
            while self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            yield None

    def kill(self) -> None:
        """End the process now. Safe at any moment: all it writes is written whole or not at all."""
        self.process.kill()

    def release(self) -> None:
        """Let an idle process leave; :meth:`reap` must follow."""
        with suppress(OSError):
            self.connection.send(None)

    def reap(self, seconds: float = 5.0) -> int | None:
        """Wait until the process is gone, killing it after ``seconds``.

        Returns:
            Its exit code.
        """
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        self.connection.close()
        self.process.close()
        return code


@contextmanager
def birth(environment: Mapping[str, str | None]) -> Iterator[None]:
    """Around a process's start: it gets these environment variables, all cores, and no Ctrl-C.

    Args:
        environment: by name; it does not get those that are None.
    """
    before = {name: os.environ.get(name) for name in environment}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    set_variables(environment)
    try:
        with unpinned():
            yield
    finally:
        set_variables(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _main(
    connection: Connection, parent: int, store_root: Path, perform: str, context: Mapping[str, Any]
) -> None:
    """The worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    keep_memory()

    def send(*message: Any) -> None:
        try:
            connection.send(message)
        except OSError:
            os._exit(1)  # the engine is gone

    store: Store | None = None
    while (stages := _next(connection)) is not None:
        try:
            store = store or Store(store_root, lambda text: send("", "notice", text))
        except UserError as error:
            send(stages[0].key, "refused", portable(error))
            continue
        execute_quietly(stages, store, perform, context, send)


def _next(connection: Connection) -> list[Stage] | None:
    try:
        stages: list[Stage] | None = connection.recv()
        return stages
    except (EOFError, OSError):
        return None


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the kernel.

    Every step of a training frees and takes the same megabytes. Handed back, they are faulted in
    again page by page, which is a fifth to a third of a step. Nothing happens under another C
    library.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)


def _die_with(parent: int) -> None:
    """Be killed when the parent dies: by the kernel on Linux, by a watching thread elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    born_of = multiprocessing.parent_process()

    def watch(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    if born_of is not None:
        threading.Thread(target=watch, args=(born_of.sentinel,), daemon=True).start()
