"""The frozen ancestor's side of a condensation.

Every meta image passes the ancestor once, as far as memory allows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from evolve.condensers.interface import ancestor_diverged
from evolve.condensers.meta_network.matchers import AnyMatcher
from evolve.condensers.meta_network.matching import Frozen
from evolve.data.resident import Resident, sent
from evolve.networks.network import Network

Groups = tuple[tuple[str, ...], ...]

CHUNK = 64
"""Meta images that go through the ancestor at a time."""
# One part in so many of a machine's (or GPU's) memory may hold the ancestor's maps: several workers
# condense at once.
SHARE = 8


class Features(nn.Module):
    """A network seen at its layer groups: the output of each group's last layer.

    It is a VGG's before pooling.

    Args:
        network: any.
        groups: its layer groups.
    """

    def __init__(self, network: nn.Module, groups: Groups) -> None:
        super().__init__()
        names = cast(Network, network).architecture.layer_names
        self.network = network
        self.places = [names.index(group[-1]) for group in groups]

    def forward(self, x: Tensor, logits: bool = False) -> list[Tensor]:
        """Look at images.

        Args:
            x: images [B, 3, H, W].
            logits: ask for the logits instead.

        Returns:
            The groups' features, maps [B, C, S, S] or tokens [B, T, D]; or a list of the logits.
        """
        if logits:
            return [self.network(x)]
        maps = self.network.features(x)  # type: ignore[operator]
        return [maps[place] for place in self.places]


def room(device: torch.device) -> int:
    """Bytes that may hold the ancestor's maps.

    It goes by the memory that a device has, not by what is free, so that a repetition decides
    alike.

    Args:
        device: where they would lie.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // SHARE
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE
    except (AttributeError, OSError, ValueError):  # no such question on this system
        return 512 * 2**20


class FrozenAncestor:
    """The ancestor's maps of the meta images, or of any batch.

    Args:
        ancestor: seen at its layer groups.
        matcher: what compares its features.
        resident: the images.
        meta_index: the meta images' indices.

    Attributes:
        held: all that the matching needs of every meta image, where there is room for it.
        raw: else the maps as the ancestor gives them, a third as much, from which a batch is
            prepared when it comes. Where even those have no room, a batch passes
            the ancestor when it comes.
    """

    def __init__(
        self, ancestor: Features, matcher: AnyMatcher, resident: Resident, meta_index: Tensor
    ) -> None:
        self.ancestor, self.matcher, self.resident, self.index = (
            ancestor,
            matcher,
            resident,
            meta_index,
        )
        space, number = room(resident.device), len(meta_index) * 4
        self.held: Frozen | None = None
        self.raw: list[Tensor] | None = None
        if matcher.numbers_per_image() * number <= space:
            self.held = Frozen.join(map(matcher.freeze, self._chunks()), len(meta_index))
        elif matcher.raw_numbers() * number <= space:
            self.raw = [torch.cat(layer) for layer in zip(*self._chunks(), strict=True)]

    @torch.no_grad()
    def of_images(self, x: Tensor, value: bool = True) -> Frozen:
        """The frozen side of any images.

        Args:
            x: images [B, 3, H, W].
            value: as :meth:`AnyMatcher.freeze`'s.
        """
        return self.matcher.freeze(self.ancestor(x), value)

    def of_rows(self, rows: Tensor) -> Frozen:
        """The frozen side of meta images.

        Args:
            rows: their places in the meta index.
        """
        place = sent(rows, self.resident.device)
        if self.held is not None:
            return self.held[place]
        if self.raw is not None:
            return self.matcher.freeze([maps.index_select(0, place) for maps in self.raw])
        return self.of_images(self.resident.batch(self.index[rows]))

    def pooled(self) -> Tensor:
        """pool(Z^l) of every meta image, side by side.

        Raises:
            UserError: the ancestor's features are not finite.
        """
        if self.held is not None:
            pooled = self.held.pooled
        else:
            chunks = (
                self._chunks()
                if self.raw is None
                else zip(*(maps.split(CHUNK) for maps in self.raw), strict=True)
            )
            pooled = torch.cat([self.matcher.pool(maps) for maps in chunks])
        if not torch.isfinite(pooled).all():
            raise ancestor_diverged("features")
        return pooled

    def _chunks(self) -> Iterator[list[Tensor]]:
        """The maps of all meta images, CHUNK at a time."""
        for part in self.index.split(CHUNK):
            with torch.no_grad():
                maps: list[Tensor] = self.ancestor(self.resident.batch(part))
            yield maps
