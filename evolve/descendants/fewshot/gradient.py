"""Learners that adapt weights by gradient steps: one rule with four switches.

They are MAML (second and first order), ProtoMAML and BOIL. In inner steps and for the queries, in
meta-training and on downstream tasks alike, BN uses the statistics of the support images
(:class:`evolve.descendants.fewshot.trunk.SupportNorm`). The papers' own code takes those of the
queries; ours does not leak across queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from evolve.descendants.fewshot.course import Course
from evolve.descendants.fewshot.episodes import Episode, Episodes
from evolve.descendants.fewshot.learner import (
    Learner,
    Progress,
    Setup,
    classes_of,
    descend_episodes,
    means,
)
from evolve.descendants.fewshot.trunk import (
    HEAD,
    Functional,
    Parameters,
    as_head,
    fresh_head,
    linear,
    width,
)


def inner_loop(
    loss: Callable[[Parameters], Tensor],
    start: Parameters,
    adapted: Iterable[str],
    rate: float,
    steps: int,
    order: int,
) -> Parameters:
    """Repeat theta' <- theta' - rate * grad L(theta') (Finn et al. 2017, section 2.2).

    Args:
        loss: L.
        start: the weights to begin with.
        adapted: names of the weights that move.
        rate: the step size.
        steps: how many steps.
        order: 2: the result is a differentiable function of ``start``, through every step. 1: the
            gradients are constants (their section 5.2), so d theta' / d theta is the identity.

    Returns:
        All weights after the steps.
    """
    current, names = dict(start), tuple(adapted)
    for _ in range(steps):
        base = current if order == 2 else {name: p.detach() for name, p in current.items()}
        slopes = torch.func.grad(lambda moving, base=base: loss(base | moving))(
            {name: base[name] for name in names}
        )
        current |= {name: current[name] - rate * slopes[name] for name in names}
    return current


@dataclass(frozen=True)
class Rule:
    """How a learner of this family adapts."""

    order: int
    rate: float
    adapts_head: bool = True
    prototype_head: bool = False


class GradientLearner(Learner):
    """Meta-learned initial weights, adapted by full-batch gradient steps on the support set."""

    def __init__(self, setup: Setup, rule: Rule) -> None:
        self.settings, self.ways, self.rule = setup.settings, setup.ways, rule
        self.trunk = Functional(setup.network, support_norm=True)
        self.weights = self.trunk.weights()
        self.adapted = tuple(self.weights) + (HEAD if rule.adapts_head else ())
        if not rule.prototype_head:
            device = next(iter(self.weights.values())).device
            self.weights |= as_head(
                *fresh_head(self.ways, width(setup.network), device, setup.seed)
            )

    def logits(self, weights: Parameters, x: Tensor, support: int) -> Tensor:
        """Classify images.

        Args:
            weights: the weights to use.
            x: images [B, 3, H, W].
            support: how many of the first ones are the support set.

        Returns:
            [B, ways].
        """
        return linear(weights, self.trunk.embed(weights, x, support))

    def adapt(self, support: Tensor, labels: Tensor, steps: int, order: int) -> Parameters:
        """Adapt the weights to a support set.

        Args:
            support: images [S, 3, H, W].
            labels: their classes [S].
            steps: gradient steps.
            order: as in :func:`inner_loop`.
        """
        start = dict(self.weights)
        if self.rule.prototype_head:
            embeddings = self.trunk.embed(start, support, len(support))
            start |= as_head(*prototype_head(means(embeddings, labels, self.ways)))

        def loss(weights: Parameters) -> Tensor:
            return F.cross_entropy(self.logits(weights, support, len(support)), labels)

        return inner_loop(loss, start, self.adapted, self.rule.rate, steps, order)

    def outer_loss(self, episode: Episode) -> Tensor:
        """Cross-entropy of the queries under the adapted weights (Finn et al. 2017, Eq. 1).

        It is a function of the initial weights.
        """
        support = len(episode.support)
        with plain_attention() if self.rule.order == 2 else nullcontext():
            adapted = self.adapt(
                episode.support, episode.support_labels, self.settings.inner_steps, self.rule.order
            )
            logits = self.logits(adapted, torch.cat([episode.support, episode.query]), support)
        return F.cross_entropy(logits[support:], episode.query_labels)

    def meta_train(self, source: Episodes, progress: Progress, course: Course) -> list[float]:
        """Adam on the mean :meth:`outer_loss` of meta_batch episodes; see :class:`Learner`."""
        weights, each = self.weights, self.settings.meta_batch
        return descend_episodes(
            source, weights, weights.values(), each, self.outer_loss, progress, course
        )

    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """See :class:`Learner`.

        For BN's statistics, the support images go along with every part of the queries.
        """
        adapted = {
            name: p.detach()
            for name, p in self.adapt(support, labels, self.settings.test_steps, order=1).items()
        }
        return classes_of(
            lambda part: self.logits(adapted, torch.cat([support, part]), len(support))[
                len(support) :
            ],
            queries,
        )


def plain_attention() -> AbstractContextManager[None]:
    """torch's attention without its fused kernels, which have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def prototype_head(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """The linear head that is ProtoNet's distance up to a constant.

    Its weight is 2 c_k and its bias -|c_k|^2 (Snell et al. 2017, Eq. 8; Triantafillou et al. 2020).

    Args:
        prototypes: c [ways, c].

    Returns:
        Weight [ways, c] and bias [ways].
    """
    return 2 * prototypes, -prototypes.square().sum(1)


def maml(setup: Setup) -> GradientLearner:
    """Finn, Abbeel, Levine 2017: the gradient goes through the inner steps.

    Args:
        setup: what the learner starts from.
    """
    return GradientLearner(setup, Rule(order=2, rate=setup.settings.inner_lr))


def fomaml(setup: Setup) -> GradientLearner:
    """MAML's first-order approximation (Finn et al. 2017, section 5.2).

    Args:
        setup: what the learner starts from.
    """
    return GradientLearner(setup, Rule(order=1, rate=setup.settings.inner_lr))


def protomaml(setup: Setup) -> GradientLearner:
    """Triantafillou et al. 2020: MAML whose head starts as the prototypes, in every episode.

    The gradient goes through that start.

    Args:
        setup: what the learner starts from.
    """
    return GradientLearner(
        setup, Rule(order=setup.settings.order, rate=setup.settings.inner_lr, prototype_head=True)
    )


def boil(setup: Setup) -> GradientLearner:
    """Oh et al. 2021, "body only update in inner loop": the head learns in the outer loop alone.

    This is their section 3.1.

    Args:
        setup: what the learner starts from.
    """
    return GradientLearner(
        setup, Rule(order=setup.settings.order, rate=setup.settings.boil_lr, adapts_head=False)
    )
