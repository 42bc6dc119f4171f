"""Files that only this user can have written: what is read from them may be run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_private(folder: Path) -> bool:
    """Whether nobody but this user and root can write into ``folder``, or put another in its place.

    Every folder above it is looked at: it must be this user's or root's, and closed to others, or
    sticky, as /tmp is. Links are resolved before. A system without user ids counts as private.

    Raises:
        OSError: it is not there.
    """
    if not hasattr(os, "getuid"):
        return True
    real = Path(os.path.realpath(folder))
    for place in (real, *real.parents):
        info = os.lstat(place)
        closed = not info.st_mode & OTHERS or (place != real and info.st_mode & stat.S_ISVTX)
        if not closed or not stat.S_ISDIR(info.st_mode) or info.st_uid not in (0, os.getuid()):
            return False
    return True


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that lack, for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def read_private(path: Path) -> bytes:
    """Read a file in a private folder.

    What is checked is the open file, so no other can be put in its place meanwhile.

    Raises:
        OSError: it is not there, is a link or no regular file, is not this user's, or others may
            write it.
    """
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    with open(os.open(path, os.O_RDONLY | flags), "rb") as file:
        info = os.fstat(file.fileno())
        ours = not hasattr(os, "getuid") or (
            info.st_uid == os.getuid() and not info.st_mode & OTHERS
        )
        if not ours or not stat.S_ISREG(info.st_mode) or not is_private(path.parent):
            raise PermissionError(f"{path}: others may have written it")
        return file.read()
