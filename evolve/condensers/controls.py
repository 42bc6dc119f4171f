"""Condensers that decide without looking: what the others have to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from evolve.condensers.interface import Condensed, Request, condensed, fixed_condensation
from evolve.condensers.selection import Selection
from evolve.core.randomness import generator


def fixed(request: Request) -> Condensed:
    """The layers of ``condense.fixed_set``, or those numbered in ``condense.fixed``.

    Args:
        request: the condensation to do.
    """
    return fixed_condensation(request, "fixed set")


def random(request: Request) -> Condensed:
    """Draw ``condense.top_k`` layers; every set is equally likely.

    The seed alone decides, so the set is the same at every generation. Repeats draw others.

    Args:
        request: the condensation to do.
    """
    layers, count = len(request.groups), request.c.top_k
    drawn = torch.rand(
        layers, 1, dtype=torch.float64, generator=generator(request.seed, "random-layers")
    )

    def choose(alpha: Tensor) -> Selection:
        kept = tuple(sorted(alpha[:, 0].argsort(descending=True)[:count].tolist()))
        return Selection(
            alpha[:, 0],
            torch.full((layers,), 1 / layers, dtype=torch.float64),
            kept,
            0.0,
            "selected",
            "drawn at random",
        )

    return condensed(drawn, {}, choose)
