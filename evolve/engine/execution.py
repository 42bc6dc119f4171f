"""Computes one stage, or several as a set, and tells how it went."""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from evolve.core.errors import UserError, first_line
from evolve.engine.store import Stage, StageLocked, Store

Send = Callable[..., None]  # (a stage's key, what, *content)

_PROGRESS_INTERVAL = 0.2  # seconds between two reports of one stage


def execute(
    stages: Sequence[Stage], store: Store, perform: str, context: Mapping[str, Any], send: Send
) -> None:
    """Compute one stage, or several as a set, and tell ``send`` how it went.

    While it runs, it sends (key, "progress", fraction, text), (key, "waiting") and (key, "notice",
    text). In the end it sends for each stage one of these:

        (key, "done", seconds, from_store)
        (key, "lost", role)           an input is damaged
        (key, "refused", UserError)
        (key, "failed", one line)
        (key, "held")                 of a set: another process is computing it
        (key, "apart")                of a set: it has to be computed alone

    Args:
        stages: one stage, or a set of one key (:class:`evolve.engine.scheduler.Sets`).
        store: where the inputs lie and the results go.
        perform: "package.module:function".
        context: what ``perform`` gets beside the stage.
        send: is called with each message.

    Raises:
        KeyboardInterrupt: nothing else.
    """
    if len(stages) == 1:
        _execute_one(stages[0], store, perform, context, partial(send, stages[0].key))
    else:
        _execute_set(stages, store, perform, context, send)


def execute_quietly(
    stages: Sequence[Stage], store: Store, perform: str, context: Mapping[str, Any], send: Send
) -> None:
    """:func:`execute`, with what this process prints meanwhile in the first stage's log.

    The logs of finished stages are removed. The arguments are those of :func:`execute`.
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
    """Compute under the stage's lock, for which this waits."""
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
        tell("refused", portable(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        tell("failed", _explained(error, store.log(stage.key), stage.label))


def _execute_set(
    stages: Sequence[Stage], store: Store, perform: str, context: Mapping[str, Any], send: Send
) -> None:
    """Compute under all locks that are free.

    It waits for none: two processes with overlapping sets would wait for each other for ever.
    Whatever goes wrong, nobody knows in which stage. So those without a result have to be computed
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
                perform_set = _find(f"{perform.partition(':')[0]}:perform_set")
                perform_set(mine, store, context, _throttled(report))
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


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send what libraries print, and a crash's last words, to a log; an empty log is removed.

    The screen belongs to the engine's caller. Nothing is kept when even the log cannot be written.
    """
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        handle = os.open(os.devnull, os.O_WRONLY)
    _flush_streams()
    kept = os.dup(1), os.dup(2)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    faulthandler.enable(2)
    try:
        yield
    finally:
        with suppress(OSError):
            _flush_streams()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])
        with suppress(OSError):
            if log.stat().st_size == 0:
                log.unlink()


def _flush_streams() -> None:
    """Write out what was printed; a stream is None in a process that was started without it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _find(dotted: str) -> Callable[..., None]:
    """The function that "package.module:function" names; torch is held to one thread."""
    module, _, name = dotted.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return function


def _throttled(report: Callable[[float, str], Any]) -> Callable[[float, str], None]:
    """The stage's progress report; most calls cost a clock reading only."""
    last = -_PROGRESS_INTERVAL

    def progress(fraction: float, text: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _PROGRESS_INTERVAL:
            last = now
            report(min(1.0, max(0.0, float(fraction))), str(text))

    return progress


def portable(error: UserError) -> UserError:
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
