"""A look at what another package's condenser returns, before anything is built on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from evolve.condensers.interface import Condensed, Request
from evolve.core.registry import nonsense, origin

STATUSES = ("selected", "tied", "collapsed", "fixed")


def checked(condensation: Any, request: Request) -> Condensed:
    """Return the condensation of the request's method, after a look at it.

    Our own condensers are not looked at: their tests do that.

    Args:
        condensation: what the method returned.
        request: what it was asked.

    Raises:
        UserError: it is no condensation of this ancestor; the message names the plug-in.
    """
    if origin("condensers", request.c.method) is not None:
        for problem in _problems(condensation, len(request.groups)):
            raise nonsense("condensers", request.c.method, problem)
    good: Condensed = condensation
    return good


def _problems(condensation: Any, layers: int) -> Iterator[str]:
    if not isinstance(condensation, Condensed):
        yield f"returned {type(condensation).__name__}, not a Condensed"
        return
    for name, shape in (("alpha", (layers, None)), ("scores", (layers,)), ("weights", (layers,))):
        yield from _tensor_problems(name, getattr(condensation, name), shape)
    if condensation.status not in STATUSES:
        yield f"returned status {condensation.status!r}; allowed are {', '.join(STATUSES)}"
    chosen = condensation.selected
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
