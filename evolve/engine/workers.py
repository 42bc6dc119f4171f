"""One stage or one set of stages at a time, in a process of its own: what a worker does, and the
local crew's handle of it.

A worker computes on one thread (faster on a shared machine, and bit-stable), keeps its caches from
stage to stage, ignores Ctrl-C (the engine decides) and dies with its parent, whatever kills that.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from evolve.core.errors import UserError, first_line
from evolve.engine.store import Stage, StageLocked, Store

Send = Callable[..., None]  # (a stage's key, what, *content)

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
_PROGRESS_INTERVAL = 0.2  # seconds between two reports of one stage
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES = 1 << 30


def execute(
    stages: Sequence[Stage], store: Store, perform: str, context: Mapping[str, Any], send: Send
) -> None:
    """Compute one stage, or several as a set, and tell ``send`` how it went; raises nothing but
    KeyboardInterrupt.

    Sends (key, "progress", fraction, text), (key, "waiting") and (key, "notice", text) while it
    runs, and for each stage one of these at the end: (key, "done", seconds, from_store), (key,
    "lost", role) for a damaged input, (key, "refused", UserError), (key, "failed", one line); of a
    set also (key, "held") if another process is computing it, and (key, "apart") if it has to be
    computed alone.
    """
    if len(stages) == 1:
        _execute_one(stages[0], store, perform, context, partial(send, stages[0].key))
    else:
        _execute_set(stages, store, perform, context, send)


def execute_quietly(
    stages: Sequence[Stage], store: Store, perform: str, context: Mapping[str, Any], send: Send
) -> None:
    """:func:`execute`, with what this process prints meanwhile in the first stage's log.

    A finished stage needs none.
    """
    with _output_to(store.log(stages[0].key)):
        execute(stages, store, perform, context, send)
    for stage in stages:
        if store.has(stage.key):
            with suppress(OSError):
                store.log(stage.key).unlink(missing_ok=True)


def _execute_one(
    stage: Stage, store: Store, perform: str, context: Mapping[str, Any], tell: Send
) -> None:
    """Under its lock, for which it waits."""
    words: Iterator[tuple[Any, ...]] = chain(
        [("waiting",)], repeat(("progress", 0.0, "waiting for another run"))
    )
    try:
        with store.lock(stage.key, waiting=lambda: tell(*next(words))):
            if not _needed(stage, store, tell):
                return
            started = time.monotonic()
            _find(perform)(stage, store, context, _throttled(partial(tell, "progress")))
            if not store.has(stage.key):
                raise RuntimeError(f"{perform} returned without putting the result into the store")
            tell("done", time.monotonic() - started, False)
    except UserError as error:
        tell("refused", _portable(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        tell("failed", _explained(error, store.log(stage.key), stage.label))


def _execute_set(
    stages: Sequence[Stage], store: Store, perform: str, context: Mapping[str, Any], send: Send
) -> None:
    """Under all locks that are free: two processes with overlapping sets that waited for each other
    would wait for ever.

    Whatever goes wrong, nobody knows in which stage: those without a result have to be computed
    alone, and then it shows.
    """
    left = [stage.key for stage in stages]
    mine: list[Stage] = []

    def end(key: str, *message: Any) -> None:
        left.remove(key)
        send(key, *message)

    def report(fraction: float, text: str) -> None:
        for stage in mine:
            send(stage.key, "progress", fraction, text)

    try:
        with ExitStack() as locks:
            held = [
                stage for stage in stages if _got_lock(stage, store, locks, partial(end, stage.key))
            ]
            mine += [stage for stage in held if _needed(stage, store, partial(end, stage.key))]
            started = time.monotonic()
            if mine:
                _find(f"{perform.partition(':')[0]}:perform_set")(
                    mine, store, context, _throttled(report)
                )
            for stage in mine:
                if store.has(stage.key):
                    end(stage.key, "done", (time.monotonic() - started) / len(mine), False)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = _explained(error, store.log(stages[0].key), named(stages))
        send("", "notice", f"{named(stages)}: {text}; computing each alone")
    for key in list(left):
        end(key, "apart")


def named(stages: Sequence[Stage]) -> str:
    """A stage or a set in a few words."""
    return (
        stages[0].label
        if len(stages) == 1
        else f"{stages[0].label} and {len(stages) - 1} more together"
    )


def _got_lock(stage: Stage, store: Store, locks: ExitStack, tell: Send) -> bool:
    """Whether the stage's lock could be taken without waiting; ``locks`` gives it back."""
    try:
        locks.enter_context(store.unheld(stage.key))
    except StageLocked:
        tell("held")
        return False
    return True


def _needed(stage: Stage, store: Store, tell: Send) -> bool:
    """Whether the stage, whose lock is held, has still to be computed, and can be."""
    if store.get(stage.key) is not None:
        tell("done", 0.0, True)
        return False
    lost = [role for role, key in stage.inputs.items() if store.get(key) is None]
    if lost:
        tell("lost", lost[0])
    return not lost


class Worker:
    """A worker process as the engine sees it.

    ``stages`` is what it computes now, by key; empty while idle.

    ``place``: environment variables of its own, such as the one GPU that it sees.
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
        with birth({**ONE_THREAD, **place}):
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
        """Wait until the process is gone, killing it after ``seconds``; its exit code."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        self.connection.close()
        self.process.close()
        return code


@contextmanager
def birth(environment: Mapping[str, str]) -> Iterator[None]:
    """Around a start: the child gets these variables, and no Ctrl-C even before its first line
    runs.
    """
    before = {name: os.environ.get(name) for name in environment}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
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
            send(stages[0].key, "refused", _portable(error))
            continue
        execute_quietly(stages, store, perform, context, send)


def _next(connection: Connection) -> list[Stage] | None:
    try:
        stages: list[Stage] | None = connection.recv()
        return stages
    except (EOFError, OSError):
        return None


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the kernel at once, only to fault
    it in again page by page.

    Every step of a training frees and takes the same megabytes: without this a fifth to a third of
    a step goes into page faults. Nothing happens under another C library.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)


def _die_with(parent: int) -> None:
    """Be killed when the parent dies: by the kernel on Linux, and by a watching thread elsewhere."""
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


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send what libraries print, and a crash's last words, to the stage's log; an empty log is
    removed.

    The screen belongs to the engine's caller. Nothing is kept when even the log cannot be written.
    """
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        handle = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    faulthandler.enable(2)
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])
        with suppress(OSError):
            if log.stat().st_size == 0:
                log.unlink()


def _find(dotted: str) -> Callable[..., None]:
    """The function that "package.module:function" names; torch, if that brought it in, is held to
    one thread.
    """
    module, _, name = dotted.partition(":")
    found: Callable[..., None] = getattr(importlib.import_module(module), name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return found


def _throttled(report: Callable[[float, str], Any]) -> Callable[[float, str], None]:
    """The stage's progress report; most calls cost a clock reading only."""
    last = -_PROGRESS_INTERVAL

    def progress(fraction: float, text: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PROGRESS_INTERVAL:
            last = now
            report(min(1.0, max(0.0, float(fraction))), str(text))

    return progress


def _portable(error: UserError) -> UserError:
    """The error if it survives a pipe, else a plain UserError with its line."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return UserError(str(error))
    return error


def _explained(error: BaseException, log: Path, who: str) -> str:
    """The error in one line; its traceback goes to the log."""
    _append(log, f"{who}\n{traceback.format_exc()}")
    return f"{type(error).__name__}: {first_line(error)}".rstrip(": ")


def _append(log: Path, text: str) -> None:
    with suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(text)


def usable_cores() -> int:
    """Cores that this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )
