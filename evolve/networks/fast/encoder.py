"""A ViT's learner: passes by torch's operations, bound for each batch size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.networks.fast.encoder_bound import Passes
from evolve.networks.fast.written import Written
from evolve.networks.network import Network
from evolve.networks.vit_plan import ViTPlan

JUDGED = 16  # test images that pass at once: their rows stay in the cache


class WrittenViT(Written):
    """A :class:`evolve.networks.fast.written.Written` for ViTs."""

    def __init__(
        self, network: Network, size: int, optimizer: str, momentum: float, decay: float
    ) -> None:
        super().__init__(network, size, optimizer, momentum, decay)
        plan = network.architecture
        assert isinstance(plan, ViTPlan)
        self.plan = plan
        self._bound: dict[int, Passes] = {}

    def forward(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Written`."""
        self._passes = self._of(len(images))
        return self._passes.forward(images)

    def backward(self, g: Tensor) -> None:
        """See :class:`evolve.networks.fast.written.Written`."""
        self._passes.backward(g)

    def judged(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Written`."""
        passes, missing = self._of(JUDGED), -len(images) % JUDGED
        chunks = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)).split(JUDGED)
        return torch.cat([passes.forward(chunk).clone() for chunk in chunks])[: len(images)]

    def _of(self, batch: int) -> Passes:
        if batch not in self._bound:
            self._bound[batch] = Passes(self.plan, batch, self.w, self.g)
        return self._bound[batch]
