"""Learners that compare embeddings: MatchingNet and ProtoNet.

Nothing is trained on a downstream task. In meta-training, BN uses the statistics of the episode
(support and queries together); on downstream tasks it uses the running statistics, as in the
papers' implementations. So no query sees another.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

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


class MetricLearner(Learner):
    """Meta-training on episodes through :meth:`log_probabilities` of embeddings."""

    def __init__(self, setup: Setup) -> None:
        self.settings, self.ways = setup.settings, setup.ways
        self.network = copy.deepcopy(setup.network)

    @abstractmethod
    def log_probabilities(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Log probabilities of the queries' classes.

        Args:
            support: embeddings [S, c].
            labels: their classes [S].
            query: embeddings [Q, c].

        Returns:
            [Q, ways].
        """

    def meta_train(self, source: Episodes, progress: Progress, course: Course) -> list[float]:
        """Descend the queries' cross-entropy; see :class:`Learner`."""
        self.network.train()
        network = self.network
        return descend_episodes(
            source,
            network.state_dict(),
            network.parameters(),
            1,
            self._loss,
            progress,
            course,
        )

    def _loss(self, episode: Episode) -> Tensor:
        images = torch.cat([episode.support, episode.query])
        support, query = self.network.embed(images).tensor_split([len(episode.support)])
        return F.nll_loss(
            self.log_probabilities(support, episode.support_labels, query), episode.query_labels
        )

    @torch.no_grad()
    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """See :class:`Learner`."""
        embeddings = self.network.eval().embed(support)
        return classes_of(
            lambda part: self.log_probabilities(embeddings, labels, self.network.embed(part)),
            queries,
        )


class ProtoNet(MetricLearner):
    """Snell, Swersky, Zemel 2017: the nearest class mean by squared distance (Eq. 1, 2)."""

    def log_probabilities(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """log softmax of -|f(x) - c_k|^2 (Eq. 2)."""
        prototypes = means(support, labels, self.ways)
        return F.log_softmax(-(query[:, None] - prototypes[None]).square().sum(2), 1)


class MatchingNet(MetricLearner):
    """Vinyals et al. 2016: attention over the support set by cosines (Eq. 1, section 2.1.1).

    Here f = g, and there are no full-context embeddings. The cosines are scaled
    (fewshot.attention_scale), as by Chen et al. 2019, who found the plain ones too soft to train.
    """

    def log_probabilities(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Take log sum_i a(x, x_i) y_i, where a is the support's softmax of the scaled cosines."""
        cosines = F.normalize(query, dim=1) @ F.normalize(support, dim=1).T
        attention = F.log_softmax(self.settings.attention_scale * cosines, 1)
        members = [attention[:, labels == k].logsumexp(1) for k in range(self.ways)]
        return torch.stack(members, 1)
