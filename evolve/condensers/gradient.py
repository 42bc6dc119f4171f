"""Heur-Learngene (AAAI 2022): layers whose weights' gradients are steady over the tasks (paper,
5.2).

The authors print heat maps of the fraction of a layer's weight-gradient entries above a threshold,
and a person picks conv 11 to 13. The rule here is ours. It takes the ``condense.top_k`` layers
whose fraction varies least over the last ``condense.window`` tasks, by its standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evolve.condensers.interface import Condensed, Request, fixed_condensation, scored


def gradient(request: Request) -> Condensed:
    """Keep the ``condense.top_k`` layers whose gradient fractions vary least.

    Alpha is minus their standard deviation [L, 1]. No image is read: the fractions were recorded
    while the ancestor learned. Fewer than two tasks leave nothing to compare: the status is "tied",
    and the fixed set is taken, with the reason.

    Args:
        request: the condensation to do.
    """
    tasks: Sequence[Sequence[float]] = request.ancestor_record.get("gradients", [])
    if len(tasks) < 2:
        seen = f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}"
        return fixed_condensation(
            request,
            "fixed set, because stability needs the gradients of at least 2 tasks; "
            f"{seen} recorded",
            "tied",
        )
    fractions = torch.tensor(tasks[-request.c.window :], dtype=torch.float64) @ _shares(request)
    return scored(request, -fractions.std(0, correction=0)[:, None], {}, "top-k")


def _shares(request: Request) -> Tensor:
    """[layers, L]: a layer's share in the weights of its group, 0 for layers of other groups.

    With it, a group's fraction is that of all its weights.
    """
    names = request.architecture.layer_names
    shares = torch.zeros(len(names), len(request.groups), dtype=torch.float64)
    for column, group in enumerate(request.groups):
        sizes = [
            sum(math.prod(s) for s in request.architecture.shapes(name).values() if len(s) >= 2)
            for name in group
        ]
        for name, size in zip(group, sizes, strict=True):
            shares[names.index(name), column] = size / sum(sizes)
    return shares
