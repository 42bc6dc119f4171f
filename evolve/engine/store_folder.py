"""The folder of a store as other processes see it: whatever appears in it is whole.

What a process writes lies in a folder of its own under ``tmp/`` until it is renamed into place.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from evolve.core.durable import from_json, make_folder, sync_folder, to_json, write_file
from evolve.core.errors import StoreError
from evolve.core.locks import locked
from evolve.core.toml import shown_value
from evolve.engine import machine

FORMAT = 1
FOLDERS = ("results", "partial", "locks", "tmp", "damaged", "logs", "runs", machine.FOLDER)
MARKER = "store.json"
# What another machine was writing so long ago is rubbish, whatever the clocks say.
_FOREIGN_SECONDS = 86400.0
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


class StoreFolder:
    """The folder ``root``, made if it is not there.

    Its methods raise OSError where the folder cannot be read or written.

    Attributes:
        machine: this machine, to the store.
        read_only: whether the store was there and cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.machine = machine.Machine("", "")
        self.read_only = False

    def open(self) -> str | None:
        """Make the folder, or check that it is a store of this format and whether it can be
        written.

        Returns:
            The address of the store's mirror, if it has one.

        Raises:
            StoreError: the folder holds something else, or has another format.
        """
        address = self._marked()
        try:
            for name in FOLDERS:
                make_folder(self.root / name)
            self.machine = machine.this_machine(self.root)
            with self.scratch() as folder:
                write_file(folder / "probe", b"")
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            self.read_only = True
        return address

    def find(self, key: str) -> Path | None:
        """The folder of a result; None if there is none."""
        with suppress(FileNotFoundError):
            for kind in sorted((self.root / "results").iterdir()):
                path = kind / key[:2] / key
                if path.is_dir():
                    return path
        return None

    def write(self, final: Path, files: Mapping[str, bytes]) -> bool:
        """Write a folder whole.

        Args:
            final: where it shall stand.
            files: the content by file name.

        Returns:
            False if another one stood there by then; that one stays.
        """
        with self.scratch() as folder:
            for name, data in files.items():
                write_file(folder / name, data)
            return self.place(folder, final)

    def place(self, folder: Path, final: Path) -> bool:
        """Rename a complete folder into place.

        Args:
            folder: from :meth:`scratch`.
            final: where it shall stand.

        Returns:
            False if another one stands there, which stays.
        """
        sync_folder(folder)
        make_folder(final.parent)
        try:
            os.rename(folder, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        sync_folder(final.parent)
        return True

    def replace(self, file: Path, data: bytes) -> None:
        """Put a file in place whole, over an older one if there is one.

        Args:
            file: the file.
            data: its content.
        """
        with self.scratch() as folder:
            write_file(folder / file.name, data)
            os.replace(folder / file.name, file)
        sync_folder(file.parent)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of this process's own, gone in the end.

        A lock beside it tells others on this machine whether its owner lives.
        """
        while True:
            name = f"{self.machine.name}-{os.getpid()}-{secrets.token_hex(6)}"
            guard, folder = self.root / "tmp" / f"{name}.lock", self.root / "tmp" / name
            lock = FileLock(guard)
            if not locked(lock):
                guard.touch()  # without locks it alone keeps a sweep away for a day
            # A sweep may have removed it between its making and its locking.
            if guard.exists():
                break
            lock.release()
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            guard.unlink(missing_ok=True)
            lock.release()

    def sweep(self) -> None:
        """Remove the temporary folders and files that dead processes left."""
        for guard in (self.root / "tmp").glob("*.lock"):
            lock = FileLock(guard)
            with suppress(Timeout, FileNotFoundError):
                if not self._ours(guard) and not self.forgotten(guard):
                    continue  # another machine's: its lock may not show here
                if not locked(lock, 0) and not self.forgotten(guard):
                    continue  # without locks nobody can tell whether its owner lives
                shutil.rmtree(guard.with_suffix(""), ignore_errors=True)
                guard.unlink(missing_ok=True)
                lock.release()
        for folder in (self.root / "tmp").iterdir():  # a guard is there before its folder
            if folder.suffix != ".lock" and not folder.with_suffix(".lock").exists():
                if self._ours(folder) or self.forgotten(folder):
                    shutil.rmtree(folder, ignore_errors=True)
        for pattern in (f"{MARKER}.*", "runs/.*.tmp", f"{machine.FOLDER}/.*", "locks/*.break.*"):
            for file in self.root.glob(pattern):
                if self.forgotten(file):
                    file.unlink(missing_ok=True)

    def forgotten(self, path: Path) -> bool:
        """Whether nobody has written it for so long that nobody will."""
        with suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime > _FOREIGN_SECONDS
        return False

    def _ours(self, path: Path) -> bool:
        return path.name.startswith(f"{self.machine.name}-")

    def _marked(self) -> str | None:
        """Make or check store.json; the mirror's address in it."""
        marker = self.root / MARKER
        make_folder(self.root)
        if not marker.exists():
            if (
                any(not path.name.startswith((MARKER, ".")) for path in self.root.iterdir())
                and not marker.exists()
            ):
                raise StoreError(
                    f"store: {self.root} is not empty and not a store (no store.json): give an "
                    "empty or new folder"
                )
            new = self.root / f"{MARKER}.{secrets.token_hex(6)}"
            write_file(new, to_json({"format": FORMAT}))
            os.replace(new, marker)
            sync_folder(self.root)
        try:
            told = from_json(marker.read_bytes())
            version, address = told["format"], told.get("mirror")
        except (ValueError, TypeError, KeyError):
            raise StoreError(
                f"store: {marker} cannot be read: it should hold the format, {FORMAT}; give "
                "another folder"
            ) from None
        if version != FORMAT:
            advice = "give a new folder, or use the evolve that wrote it"
            raise StoreError(
                f"store: {marker} has format {shown_value(version)}, "
                f"this evolve reads {FORMAT}: {advice}"
            )
        return address or None
