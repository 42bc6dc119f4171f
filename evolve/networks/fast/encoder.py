"""A ViT's learner: passes by torch's operations, bound for each batch size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.networks.fast.encoder_bound import Passes
from evolve.networks.fast.written import Trunk, Written
from evolve.networks.vit_plan import ViTPlan

JUDGED = 16  # test images that pass at once: their rows stay in the cache


class ViTTrunk(Trunk):
    """A :class:`evolve.networks.fast.written.Trunk` for ViTs."""

    def bind(self, batch: int) -> Passes:
        """See :class:`evolve.networks.fast.written.Trunk`."""
        assert isinstance(self.plan, ViTPlan)
        return Passes(self.plan, batch, self.w, self.g, self.shared)

    def judged(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Trunk`."""
        passes, missing = self.bound(JUDGED), -len(images) % JUDGED
        chunks = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)).split(JUDGED)
        return torch.cat([passes.forward(chunk).clone() for chunk in chunks])[: len(images)]


class WrittenViT(Written):
    """A :class:`evolve.networks.fast.written.Written` for ViTs."""

    kind = ViTTrunk
