"""A set of images as files: an unpacked folder or a zip.

Files go by their names below the set's root ("train/apple/1.png"). Hidden files and folders and
macOS's ``__MACOSX`` are no part of a set, wherever they lie in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from evolve.core.errors import DataError


class Files(Protocol):
    """A set that lies somewhere; looking at its identity reads no image."""

    where: Path

    def identity(self) -> dict[str, object]:
        """What tells this set from others, and changes when it changes; JSON."""

    def names(self) -> list[str]:
        """The names of all files."""

    def open(self) -> Reader:
        """A reader, which the caller closes."""


class Reader(Protocol):
    """What reads a set's files; several threads may share it."""

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            DataError: it cannot be read; the line names it.
        """

    def close(self) -> None:
        """Give back what was opened."""


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out.

    Args:
        name: without folders.
    """
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


class FolderFiles:
    """A folder; the set is what lies below its folders ``tops``."""

    def __init__(self, root: Path, tops: Sequence[str]) -> None:
        self.where, self.tops = root, tops

    def identity(self) -> dict[str, object]:
        """A hash of all names, sizes and times: a changed folder is decoded again."""
        digest = hashlib.sha256()
        for name in sorted(self.names()):
            info = os.stat(self.where / name)
            line = f"{name}\t{info.st_size}\t{info.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return {"folder": digest.hexdigest()}

    def names(self) -> list[str]:
        """All files, in any order."""
        listed = []
        for top in self.tops:
            for folder, below, files in os.walk(self.where / top, followlinks=True):
                below[:] = [name for name in below if not hidden(name)]
                place = Path(folder).relative_to(self.where).as_posix()
                listed += [f"{place}/{file}" for file in files if not hidden(file)]
        return listed

    def open(self) -> FolderFiles:
        """The folder reads its own files."""
        return self

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            DataError: it cannot be read; the line names it.
        """
        try:
            return (self.where / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.where / name} cannot be read ({error.strerror})") from None

    def close(self) -> None:
        """There is nothing to close."""
        pass


class ZipFiles:
    """A zip, read without unpacking; ``advice`` ends the line about one that is damaged."""

    def __init__(self, path: Path, tops: Sequence[str], advice: str) -> None:
        self.where, self.tops, self.advice = path, tops, advice

    def identity(self) -> dict[str, object]:
        """Place, size and time: a changed zip is decoded again."""
        info = self.where.stat()
        return {
            "zip": str(self.where.resolve()),
            "bytes": info.st_size,
            "mtime_ns": info.st_mtime_ns,
        }

    def names(self) -> list[str]:
        """All files, in any order."""
        reader = self.open()
        try:
            return list(reader.members)
        finally:
            reader.close()

    def open(self) -> ZipReader:
        """A reader of the zip, which the caller closes.

        Raises:
            DataError: it is no whole zip.
        """
        return ZipReader(self.where, self.tops, self.advice)


class ZipReader:
    """Members by their names below the set's root, whatever folder the archive puts it in."""

    def __init__(self, path: Path, tops: Sequence[str], advice: str) -> None:
        self.path, self.advice, self.lock = path, advice, Lock()
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path} is not a whole zip file ({error}); {advice}") from None
        self.members: dict[str, str] = {}
        below_root = re.compile(rf"(?:^|/)((?:{'|'.join(tops)})/.*[^/])$")
        for full in self.archive.namelist():
            match = below_root.search(full)
            if match and not any(map(hidden, full.split("/"))):
                self._add(match.group(1), full)

    def _add(self, name: str, full: str) -> None:
        other = self.members.setdefault(name, full)
        if other != full:
            self.close()
            raise DataError(
                f"{self.path} holds {name} twice, as {other} and as {full}; "
                "leave one set of images in it"
            )

    def read(self, name: str) -> bytes:
        """A member's content.

        Raises:
            DataError: it is damaged; the line names it.
        """
        try:
            with self.lock:
                return self.archive.read(self.members[name])
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise DataError(f"{self.path}: {name} is damaged ({error}); {self.advice}") from None

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()
