"""How a map's axes are cut into tiles whose sums stay in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evolve.networks.fast.compiled.emit import Code, Value


@dataclass(frozen=True)
class Cut:
    """A tile's extent along one axis, and whether it touches the border before and behind."""

    length: int
    first: bool
    last: bool


def along(code: Code, side: int, length: int, body: Callable[[Value | int, Cut], None]) -> None:
    """``body(start, cut)`` for every tile of an axis; those that touch no border are a loop.

    Args:
        code: what is written into.
        side: pixels of the axis.
        length: of a tile; the last may be shorter.
        body: writes the code of a tile.
    """
    last = (side - 1) // length * length
    body(0, Cut(min(length, side), True, last == 0))
    if last > length:
        code.loop(
            last,
            lambda start, _: body(start, Cut(length, False, False)),
            step=length,
            start=length,
        )
    if last:
        body(last, Cut(side - last, False, True))


def stretches(
    code: Code, images: Value, some: int, body: Callable[[Value, Value | int, bool], None]
) -> None:
    """``body(start, count, final)`` for ``some`` images after the other; the final ones are those
    that are left, at least one.

    Args:
        code: what is written into.
        images: how many there are.
        some: images of a stretch.
        body: writes the code of a stretch.
    """
    last = code.multiple(code.less(images, code.index(1)), some)
    code.loop(last, lambda start, _: body(start, some, False), step=some)
    body(last, code.less(images, last), True)


def divisor(number: int, most: int) -> int:
    """The largest divisor that is not above a limit.

    Args:
        number: what is divided.
        most: the limit.
    """
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)
