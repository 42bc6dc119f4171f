"""psi and L_meta where features are tokens [B, T, D]: a ViT's encoder blocks (paper, 4.2.1).

    psi^{l,k} = mean over (T, D) of ( z^k - Z^l )^2
              = ( |z^k|^2 - 2 <z^k, Z^l> + |Z^l|^2 ) / (T D)

per image; h is the identity. Class token and patches count alike. pool(Z^l) is the mean over the
embedding, a vector of T: with the class token's, the paper's patch vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evolve.condensers.meta_network.layout import Projection
from evolve.condensers.meta_network.matching import Frozen

KIND = (0, True)  # all descendant layers are of one kind (see Frozen): there is nothing to resize


class TokenMatcher:
    """An :class:`evolve.condensers.meta_network.matchers.AnyMatcher` for tokens.

    It has no parameters of its own.

    Args:
        ancestor, descendant: examples of all layers' features, of one shape [T, D].

    Raises:
        ValueError: they have several shapes, which the identity cannot compare.
    """

    def __init__(self, ancestor: Sequence[Tensor], descendant: Sequence[Tensor]) -> None:
        shapes = {tuple(z.shape[1:]) for z in (*ancestor, *descendant)}
        if len(shapes) > 1:
            raise ValueError(
                "tokens of ancestor and descendant must be of one shape [T, D], "
                f"got {sorted(shapes)}"
            )
        self.layers = len(ancestor)
        self.tokens, self.dim = ancestor[0].shape[1:]

    @property
    def pooled_sizes(self) -> tuple[int, ...]:
        return (self.tokens,) * self.layers

    def raw_numbers(self) -> int:
        return self.layers * self.tokens * self.dim

    def numbers_per_image(self) -> int:
        return self.raw_numbers() + self.layers * (1 + self.tokens)

    def pool(self, ancestor: Sequence[Tensor]) -> Tensor:
        """See :class:`evolve.condensers.meta_network.matchers.AnyMatcher`."""
        return torch.cat([z.mean(2) for z in ancestor], 1)

    @torch.no_grad()
    def freeze(self, ancestor: Sequence[Tensor], value: bool = True) -> Frozen:
        """See :class:`evolve.condensers.meta_network.matchers.AnyMatcher`.

        ``maps``: [B, L, T * D]; ``energy`` [B, L]: mean over (T, D) of Z^2; no totals.
        """
        stacked = torch.stack(list(ancestor), 1).flatten(2)
        return Frozen(self.pool(ancestor), {KIND: (stacked,)}, {KIND: stacked.square().mean(2)}, {})

    def loss(
        self, frozen: Frozen, alpha: Tensor, descendant: Sequence[Tensor], h: Sequence[Projection]
    ) -> Tensor:
        """See :class:`evolve.condensers.meta_network.matchers.AnyMatcher`; ``h`` is empty.

        alpha weights the ancestor's tokens before they meet the descendant's, so that nothing of
        size L * K * T * D is made.
        """
        ((targets,), energy) = frozen.maps[KIND], frozen.energy[KIND]
        z = torch.stack(list(descendant), 1).flatten(2)
        pulled = torch.bmm(alpha.transpose(1, 2), targets)
        moments = ((alpha.sum(1).unsqueeze(2) * z - 2 * pulled) * z).sum() / (
            self.tokens * self.dim
        )
        return (moments + (alpha * energy.unsqueeze(2)).sum()) / len(alpha)
