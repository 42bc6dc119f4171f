"""What others wrote: files of a bounded size, and JSON of any form.

Size and depth are bounded before anything is made of a file. So the worst file costs a moment and
ends in a ValueError, which every reader turns into its one line.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
DEEPEST = 32  # lists and tables in one another; ours have five


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a regular file that has at most so many bytes.

    Args:
        path: the file.
        most: bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file (a pipe would never end), or larger.
    """
    # Not blocking: to open a pipe would wait for whoever writes into it.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("it is no regular file")
        data = file.read(most + 1) if info.st_size <= most else b""
    if info.st_size > most or len(data) > most:
        from rich.filesize import decimal  # late: the command line must start quickly

        raise ValueError(f"it has more than {decimal(most)}, so it is something else")
    return data


def parse_json(data: bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is damaged, or blown up: nested deep, numbers of thousands of digits.
    """
    return parse_shallow(json.loads, data)


def parse_shallow(parse: Callable[[T], Any], content: T) -> Any:
    """What a parser makes of lists and dicts, if that is not nested deep.

    Args:
        parse: raises ValueError on what is damaged.
        content: what it takes.

    Raises:
        ValueError: it is damaged, or nested deeper than :data:`DEEPEST`.
    """
    try:
        value = parse(content)
    except (RecursionError, MemoryError):
        raise ValueError("nested too deep") from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Refuse what is nested deeper than code that walks through it can go.

    Args:
        value: of lists, dicts and plain values.

    Raises:
        ValueError: it is nested deeper than :data:`DEEPEST`.
    """
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
    if level:
        raise ValueError("nested too deep")
