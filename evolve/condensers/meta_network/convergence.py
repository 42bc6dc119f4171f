"""What a condensation's record says of its course: losses, alpha and phi's gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

POINTS = 50
"""Numbers a curve has, at most, however many iterations there are."""
CURVES = (
    "iteration",
    "classification",
    "matching",
    "alpha_mean",
    "alpha_spread",
    "alpha_min",
    "alpha_max",
    "dead",
    "gradient",
)


class Diverged(Exception):
    """The losses of the pseudo-descendant are no longer finite."""


class Convergence:
    """Collects curves, name -> numbers, over at most POINTS even stretches of all iterations.

    ``iteration``: those done at the end of the stretch; ``classification``, ``matching`` (L_cls,
    L_meta) and ``gradient`` (the squared norm of phi's gradient, whose mean Theorem 1 bounds):
    means over it; the rest: alpha of the pairs at its end, each pair's mean over the meta-data,
    ``alpha_spread`` its standard deviation over pairs, ``dead`` the share of pairs at 0.

    Args:
        total: how many iterations there will be.

    Attributes:
        curves: name -> numbers.
    """

    def __init__(self, total: int) -> None:
        points = min(POINTS, total)
        self.ends = {total * (number + 1) // points for number in range(points)}
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.done, self._since = 0, list[Tensor]()

    def add(
        self,
        classification: Tensor,
        matching: Tensor,
        gradient: Tensor,
        alpha: Callable[[], Tensor],
    ) -> None:
        """Take up one iteration.

        Args:
            classification, matching: L_cls and L_meta.
            gradient: the squared norm of phi's.
            alpha: gives [L, K] when a stretch ends.

        Raises:
            Diverged: a number of the stretch is not finite.
        """
        self._since.append(torch.stack([classification, matching, gradient.to(classification)]))
        self.done += 1
        if self.done not in self.ends:
            return
        means, pairs = torch.stack(self._since).mean(0), alpha()
        if not (torch.isfinite(means).all() and torch.isfinite(pairs).all()):
            raise Diverged
        self._since = []
        losses = means.tolist()
        of_alpha = (
            pairs.mean(),
            pairs.std(correction=0),
            pairs.min(),
            pairs.max(),
            (pairs == 0).float().mean(),
        )
        values = (self.done, *losses[:2], *map(float, of_alpha), losses[2])
        for name, value in zip(CURVES, values, strict=True):
            self.curves[name].append(float(value))
