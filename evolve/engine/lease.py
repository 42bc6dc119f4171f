"""Locks that outlive no holder, on any folder that several machines share.

Within one machine the system's file lock does it: it ends with its process. Between machines it
does not. NFS before version 4 keeps the lock of a machine that never comes back; other file systems
do not show one machine's locks to the others. So a holder also has a lease, a file that it touches.
Untouched for ``LEASE_SECONDS``, the lease is free, whatever the file lock says.

A holder that is merely cut off from the folder for so long loses it as well, and two processes then
compute one stage. That costs time and nothing else: results are pure, and the first one stays.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

from filelock import FileLock, SoftFileLease, Timeout

LEASE_SECONDS = 300.0  # every process of a store must have the same
BEAT_SECONDS = 30.0
_POLL_SECONDS = 0.1


class Lease:
    """A lock called ``stem``: the files ``stem``.lock and, while it is held, ``stem``.lease.

    Not reentrant.
    """

    def __init__(self, stem: Path) -> None:
        self.file = stem.with_suffix(".lock")
        self._lock = FileLock(self.file, thread_local=False)
        self._lease = SoftFileLease(
            stem.with_suffix(".lease"),
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=BEAT_SECONDS,
            thread_local=False,
        )

    def take(self, seconds: float = 0.0) -> bool:
        """Take the lock.

        Another machine's lease must have been seen untouched for its time, so ask the same object
        again and again.

        Args:
            seconds: how long to wait.

        Returns:
            Whether it could be had.

        Raises:
            OSError: the folder cannot be written.
        """
        end = time.monotonic() + seconds
        while not self._take():
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def release(self) -> None:
        """Give it back."""
        self._lease.release()
        self._lock.release()

    def _take(self) -> bool:
        alone = _got(self._lock)  # on this machine, nobody else holds it
        try:
            if alone and self._holder_was_here():
                self._lease.force_break()  # a process that is no more
            if (alone or not self._holder_was_here()) and _got(self._lease):
                return True
        except BaseException:
            self._lock.release()
            raise
        self._lock.release()
        return False

    def _holder_was_here(self) -> bool:
        """Whether the lease names this machine (in one of its containers, if it has any)."""
        owner = self._lease.owner
        return owner is not None and owner.hostname.partition("?")[0] == socket.gethostname()


def _got(lock: FileLock | SoftFileLease) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
