"""What condensers need of a way to compare features, and which way fits a pair of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from evolve.condensers.meta_network.matching import Frozen, Matcher, Projection, layout
from evolve.condensers.meta_network.tokens import TokenMatcher


class AnyMatcher(Protocol):
    """A way to compare the features of L ancestor and K descendant layers: :class:`Matcher` for maps, :class:`TokenMatcher` for tokens."""

    @property
    def pooled_sizes(self) -> tuple[int, ...]:
        """Length of pool(Z^l) for each ancestor layer."""
        ...

    def raw_numbers(self) -> int:
        """How many floating-point numbers the ancestor's features of one image are."""
        ...

    def numbers_per_image(self) -> int:
        """How many floating-point numbers :meth:`freeze` holds for one image."""
        ...

    def pool(self, ancestor: Sequence[Tensor]) -> Tensor:
        """pool(Z^l) of all ancestor layers side by side, [B, sum of the lengths]."""
        ...

    def freeze(self, ancestor: Sequence[Tensor], value: bool = True) -> Frozen:
        """The frozen side of the ancestor's features; ``value``: what only L_meta's value needs, too."""
        ...

    def loss(
        self, frozen: Frozen, alpha: Tensor, descendant: Sequence[Tensor], h: Sequence[Projection]
    ) -> Tensor:
        """L_meta (Eq. 8, 14) with alpha [B, L, K], mean over the B images. Linear in alpha; differentiable twice."""
        ...


def matcher_for(ancestor: Sequence[Tensor], descendant: Sequence[Tensor]) -> AnyMatcher:
    """What compares features like these: maps [B, C, S, S] through h, tokens [B, T, D] as they are. ValueError for others."""
    dimensions = {z.dim() for z in (*ancestor, *descendant)}
    if dimensions == {3}:
        return TokenMatcher(ancestor, descendant)
    if dimensions != {4}:
        raise ValueError(
            f"features must all be maps of 4 dimensions or all tokens of 3, got {sorted(dimensions)}"
        )
    return Matcher(layout(ancestor, descendant), ancestor[0])
