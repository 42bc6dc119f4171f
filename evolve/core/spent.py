"""What a computation takes: seconds on the wall and of the CPU, for provenance, and in words.

It is never part of a key: it cannot change a number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Progress = Callable[[float, str], None]  # (part done, 0..1; what is being done)
# What is measured by name inside the stage under way, CPU seconds.
_PARTS: ContextVar[dict[str, float] | None] = ContextVar("parts", default=None)


def duration(seconds: float) -> str:
    """Seconds as a person says them: "45 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


@contextmanager
def part(name: str) -> Iterator[None]:
    """Measure what is done inside as a part of the stage under way.

    Args:
        name: the part's; its CPU seconds are added up.
    """
    begun = time.process_time()
    yield
    parts = _PARTS.get()
    if parts is not None:
        parts[name] = parts.get(name, 0.0) + time.process_time() - begun


def stopwatch() -> Callable[..., dict[str, Any]]:
    """Start measuring.

    Returns:
        A function that says what one stage took since, as a result's manifest holds it. Its
        ``stages`` that were computed in one go have equal shares. ``resumed``: the stage went on
        from a checkpoint, so this is what was left of it. CPU seconds are the process's (on a GPU:
        what the host worked), also those of every :func:`part`, where there is any.
    """
    wall, cpu = time.monotonic(), time.process_time()
    parts: dict[str, float] = {}
    before = _PARTS.set(parts)

    def read(stages: int = 1, resumed: bool = False) -> dict[str, Any]:
        took = {
            "seconds": (time.monotonic() - wall) / stages,
            "cpu_seconds": (time.process_time() - cpu) / stages,
        }
        _PARTS.reset(before)
        measured = {name: round(seconds / stages, 6) for name, seconds in parts.items()}
        return {name: round(value, 3) for name, value in took.items()} | {
            "together": stages,
            "resumed": resumed,
            **({"parts": measured} if measured else {}),
        }

    return read
