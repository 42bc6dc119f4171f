"""A set of images as files: an unpacked folder or a zip.

Files go by their names below the set's root ("train/apple/1.png"). Hidden files and folders and
macOS's ``__MACOSX`` are no part of a set, wherever they lie in it, nor are pipes, sockets and
devices.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from rich.filesize import decimal

from evolve.core.errors import DataError
from evolve.core.foreign import read_bounded

NAMED = 3  # names that a line lists before it says "..."
LARGEST = 256 << 20  # bytes of one image or list; ImageNet's largest photograph has 15 MB


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


def first_of(names: Sequence[str]) -> str:
    """The first names of many, for a line.

    Args:
        names: at least one.
    """
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out.

    Args:
        name: without folders.
    """
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def listed(root: Path, tops: Sequence[str]) -> list[str]:
    """The names below ``root`` of all files below its folders ``tops``, in any order.

    Links are followed, after all real folders: a folder that several paths lead to counts once, and
    at its own place. So a link to a folder above ends, and one into val/ brings no test image into
    train/. A link to nothing is listed: whoever reads it says so.

    Args:
        root: the set's folder.
        tops: "" is ``root`` itself; those that are not there are left out.

    Raises:
        DataError: a folder cannot be read; the line names it.
    """
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    real, links = deque(top for top in tops if (root / top).is_dir()), deque[str]()
    while real or links:
        place = real.popleft() if real else links.popleft()
        try:
            info = os.stat(root / place)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            entries = sorted(os.scandir(root / place), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{root / place} cannot be read ({error.strerror})") from None
        for entry in entries:
            name = f"{place}/{entry.name}" if place else entry.name
            kind = None if hidden(entry.name) else _kind(entry)
            if kind is not None:
                {"file": names, "folder": real, "link": links}[kind].append(name)
    return names


def _kind(entry: os.DirEntry[str]) -> str | None:
    """ "file", "folder", "link" (to a folder), or None for what is no part of a set."""
    try:
        if entry.is_dir():
            return "link" if entry.is_symlink() else "folder"
        if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
            return "file"
    except OSError:  # links in a circle
        return "file"
    return None


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
        return listed(self.where, self.tops)

    def open(self) -> FolderFiles:
        """The folder reads its own files."""
        return self

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            DataError: it cannot be read; the line names it.
        """
        try:
            return read_bounded(self.where / name, LARGEST)
        except OSError as error:
            raise DataError(f"{self.where / name} cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise DataError(f"{self.where / name}: {error}") from None

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
                full = self.members[name]
                if self.archive.getinfo(full).file_size > LARGEST:  # no more than it is unpacked
                    raise zipfile.BadZipFile(f"more than {decimal(LARGEST)}")
                return self.archive.read(full)
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
