"""Both sides wait in long-lived processes of their own.

So no import is timed, and neither side runs while the other is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.engine.workers import SINGLE, birth

from .cases import DATA


@dataclass(frozen=True)
class Role:
    """Who a process is: ``plain`` has torch's own threads, ours one thread and a ``number``.

    ``start_method``: this platform's usual one. ``data``: the images.
    """

    plain: bool
    device: str
    cache: Path
    number: int
    start_method: str
    data: DataSettings = DATA


class Process:
    """A process that holds one side.

    ``ask`` waits for the answer; ``send`` and ``answer`` let several work at once.
    """

    def __init__(self, role: Role) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, far_end = spawn.Pipe()
        # Not a daemon: those may not have children, and a DataLoader has. It leaves when the pipe
        # closes.
        self.process = spawn.Process(target=_main, args=(far_end, role))
        with birth({} if role.plain else SINGLE):
            self.process.start()
        far_end.close()

    def send(self, command: str, *arguments: Any) -> None:
        """Start a command."""
        self.connection.send((command, arguments))

    def answer(self) -> Any:
        """Wait for the answer to a command.

        Raises:
            UserError: as the other process raised it.
            RuntimeError: it failed otherwise, with its traceback.
        """
        try:
            good, value = self.connection.recv()
        except EOFError as error:
            self.process.join(5)
            raise RuntimeError(
                f"bench: a measuring process died (exit code {self.process.exitcode})"
            ) from error
        if good:
            return value
        if isinstance(value, UserError):
            raise value
        raise RuntimeError(f"bench: a measuring process failed:\n{value}")

    def ask(self, command: str, *arguments: Any) -> Any:
        """:meth:`send`, then :meth:`answer`."""
        self.send(command, *arguments)
        return self.answer()

    def close(self) -> None:
        """Let it leave; end it if it does not."""
        with suppress(OSError):
            self.connection.close()
        self.process.join(10)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


@contextmanager
def crew(
    device: str, cache: Path, processes: int, data: DataSettings = DATA
) -> Iterator[tuple[Process, list[Process]]]:
    """Inside, the baseline's process and ours are there.

    Args:
        device: "cpu" or "cuda".
        cache: where decoded images lie.
        processes: how many of ours.
        data: the images.
    """
    with ExitStack() as stack:
        started: list[Process] = []
        usual = multiprocessing.get_start_method()
        for role in (
            Role(True, device, cache, 0, usual, data),
            *(Role(False, device, cache, number, usual, data) for number in range(processes)),
        ):
            started.append(Process(role))
            stack.callback(started[-1].close)
        yield started[0], started[1:]


def _main(connection: Connection, role: Role) -> None:
    """The process: one command after the other until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A spawned process would spawn its own children too: the baseline's loader starts them as it
    # does in a user's own script.
    multiprocessing.set_start_method(role.start_method, force=True)
    from .bench_process import (
        BenchProcess,  # torch, in the process that needs it, while its parent draws the images
    )

    bench: Any = None
    while True:
        try:
            command, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            bench = bench or BenchProcess(role)
            reply = (True, getattr(bench, command)(*arguments))
        except UserError as error:
            reply = (False, error)
        except Exception:
            reply = (False, traceback.format_exc())
        with suppress(OSError):
            connection.send(reply)


@contextmanager
def one_core_taken() -> Iterator[int | None]:
    """Inside, another program keeps one core busy with matrix products.

    It is pinned to that core, where the system can pin.

    Yields:
        The core; None where it is not pinned.
    """
    spawn = multiprocessing.get_context("spawn")
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    started = spawn.Event()
    with birth(SINGLE):
        process = spawn.Process(target=_multiply, args=(core, started), daemon=True)
        process.start()
    try:
        if not started.wait(60):
            raise RuntimeError("bench: the program that takes a core did not start")
        yield core
    finally:
        process.kill()
        process.join()


def _multiply(core: int | None, started: Any) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if core is not None:
        os.sched_setaffinity(0, {core})
    parent, checked = os.getppid(), time.monotonic()
    left = torch.rand(512, 512)
    started.set()
    while True:
        torch.mm(left, left)
        if time.monotonic() - checked > 1:
            checked = time.monotonic()
            if os.getppid() != parent:  # nobody is left to stop us
                return
