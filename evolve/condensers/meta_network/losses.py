"""What a condensation descends, and the protocol of the two ways to compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from evolve.condensers.meta_network.hypergradient import Rule, Tensors
from evolve.condensers.meta_network.matching import Frozen


@dataclass(frozen=True)
class Objective:
    """L_cls of some images, and L_meta of these or others.

    Attributes:
        images, labels: L_cls's, [B, 3, H, W] and [B].
        matched: L_meta's images, [M, 3, H, W].
        frozen: the ancestor's side of ``matched``.
        alpha: their pairs' weights [M, L, K], without a graph.
    """

    images: Tensor
    labels: Tensor
    matched: Tensor
    frozen: Frozen
    alpha: Tensor


class Losses(Protocol):
    """L_cls, L_meta and their derivatives, as functions of one tuple of tensors (theta, zeta)."""

    @property
    def value(self) -> bool:
        """Whether :meth:`total` reads what only L_meta's value needs of the ancestor's side."""

    def total(
        self, objective: Objective, weight: float, params: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensors]:
        """L_total = L_cls + lambda L_meta (paper, Eq. 15).

        Args:
            objective: the images.
            weight: lambda.
            params: where it is taken.

        Returns:
            (L_cls, L_meta, L_total's gradient). L_meta is 0 where nobody asks for it: on the
            training batch, without :attr:`value`.
        """

    def psi(self, frozen: Frozen, x: Tensor, params: Sequence[Tensor]) -> Tensor:
        """psi of every pair (paper, Eq. 7). L_meta is linear in alpha: psi / B is its gradient.

        Args:
            frozen: the ancestor's side of the images.
            x: the images [B, 3, H, W].
            params: where it is taken.

        Returns:
            [B, L, K].
        """

    def hypergradient(
        self,
        objective: Objective,
        outer: tuple[Tensor, Tensor],
        steps: int,
        params: Sequence[Tensor],
        buffers: Sequence[Tensor],
        rule: Rule,
    ) -> Tensor:
        """The gradient of a look-ahead's cross-entropy with respect to alpha.

        Args:
            objective: the look-ahead descends L_meta, and L_cls in its last step.
            outer: images and labels of the cross-entropy that follows.
            steps: steps on L_meta, at least 1.
            params, buffers: where the look-ahead starts.
            rule: its SGD.

        Returns:
            [M, L, K].
        """
