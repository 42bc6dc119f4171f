"""What a condenser of another package returns is looked at before anything is built on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evolve.condensers.interface import Condensed, Request
from evolve.core.registry import nonsense, origin

STATUSES = ("selected", "tied", "collapsed", "fixed")


def checked(found: Any, request: Request) -> Condensed:
    """``found``, as the request's method returned it.

    UserError, naming the plug-in, for what is no condensation of this ancestor.

    Ours are not looked at: their tests do that.
    """
    if origin("condensers", request.c.method) is not None:
        for problem in _problems(found, len(request.groups)):
            raise nonsense("condensers", request.c.method, problem)
    good: Condensed = found
    return good


def _problems(found: Any, layers: int) -> Iterator[str]:
    if not isinstance(found, Condensed):
        yield f"returned {type(found).__name__}, not a Condensed"
        return
    for name, shape in (("alpha", (layers, None)), ("scores", (layers,)), ("weights", (layers,))):
        yield from _tensor_problems(name, getattr(found, name), shape)
    if found.status not in STATUSES:
        yield f"returned status {found.status!r}; allowed are {', '.join(STATUSES)}"
    chosen = found.selected
    good = isinstance(chosen, tuple) and all(
        type(place) is int and 0 <= place < layers for place in chosen
    )
    if not good or not chosen or list(chosen) != sorted(set(chosen)):
        yield (
            f"selected {chosen!r}: expected a tuple of ascending positions from 0 to "
            f"{layers - 1}, at least one"
        )


def _tensor_problems(name: str, value: Any, shape: tuple[int | None, ...]) -> Iterator[str]:
    wanted = "x".join("K" if side is None else str(side) for side in shape)
    if not isinstance(value, torch.Tensor):
        yield f"returned {name} as {type(value).__name__}, not a tensor"
    elif value.dim() != len(shape) or any(
        side not in (None, had) for side, had in zip(shape, value.shape, strict=True)
    ):
        yield f"returned {name} of shape {tuple(value.shape)}, not {wanted}"
    elif not torch.isfinite(value).all():
        yield f"returned {name} with values that are not finite"
