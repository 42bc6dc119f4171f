"""Counts the file operations of this process below a folder, and lets the n-th one fail or kill.

Patched where Python's own code goes to the system: :mod:`os`, ``open`` and ``fcntl.flock``.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

# What changes files by name; with os.open and open, what a full or broken disk refuses.
BY_NAME = ("mkdir", "rename", "replace", "link", "utime", "truncate", "unlink", "remove", "rmdir")
CHANGING = (*BY_NAME, "open", "write", "fsync", "flock")
FAILING = (*BY_NAME[:6], "open", "write", "fsync", "read")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Shim:
    """Installed once, in a process that ends soon.

    Args:
        folder: only operations below it count.
        at: calls what happens with an operation's number, from 0 on, and its name, before it is
            done; what it raises, the operation raises.
        counted: the operations that count; "read" is opening for reading.
    """

    def __init__(
        self, folder: Path, at: Callable[[int, str], None], counted: Collection[str]
    ) -> None:
        self.folder, self.at, self.counted = f"{folder}{os.sep}", at, counted
        self.count = 0
        self.ours: set[int] = set()  # file descriptors

    def install(self) -> None:
        """Patch this process."""
        for name in BY_NAME:
            setattr(os, name, self._named(name, getattr(os, name)))
        fcntl.flock = self._held("flock", fcntl.flock)
        os.write = self._held("write", os.write)
        os.fsync = self._held("fsync", lambda handle: None)  # no power cut is tried
        self._os_open, self._open = os.open, io.open
        os.open = self._opened
        builtins.open = io.open = self._file  # type: ignore[assignment]

    def operation(self, name: str) -> None:
        """Count one, if it is one of those that count."""
        if name not in self.counted:
            return
        number, self.count = self.count, self.count + 1
        self.at(number, name)

    def _below(self, path: Any) -> bool:
        if isinstance(path, int):
            return path in self.ours
        return f"{os.path.abspath(os.fsdecode(path))}{os.sep}".startswith(self.folder)

    def _named(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def patched(path: Any, *args: Any, **named: Any) -> Any:
            if named.get("dir_fd") is not None or self._below(path):  # shutil.rmtree's are ours
                self.operation(name)
            return real(path, *args, **named)

        return patched

    def _held(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def patched(handle: Any, *args: Any) -> Any:
            if getattr(handle, "fileno", lambda: handle)() in self.ours:
                self.operation(name)
            return real(handle, *args)

        return patched

    def _opened(self, path: Any, flags: int, *args: Any, **named: Any) -> int:
        if not self._below(path):
            return self._os_open(path, flags, *args, **named)
        self.operation("open" if flags & _WRITING else "read")
        handle = self._os_open(path, flags, *args, **named)
        self.ours.add(handle)
        return handle

    def _file(self, file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if isinstance(file, int) or not self._below(file):
            return self._open(file, mode, *args, **named)
        if set(mode) & set("wxa+"):
            self.operation("open")
            return self._writer(file, mode, *args, **named)
        self.operation("read")
        return self._open(file, mode, *args, **named)

    def _writer(
        self,
        file: Any,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        raw = _Raw(self, file, mode.replace("t", ""))
        self.ours.add(raw.fileno())
        if buffering == 0:
            return raw
        if "+" in mode:
            binary: Any = io.BufferedRandom(raw)  # type: ignore[type-var]
        else:
            binary = io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)


class _Raw(io.FileIO):
    """A file that is written in two halves, between which the shim is asked."""

    def __init__(self, shim: Shim, file: Any, mode: str) -> None:
        super().__init__(file, mode.replace("b", ""))
        self.shim = shim

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = super().write(view[: len(view) // 2]) if len(view) > 1 else 0
        self.shim.operation("write")
        return written + super().write(view[written:])

    def close(self) -> None:
        if not self.closed:
            self.shim.ours.discard(self.fileno())
        super().close()


def kill_at(number: int) -> Callable[[int, str], None]:
    """Die at the ``number``-th operation."""

    def at(count: int, name: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def fail_at(number: int, error: int, for_good: bool) -> Callable[[int, str], None]:
    """Fail at the ``number``-th operation, and ``for_good`` at all from then on but reading."""

    def at(count: int, name: str) -> None:
        if count == number or (for_good and count > number and name != "read"):
            raise OSError(error, os.strerror(error))

    return at
