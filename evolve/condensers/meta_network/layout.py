"""Shapes of the feature maps that are matched, and of what stands between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """h_{l,k} of all ancestor layers l for one descendant layer k: pointwise convolutions.

    They are stacked along their outputs: ``weight`` [sum of C_l, c_k], ``bias`` [sum of C_l].
    """

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Stretch:
    """Neighbouring ancestor layers compared at one resolution.

    ``first:last`` are their channels.
    """

    first: int
    last: int
    layers: tuple[int, ...]
    side: int


@dataclass(frozen=True)
class Layout:
    """Channels and sides (pixels) of the ancestor's L and the descendant's K feature maps.

    All maps are square.
    """

    ancestor: tuple[tuple[int, int], ...]
    descendant: tuple[tuple[int, int], ...]

    @cached_property
    def channels(self) -> int:
        return sum(c for c, _ in self.ancestor)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First stacked channel of each ancestor layer, and the end."""
        ends = [0]
        for c, _ in self.ancestor:
            ends.append(ends[-1] + c)
        return tuple(ends)

    def moments(self, k: int) -> bool:
        """Whether psi^{.,k} goes by second moments.

        It does where the map has no fewer pixels than z has channels.

        Args:
            k: the descendant layer.
        """
        channels, side = self.descendant[k]
        return side * side >= channels

    def kind(self, k: int) -> tuple[int, bool]:
        """Descendant layers of one kind share the ancestor's prepared maps.

        Args:
            k: the descendant layer.
        """
        return self.descendant[k][1], self.moments(k)

    def runs(self, k: int) -> tuple[Stretch, ...]:
        """The ancestor's layers cut into runs of equal side.

        Natively small maps stay small where psi goes by moments.

        Args:
            k: the descendant layer, whose kind alone matters.
        """
        side_k, moments = self.kind(k)
        sides = [min(side, side_k) if moments else side_k for _, side in self.ancestor]
        cuts = [i for i in range(len(sides)) if i == 0 or sides[i] != sides[i - 1]] + [len(sides)]
        return tuple(
            Stretch(self.offsets[a], self.offsets[b], tuple(range(a, b)), sides[a])
            for a, b in pairwise(cuts)
        )


def layout(ancestor: Sequence[Tensor], descendant: Sequence[Tensor]) -> Layout:
    """The layout of two lists of feature maps.

    Args:
        ancestor, descendant: maps [B, C, S, S].

    Raises:
        ValueError: a map is not square.
    """
    for maps in (*ancestor, *descendant):
        if maps.shape[-1] != maps.shape[-2]:
            raise ValueError(f"feature maps must be square, got {tuple(maps.shape)}")
    return Layout(
        tuple((f.shape[1], f.shape[-1]) for f in ancestor),
        tuple((f.shape[1], f.shape[-1]) for f in descendant),
    )


def resize(maps: Tensor, side: int) -> Tensor:
    """Maps of another side, bilinear with align_corners=False.

    Args:
        maps: [B, C, S, S].
        side: the new one, pixels.

    Returns:
        [B, C, side, side].
    """
    return (
        maps
        if maps.shape[-1] == side
        else F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
    )


def as_flat(maps: Tensor) -> Tensor:
    """Maps with their pixels in one row; no copy for channels_last maps.

    Args:
        maps: [B, C, S, S].

    Returns:
        [B, S^2, C].
    """
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
