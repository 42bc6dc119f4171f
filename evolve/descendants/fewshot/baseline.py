"""Baseline++: no episodes at all.

Source: Chen, Liu, Kira, Wang, Huang 2019, "A closer look at few-shot classification". BN uses batch
statistics in pre-training, and running statistics on downstream tasks, whose backbone is frozen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.descendants.fewshot.course import Course
from evolve.descendants.fewshot.episodes import Episodes
from evolve.descendants.fewshot.learner import Learner, Progress, Setup, classes_of
from evolve.descendants.fewshot.pretrain import pretrain, tuned
from evolve.descendants.fewshot.trunk import fresh_head, width

MOMENTUM, DAMPENING, WEIGHT_DECAY = 0.9, 0.9, 1e-3  # of the new head, as in the authors' code


def cosine_scores(embedding: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Score classes by scale * cos(f(x), w_k) (section 3.2); softmax follows.

    Args:
        embedding: f(x) [B, c].
        weight: w [K, c].
        scale: the factor.

    Returns:
        [B, K].
    """
    return scale * F.linear(F.normalize(embedding, dim=1), F.normalize(weight, dim=1))


class BaselinePlusPlus(Learner):
    """A cosine classifier over all ancestor classes.

    On a task the backbone stays, and a new cosine head learns the support set.
    """

    def __init__(self, setup: Setup) -> None:
        self.settings, self.ways, self.seed = setup.settings, setup.ways, setup.seed
        self.network = copy.deepcopy(setup.network)
        self.features = width(setup.network)

    def meta_train(self, source: Episodes, progress: Progress, course: Course) -> list[float]:
        """The training stage; see :class:`Learner`."""
        weight, _ = fresh_head(
            len(source.classes), self.features, source.resident.device, self.seed
        )
        scale = self.settings.cosine_scale
        return pretrain(
            self.network,
            lambda x: cosine_scores(x, weight, scale),
            [weight],
            source,
            progress,
            course,
        )

    def head(self, embeddings: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """The fine-tuning stage: tune_steps passes over the support set, tune_batch images a step.

        Args:
            embeddings: the support set's [S, c].
            labels: their classes [S].
            draw: the generator of the head and of the batches.

        Returns:
            The new head's weight [ways, c].
        """
        s = self.settings
        start = (2 * torch.rand(self.ways, self.features, generator=draw) - 1) / self.features**0.5
        sgd = {
            "lr": s.tune_lr,
            "momentum": MOMENTUM,
            "dampening": DAMPENING,
            "weight_decay": WEIGHT_DECAY,
        }

        def scores(part: Tensor, weight: Tensor) -> Tensor:
            return cosine_scores(part, weight, s.cosine_scale)

        return tuned(
            start.to(embeddings.device),
            scores,
            embeddings,
            labels,
            s.tune_steps,
            s.tune_batch,
            draw,
            **sgd,
        )

    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """See :class:`Learner`."""
        with torch.no_grad():
            embeddings = self.network.eval().embed(support)
        weight = self.head(embeddings, labels, draw)
        return classes_of(
            lambda part: cosine_scores(
                self.network.embed(part), weight, self.settings.cosine_scale
            ),
            queries,
        )
