"""The pseudo-descendant and its alignment, and their losses by autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from evolve.condensers.meta_network.frozen import Features, Groups
from evolve.condensers.meta_network.hypergradient import LookAhead, Rule, Tensors, reverse_sweep
from evolve.condensers.meta_network.layout import Layout, Projection
from evolve.condensers.meta_network.losses import Objective
from evolve.condensers.meta_network.matchers import AnyMatcher
from evolve.condensers.meta_network.matching import Frozen, Matcher
from evolve.core.randomness import generator


class Pseudo:
    """The pseudo-descendant (theta) and h (zeta) as functions of one tuple of tensors.

    They are :class:`evolve.condensers.meta_network.losses.Losses` for any network on any device. BN
    uses and keeps no running statistics. Where h is the identity, zeta is empty.

    Args:
        network: the pseudo-descendant; its weights are theta's start.
        groups: its layers that are matched.
        matcher: what compares their features.
        seed: draws zeta's start.
    """

    value = True

    def __init__(self, network: nn.Module, groups: Groups, matcher: AnyMatcher, seed: int) -> None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
        self.network = Features(network.train(), groups)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.matcher = matcher
        theta = [
            p.detach().clone(memory_format=torch.preserve_format) for p in self.network.parameters()
        ]
        zeta = (
            _draw_alignment(matcher.layout, seed, like=theta[0])
            if isinstance(matcher, Matcher)
            else []
        )
        self.initial: Tensors = (*theta, *zeta)

    def matching(
        self, frozen: Frozen, x: Tensor, alpha: Tensor, params: Sequence[Tensor]
    ) -> Tensor:
        """L_meta (paper, Eq. 8), mean over the batch.

        Args:
            frozen: the ancestor's side of the images.
            x: the images [B, 3, H, W].
            alpha: [B, L, K].
            params: (theta, zeta).
        """
        h = params[len(self.names) :]
        projections = [Projection(h[i], h[i + 1]) for i in range(0, len(h), 2)]
        return self.matcher.loss(frozen, alpha, self._call(params, x), projections)

    def loss(self, x: Tensor, labels: Tensor, params: Sequence[Tensor]) -> Tensor:
        """L_cls: cross-entropy, mean over the batch.

        Args:
            x: the images [B, 3, H, W].
            labels: [B].
            params: (theta, zeta).
        """
        return F.cross_entropy(self._call(params, x, True)[0], labels)

    def total(
        self, objective: Objective, weight: float, params: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensors]:
        """See :class:`evolve.condensers.meta_network.losses.Losses`."""
        leaves = tuple(p.detach().requires_grad_() for p in params)
        classification = self.loss(objective.images, objective.labels, leaves)
        matching = self.matching(objective.frozen, objective.matched, objective.alpha, leaves)
        grads = torch.autograd.grad(classification + weight * matching, leaves)
        return classification.detach(), matching.detach(), grads

    def psi(self, frozen: Frozen, x: Tensor, params: Sequence[Tensor]) -> Tensor:
        """See :class:`evolve.condensers.meta_network.losses.Losses`."""
        pairs = len(self.matcher.pooled_sizes), len(self.network.places)
        weights = frozen.pooled.new_ones(len(x), *pairs, requires_grad=True)  # any would do
        (gradient,) = torch.autograd.grad(self.matching(frozen, x, weights, params), weights)
        return gradient * len(x)

    def hypergradient(
        self,
        objective: Objective,
        outer: tuple[Tensor, Tensor],
        steps: int,
        params: Sequence[Tensor],
        buffers: Sequence[Tensor],
        rule: Rule,
    ) -> Tensor:
        """See :class:`evolve.condensers.meta_network.losses.Losses`."""
        look = LookAhead(
            matching=lambda now, weights: self.matching(
                objective.frozen, objective.matched, weights, now
            ),
            train_loss=lambda now: self.loss(objective.images, objective.labels, now),
            outer_loss=lambda now: self.loss(*outer, now),
            steps=steps,
        )
        return reverse_sweep(look, objective.alpha, params, buffers, rule)[1]

    def _call(self, params: Sequence[Tensor], x: Tensor, logits: bool = False) -> list[Tensor]:
        return functional_call(
            self.network, dict(zip(self.names, params, strict=False)), (x, logits)
        )


def _draw_alignment(shape: Layout, seed: int, like: Tensor) -> list[Tensor]:
    """h's weights and biases, uniform within 1/sqrt(c_k), torch's default for convolutions.

    Each pair has a generator of its own.
    """
    drawn = []
    for k, (width, _) in enumerate(shape.descendant):
        bound = 1 / math.sqrt(width)
        pairs = [
            torch.empty(channels, width + 1).uniform_(
                -bound, bound, generator=generator(seed, "alignment", l, k)
            )
            for l, (channels, _) in enumerate(shape.ancestor)
        ]
        both = torch.cat(pairs).to(like)
        drawn += [both[:, :-1].contiguous(), both[:, -1].contiguous()]
    return drawn
