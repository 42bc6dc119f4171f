"""The event files that TensorBoard reads: ours alone are emptied, and a full disk is one line."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evolve.core.errors import UserError

SUFFIX = ".evolve"  # ends the names of our event files, so that nobody else's are touched
EMPTY_KEPT = 600  # seconds; a running TensorBoard has moved on from an emptied file by then


def clear_ours(folder: Path) -> float:
    """Empty the event files that we wrote into this folder.

    They are emptied, not removed: a running TensorBoard that finds the file it reads gone never
    looks at the next one. Files that have been empty for a while go.

    Args:
        folder: where they lie; nobody else's files are touched.

    Returns:
        The newest one's time, s since 1970; 0 if there was none.
    """
    newest = 0.0
    for path in sorted(folder.glob(f"events.out.tfevents.*{SUFFIX}")):
        if not path.is_file() or path.is_symlink():
            continue
        stamp = path.name.removeprefix("events.out.tfevents.").partition(".")[0]
        newest = max(newest, float(stamp) if stamp.isdigit() else 0.0)
        state = path.stat()
        if state.st_size > 0:
            os.truncate(path, 0)
        elif time.time() - state.st_mtime > EMPTY_KEPT:
            path.unlink(missing_ok=True)
    return newest


def wait_until_after(stamp: float) -> None:
    """Wait until a new event file's name sorts after the newest one's.

    A running TensorBoard reads only such files. Names start with the second.

    Args:
        stamp: the newest one's time, s since 1970.
    """
    while stamp <= time.time() < stamp + 1:
        time.sleep(0.05)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn an OSError inside into one line that names the folder.

    TensorBoard writes in a thread of its own, which hands its error on to the next call. What that
    thread would print of it is left out.

    Args:
        folder: what is written into.

    Raises:
        UserError: that line.
    """
    if not isinstance(threading.excepthook, _Quiet):
        threading.excepthook = _Quiet(threading.excepthook)
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"cannot write TensorBoard files to {folder}: {reason}; "
            "free some space or choose another folder"
        ) from error


class _Quiet:
    """A hook for errors of threads that says nothing of a TensorBoard writer's OSError."""

    def __init__(self, before: Callable[[threading.ExceptHookArgs], object]) -> None:
        self.before = before

    def __call__(self, error: threading.ExceptHookArgs) -> None:
        writer = type(error.thread).__module__.startswith("tensorboard.")
        if not (writer and isinstance(error.exc_value, OSError)):
            self.before(error)
