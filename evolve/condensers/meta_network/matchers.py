"""What condensers need of a way to compare features, and which way fits a pair of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from evolve.condensers.meta_network.layout import Projection, layout
from evolve.condensers.meta_network.matching import Frozen, Matcher
from evolve.condensers.meta_network.tokens import TokenMatcher


class AnyMatcher(Protocol):
    """A way to compare the features of L ancestor and K descendant layers.

    It is :class:`Matcher` for maps, :class:`TokenMatcher` for tokens.
    """

    @property
    def pooled_sizes(self) -> tuple[int, ...]:
        """Length of pool(Z^l) for each ancestor layer."""

    def raw_numbers(self) -> int:
        """How many floating-point numbers the ancestor's features of one image are."""

    def numbers_per_image(self) -> int:
        """How many floating-point numbers :meth:`freeze` holds for one image."""

    def pool(self, ancestor: Sequence[Tensor]) -> Tensor:
        """pool(Z^l) of all ancestor layers side by side.

        Args:
            ancestor: their features.

        Returns:
            [B, sum of the lengths].
        """

    def freeze(self, ancestor: Sequence[Tensor], value: bool = True) -> Frozen:
        """The frozen side of the ancestor's features.

        Args:
            ancestor: its layers' features.
            value: what only L_meta's value needs, too.
        """

    def loss(
        self, frozen: Frozen, alpha: Tensor, descendant: Sequence[Tensor], h: Sequence[Projection]
    ) -> Tensor:
        """L_meta (Eq. 8, 14), mean over the images. Linear in alpha; differentiable twice.

        Args:
            frozen: the ancestor's side.
            alpha: [B, L, K].
            descendant: its layers' features.
            h: their projections.
        """


def matcher_for(ancestor: Sequence[Tensor], descendant: Sequence[Tensor]) -> AnyMatcher:
    """What compares features like these: maps through h, tokens as they are.

    Args:
        ancestor, descendant: examples, all maps [B, C, S, S] or all tokens [B, T, D].

    Raises:
        ValueError: they are neither.
    """
    dimensions = {z.dim() for z in (*ancestor, *descendant)}
    if dimensions == {3}:
        return TokenMatcher(ancestor, descendant)
    if dimensions != {4}:
        raise ValueError(
            "features must all be maps of 4 dimensions or all tokens of 3, "
            f"got {sorted(dimensions)}"
        )
    return Matcher(layout(ancestor, descendant), ancestor[0])
