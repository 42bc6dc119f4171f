"""DeepEMD: images as sets of local descriptors, compared by the earth mover's distance.

Source: Zhang, Cai, Lin, Shen 2020. The optimal flow comes from POT's exact solver (``ot.emd``, a
network simplex) and is held constant in the gradient. Given the flow, the score is linear in the
similarities, so its gradient with respect to them is exact (the envelope theorem). How the weights
of the descriptors move the flow is left out, as in the authors' code with its OpenCV solver; their
paper ("End-to-End Training") differentiates through the programme.

BN uses the episode's statistics in meta-training and running statistics on downstream tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import ot
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
from evolve.descendants.fewshot.pretrain import pretrain, tuned
from evolve.descendants.fewshot.trunk import fresh_head, width
from evolve.networks.network import Network

# added to every descriptor's weight, so that some mass is left where all cross-references are
# negative
LEAST_WEIGHT = 1e-3
MOMENTUM, DAMPENING = 0.9, 0.9  # of the structured layer, as in the authors' code


def descriptors(network: Network, x: Tensor) -> Tensor:
    """Local descriptors: what the last layer puts out at its places.

    They are a map's pixels before its pooling, or tokens.

    Args:
        network: the backbone.
        x: images [B, 3, H, W].

    Returns:
        [B, n, c].
    """
    last = network.features(x)[-1]
    return last.flatten(2).transpose(1, 2) if last.dim() == 4 else last


def weights(own: Tensor, other: Tensor) -> Tensor:
    """Weigh every place of every pair by max(u_i . mean_j v_j, 0) ("Weight Generation").

    Args:
        own: descriptors u [B, n, c].
        other: descriptors v [K, m, c].

    Returns:
        [B, K, n], summing to n over the places.
    """
    raw = F.relu(torch.einsum("bnc,kc->bkn", own, other.mean(1))) + LEAST_WEIGHT
    return raw * own.shape[1] / raw.sum(2, keepdim=True)


def similarities(query: Tensor, proto: Tensor) -> Tensor:
    """Cosines of all places of all pairs.

    Each descriptor is centred over its channels, as in the authors' code.

    Args:
        query: descriptors [B, n, c].
        proto: descriptors [K, m, c].

    Returns:
        [B, K, n, m].
    """
    parts = (F.normalize(x - x.mean(2, keepdim=True), dim=2) for x in (query, proto))
    return torch.einsum("bnc,kmc->bknm", *parts)


@torch.no_grad()
def flows(similarity: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
    """The optimal flow of every pair for the cost 1 - similarity.

    Args:
        similarity: [B, K, n, m].
        supply: [B, K, n].
        demand: [B, K, m], with the same sums.

    Returns:
        [B, K, n, m].
    """
    # The solver wants contiguous arrays, and equal sums to more digits than float32 has.
    cost, a, b = (
        np.ascontiguousarray(x.double().cpu().numpy()) for x in (1 - similarity, supply, demand)
    )
    b = b * (a.sum(2, keepdims=True) / b.sum(2, keepdims=True))
    optimal = np.stack(
        [ot.emd(a[place], b[place], cost[place]) for place in np.ndindex(*a.shape[:2])]
    )
    return torch.from_numpy(optimal.reshape(similarity.shape)).to(similarity)


def scores(query: Tensor, proto: Tensor, temperature: float) -> Tensor:
    """Score every pair by temperature * sum_ij flow_ij * similarity_ij / n.

    Args:
        query: descriptors [B, n, c].
        proto: descriptors [K, m, c].
        temperature: the factor.

    Returns:
        [B, K].
    """
    similarity = similarities(query, proto)
    supply, demand = weights(query, proto), weights(proto, query).transpose(0, 1)
    flow = flows(similarity, supply, demand * (query.shape[1] / proto.shape[1]))
    return temperature * (flow * similarity).sum((2, 3)) / query.shape[1]


class DeepEMD(Learner):
    """Pre-training, then episodes.

    With several shots, a task's classes are structured prototypes, learned on the support set
    ("Structured Fully Connected Layer").
    """

    def __init__(self, setup: Setup) -> None:
        self.settings, self.ways, self.seed = setup.settings, setup.ways, setup.seed
        self.network = copy.deepcopy(setup.network)

    def outer_loss(self, episode: Episode) -> Tensor:
        """Cross-entropy of the queries against the mean descriptors of each class.

        The structured layer is for downstream tasks alone.
        """
        parts = descriptors(self.network, torch.cat([episode.support, episode.query]))
        support, query = parts.tensor_split([len(episode.support)])
        proto = means(support, episode.support_labels, self.ways)
        return F.cross_entropy(
            scores(query, proto, self.settings.emd_temperature), episode.query_labels
        )

    def meta_train(self, source: Episodes, progress: Progress, course: Course) -> list[float]:
        """Pre-train on all classes, then train on episodes; see :class:`Learner`."""
        weight, bias = fresh_head(
            len(source.classes), width(self.network), source.resident.device, self.seed
        )
        network = self.network
        first = pretrain(
            network,
            lambda x: F.linear(x, weight, bias),
            [weight, bias],
            source,
            lambda f, t: progress(f / 2, t),
            course,
        )
        network.train()
        return first + descend_episodes(
            source,
            network.state_dict(),
            network.parameters(),
            1,
            self.outer_loss,
            lambda f, t: progress((1 + f) / 2, t),
            course,
        )

    def prototypes(self, parts: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        """Learn the structured layer's weight: emd_steps passes of SGD over the support set.

        The passes start from the classes' mean descriptors. A single image a class is its own
        prototype, as in the authors' code. Cosines do not change with a descriptor's length and
        their gradient falls with it; hence the authors' rate of 100.

        Args:
            parts: the support set's descriptors [S, n, c].
            labels: their classes [S].
            draw: the generator of the batches.

        Returns:
            [ways, n, c].
        """
        s, start = self.settings, means(parts, labels, self.ways)
        if len(parts) == self.ways:
            return start
        sgd = {"lr": s.emd_lr, "momentum": MOMENTUM, "dampening": DAMPENING}

        def matched(part: Tensor, proto: Tensor) -> Tensor:
            return scores(part, proto, s.emd_temperature)

        return tuned(start, matched, parts, labels, s.emd_steps, s.emd_batch, draw, **sgd)

    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """See :class:`Learner`."""
        with torch.no_grad():
            parts = descriptors(self.network.eval(), support)
        proto = self.prototypes(parts, labels, draw)
        return classes_of(
            lambda part: scores(
                descriptors(self.network, part), proto, self.settings.emd_temperature
            ),
            queries,
        )
