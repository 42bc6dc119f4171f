"""What Heur-Learngene looks at while the ancestor learns (paper, 5.2).

That is how much of each layer's weight gradient is above a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evolve.core.spent import part
from evolve.networks.fast import count_above
from evolve.networks.network import Network

EVERY = 8
"""One batch in so many is looked at, from an epoch's first on: the mean over a task needs no more,
and training takes no longer.
"""


class GradientFractions:
    """Of each integral layer, the share of weight-gradient entries above ``threshold`` (signed).

    It is taken over one task's batches. A layer's weights are its tensors of two or more
    dimensions; one that gets no gradient counts as 0. Entries are counted as whole numbers, so a
    task that is resumed from :meth:`state` ends with the same fractions as one that ran through.
    """

    def __init__(self, network: Network, threshold: float) -> None:
        self.threshold = threshold
        layers = [network.layers[name] for name in network.architecture.layer_names]
        self.weights = [[p for p in layer.parameters() if p.dim() >= 2] for layer in layers]
        self.counts = torch.zeros(len(layers), dtype=torch.int64, device=network.head.weight.device)
        self.batches = self._step = 0

    def step(self) -> None:
        """Count, after an optimizer's step, while its gradients are still there."""
        if self._step % EVERY == 0:
            with part("gradient statistics"):
                self.counts += self._above()
            self.batches += 1
        self._step += 1

    @torch.no_grad()
    def _above(self) -> Tensor:
        """How many entries of each layer's gradient are above the threshold, int64 [layers]."""
        gradients = [[p.grad for p in weights if p.grad is not None] for weights in self.weights]
        if self.counts.device.type == "cpu":
            return count_above(gradients, self.threshold)
        none = self.counts.new_zeros(())
        return torch.stack(
            [
                torch.stack([none, *(torch.count_nonzero(g > self.threshold) for g in layer)]).sum()
                for layer in gradients
            ]
        )

    def end_epoch(self) -> None:
        """Note that the next step is an epoch's first."""
        self._step = 0

    def fractions(self) -> list[float]:
        """The share of each layer, in [0, 1]; 0 before any batch."""
        sizes = [sum(p.numel() for p in weights) for weights in self.weights]
        return [
            count / max(1, size * self.batches)
            for count, size in zip(self.counts.tolist(), sizes, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """The counts so far, JSON-able, at the end of an epoch."""
        return {"counts": self.counts.tolist(), "batches": self.batches}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.counts.copy_(torch.tensor(state["counts"]))
        self.batches = int(state["batches"])
