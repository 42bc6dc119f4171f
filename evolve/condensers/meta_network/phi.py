"""The meta-network G with parameters phi, and what trains it (paper, 4.2).

Also how far its alpha will move at a rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evolve.condensers.selection import movement
from evolve.core.settings import CondenseSettings

# Of the interval in which a rate is looked for: to enclose it, and to find it to a millionth of its
# logarithm.
DOUBLINGS, HALVINGS = 60, 40


class MetaNetwork(nn.Module):
    """G: alpha^{l,k} = ReLU6(FC_{l,k}(pool(Z^l))).

    All FCs are in one tensor; weight 0 and bias 1, so every pair starts at 1.

    Args:
        sizes: the length of pool(Z^l) for each ancestor layer.
        descendant_layers: K.
    """

    def __init__(self, sizes: Sequence[int], descendant_layers: int) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.weight = nn.Parameter(torch.zeros(sum(sizes), descendant_layers))
        self.bias = nn.Parameter(torch.ones(len(sizes), descendant_layers))

    def forward(self, pooled: Tensor) -> Tensor:
        """alpha, in 0..6.

        Args:
            pooled: [B, sum of the sizes].

        Returns:
            [B, L, K].
        """
        return F.relu6(self.through(pooled, self.weight) + self.bias)

    def through(self, pooled: Tensor, weight: Tensor) -> Tensor:
        """Every layer's part of ``pooled`` times its part of a weight.

        Args:
            pooled: [B, sum of the sizes].
            weight: [sum of the sizes, K].

        Returns:
            [B, L, K].
        """
        parts = zip(pooled.split(self.sizes, 1), weight.split(self.sizes), strict=True)
        return torch.stack([part @ own for part, own in parts], 1)

    def gathered(self, pooled: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of weight and bias, as if no ReLU6 stood between.

        Args:
            pooled: [B, sum of the sizes].
            gradient: that of alpha [B, L, K].
        """
        parts = zip(pooled.split(self.sizes, 1), gradient.unbind(1), strict=True)
        return torch.cat([part.t() @ own for part, own in parts]), gradient.sum(0)


def optimizer(phi: nn.Module, c: CondenseSettings, rate: float) -> torch.optim.Optimizer:
    """Phi's: Eq. 16's plain step, without momentum, or Adam.

    Args:
        phi: what it trains.
        c: the settings.
        rate: the learning rate.
    """
    kind = torch.optim.Adam if c.meta_optimizer == "adam" else torch.optim.SGD
    return kind(phi.parameters(), lr=rate, weight_decay=c.meta_weight_decay)


class Pull:
    """All plain steps of a condensation added up at rate 1, as if no pair stopped at 0 or 6.

    psi is positive and alpha is linear in phi up to there, so that this says what another rate
    would have done, but for what alpha's own course changes in theta. It knows no scale: features
    ten times as large pull ten thousand times as hard, at a rate that is as much less.
    """

    def __init__(self, phi: MetaNetwork) -> None:
        self.phi, self.weight, self.bias = (
            phi,
            torch.zeros_like(phi.weight),
            torch.zeros_like(phi.bias),
        )

    @torch.no_grad()
    def add(self, pooled: Tensor, gradient: Tensor, annealed: float) -> None:
        """Add one step.

        Args:
            pooled: of its images.
            gradient: that of alpha [B, L, K] on them.
            annealed: the share of the rate it was taken at.
        """
        weight, bias = self.phi.gathered(pooled, gradient)
        self.weight.add_(weight, alpha=annealed)
        self.bias.add_(bias, alpha=annealed)

    @torch.no_grad()
    def rate(self, pooled: Tensor, reach: float) -> float:
        """The rate at which alpha would have moved by ``reach``; 0 where nothing pulls.

        Args:
            pooled: of the images whose mean alpha counts.
            reach: mean |1 - alpha| over pairs.
        """
        slope = (self.phi.through(pooled, self.weight) + self.bias).double()
        steepest = float(slope.abs().mean())
        if not 0 < steepest < math.inf:
            return 0.0

        def moved(rate: float) -> float:
            return movement((1 - rate * slope).clamp(0, 6).mean(0))

        low = high = (
            reach / steepest
        )  # |1 - alpha| is at most rate * |slope|: no lower rate gets there
        for _ in range(DOUBLINGS):
            if moved(high) >= reach:
                break
            low, high = high, 2 * high
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if moved(middle) < reach else (low, middle)
        return high
