"""File locks, also where the file system has none.

NFS before version 4 without its lock daemon, some FUSE and parallel file systems refuse ``flock``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def locked(lock: BaseFileLock, seconds: float = -1) -> bool:
    """Take a lock, if the file system has any.

    Args:
        lock: the lock.
        seconds: how long to wait for it; -1: for ever.

    Returns:
        Whether it is held now; False where the file system has no locks.

    Raises:
        filelock.Timeout: another process held it for so long.
        OSError: the folder cannot be written.
    """
    try:
        lock.acquire(timeout=seconds)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:  # Timeout is one and has none
            raise
        return False
    return True


@contextmanager
def held(file: Path, seconds: float = -1) -> Iterator[None]:
    """Hold a lock; where the file system has none, a marker beside its file.

    The marker is made exclusively. One that a dead process of this machine left is taken over.

    Args:
        file: the lock's.
        seconds: how long to wait for it; -1: for ever.

    Raises:
        filelock.Timeout: another process held it for so long.
        OSError: the folder cannot be written.
    """
    lock: BaseFileLock = FileLock(file)
    if not locked(lock, seconds):
        lock = SoftFileLock(f"{file}.held")
        lock.acquire(timeout=seconds)
    try:
        yield
    finally:
        lock.release()
