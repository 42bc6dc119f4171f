"""Similarity without a meta-network: the layers that a pseudo-descendant came closest to.

Every pair of layers weighs the same in its training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evolve.condensers.batches import steps_per_epoch
from evolve.condensers.interface import Condensed, Request, scored
from evolve.condensers.meta_network.convergence import Diverged
from evolve.condensers.meta_network.hypergradient import Rule
from evolve.condensers.meta_network.meta_network import Batch, Condensation, diverged
from evolve.core.randomness import generator


def similarity(request: Request) -> Condensed:
    """Score pairs of layers by alpha^{l,k} = -psi^{l,k} (paper, Eq. 7) after the matching.

    The pseudo-descendant theta and its alignment h were trained as in the paper's condensation, but
    with alpha fixed at 1. So the two methods differ in what the meta-network adds. Losses and
    features that diverge are treated as there.

    Args:
        request: the condensation to do.
    """
    c, split = request.c, request.split
    run = Matching(request)
    try:
        history = run.train(split.train, split.train_labels, split.meta_labels, request.progress)
    except Diverged:
        return diverged(request)
    return scored(
        request,
        -run.mean_psi(),
        {name: history[name] for name in ("iteration", "classification", "matching")},
        c.selection,
    )


class Ones(nn.Module):
    """Every pair's weight is 1."""

    def __init__(self, layers: int, descendant_layers: int) -> None:
        super().__init__()
        self.shape = (layers, descendant_layers)

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, any] -> [B, L, K]."""
        return pooled.new_ones(len(pooled), *self.shape)


class Matching(Condensation):
    """A condensation that leaves out phi's step."""

    def weighting(self, rate: float | None) -> tuple[nn.Module, torch.optim.Optimizer | None]:
        """Weigh every pair by 1, whatever the rate; there is nothing to train."""
        return Ones(len(self.matcher.pooled_sizes), len(self.pseudo.network.places)), None

    matches_training = False

    def iterate(self, batch: Batch, annealed: float) -> tuple[Tensor, Tensor]:
        """Take a step of theta and zeta down L_total (paper, Eq. 15), matching on the meta batch.

        Args:
            batch: the iteration's images.
            annealed: the share of the learning rate, in [0, 1].

        Returns:
            (L_cls, L_meta) before the step.
        """
        rule = Rule(self.c.lr * annealed, self.c.momentum, self.c.weight_decay)
        return self._real_step(batch, self.ancestor.of_rows(batch.rows), batch.meta, rule)

    def mean_psi(self) -> Tensor:
        """Each pair's mean psi over all meta images, [L, K], float64.

        As in training, BN uses the statistics of mixed batches of about ``meta_batch`` images.
        """
        count, total = len(self.meta_index), torch.zeros(())
        order = torch.randperm(count, generator=generator(self.seed, "psi-order"))
        for rows in order.tensor_split(steps_per_epoch(count, self.c.meta_batch)):
            frozen = self.ancestor.of_rows(rows)
            images = self.resident.batch(self.meta_index[rows])
            by_image = self.losses.psi(frozen, images, self.state.params)
            total = total + by_image.double().sum(0).cpu()
        return total / count
