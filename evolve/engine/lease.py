"""Locks that outlive no holder, on any folder that several machines share.

Within one machine the system's file lock does it: it ends with its process. Between machines it
does not. NFS before version 4 keeps the lock of a machine that never comes back; other file systems
do not show one machine's locks to the others. So a holder also has a lease, a file that it touches.
Untouched for ``LEASE_SECONDS``, the lease is free, whatever the file lock says.

A holder that is merely cut off from the folder for so long loses it as well, and two processes then
compute one stage. That costs time and nothing else: results are pure, and the first one stays.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLease, Timeout

from evolve.core.locks import locked
from evolve.engine.machine import Machine, uptime

LEASE_SECONDS = 300.0  # every process of a store must have the same
BEAT_SECONDS = 30.0
_POLL_SECONDS = 0.1
_WRITING_SECONDS = 2.0  # that it takes to write a lease, at most
_FORGOTTEN_SECONDS = 86400.0  # after which nobody has to watch a lease to know that it is free


class _NamedLease(SoftFileLease):
    """A lease that names its machine as the store does, not by the host name.

    The library asks whether a process of its own host name lives. Of another machine of that name
    it would break the lease.
    """

    machine = ""

    def _published_record(self) -> Any:
        return super()._published_record()._replace(hostname=self.machine)


class Lease:
    """A lock called ``stem``: the files ``stem``.lock and, while it is held, ``stem``.lease.

    Not reentrant.

    Args:
        stem: its place.
        machine: this machine, in the store.
    """

    def __init__(self, stem: Path, machine: Machine) -> None:
        self.file = stem.with_suffix(".lock")
        self.machine = machine
        self._lock = FileLock(self.file, thread_local=False)
        self._lease = _NamedLease(
            stem.with_suffix(".lease"),
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=BEAT_SECONDS,
            thread_local=False,
        )
        self._lease.machine = str(machine)
        self._nameless_since = math.inf  # when the file lock was first seen held without a lease

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

    def release(self, remove: bool = False) -> None:
        """Give it back; nothing happens where it is not held.

        Args:
            remove: whether the lock's file goes too, as nobody will want this lock again.
        """
        if remove and self._lock.is_locked:
            with suppress(OSError):  # some systems remove no open file
                self.file.unlink()
        self._lease.release()
        self._lock.release()

    def _take(self) -> bool:
        try:
            alone = self._alone()
            if alone and self._holder_is_gone():
                self._lease.force_break()
            if (alone is not False or not self._holder_is_here()) and _got(self._lease):
                return True
        except BaseException:
            self.release()  # an interrupt may come after the lease was taken
            raise
        self._lock.release()
        return False

    def _alone(self) -> bool | None:
        """Whether nobody else on this machine holds it; None where the file system has no locks.

        There the lease decides alone, and a dead holder's is free after ``LEASE_SECONDS``.
        """
        try:
            return locked(self._lock, 0) or None
        except Timeout:
            return False

    def _holder_is_here(self) -> bool:
        """Whether the lease names this machine, since it was booted, or may do so in a moment.

        Whoever has the file lock writes the lease next.
        """
        if (owner := self._lease.owner) is not None:
            self._nameless_since = math.inf
            return owner.hostname == str(self.machine)
        self._nameless_since = min(self._nameless_since, time.monotonic())
        return time.monotonic() - self._nameless_since < _WRITING_SECONDS

    def _holder_is_gone(self) -> bool:
        """Whether the lease's holder cannot live, given that this machine's file lock is free.

        It was a process of this machine, or of an earlier boot of it; or it was killed before it
        had written who it was; or it was here a day ago.
        """
        try:
            # Both times are by the clock of whoever keeps the files.
            os.utime(self.file)
            age = self.file.stat().st_mtime - os.stat(self._lease.lock_file).st_mtime
        except FileNotFoundError:
            return False
        if (owner := self._lease.owner) is None:
            return age > _WRITING_SECONDS
        rebooted = owner.hostname.partition(".")[0] == self.machine.name and age > uptime()
        return owner.hostname == str(self.machine) or rebooted or age > _FORGOTTEN_SECONDS


def _got(lock: SoftFileLease) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
