"""Passes that nodes of autograd's graphs lend each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, cast

Bound = TypeVar("Bound")
_idle: dict[Hashable, object] = {}
"""Passes that no graph holds any more, by what they are bound to; the newest of each of a few."""
IDLE = 4


class Held(Generic[Bound]):
    """Passes that one graph of autograd has to itself until it is gone.

    Args:
        key: what they are bound to. Addresses belong to it as long as they are idle here, since
            passes keep their tensors alive.
        bind: makes them, where none are idle.
    """

    def __init__(self, key: Hashable, bind: Callable[[], Bound]) -> None:
        self.key, idle = key, cast("Bound | None", _idle.pop(key, None))
        self.bound = bind() if idle is None else idle

    def __del__(self) -> None:
        if not hasattr(self, "bound"):  # it could not be bound
            return
        _idle[self.key] = self.bound
        while len(_idle) > IDLE:
            del _idle[next(iter(_idle))]
