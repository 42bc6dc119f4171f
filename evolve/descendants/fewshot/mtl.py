"""Meta-transfer learning, first order, without its hard-task mining.

Source: Sun, Liu, Chua, Schiele 2019. BN uses batch statistics in pre-training. From then on it
belongs to the frozen network and uses its running statistics everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evolve.descendants.fewshot.course import Course
from evolve.descendants.fewshot.episodes import Episode, Episodes
from evolve.descendants.fewshot.gradient import inner_loop
from evolve.descendants.fewshot.learner import (
    Learner,
    Progress,
    Setup,
    classes_of,
    descend_episodes,
)
from evolve.descendants.fewshot.pretrain import pretrain
from evolve.descendants.fewshot.trunk import (
    HEAD,
    Functional,
    Parameters,
    as_head,
    fresh_head,
    linear,
    width,
)


class MTL(Learner):
    """A pre-trained, frozen network whose neurons are scaled and shifted.

    Scales, shifts and the head's start are meta-learned; the head adapts to a task.
    """

    def __init__(self, setup: Setup) -> None:
        self.settings, self.ways, self.seed = setup.settings, setup.ways, setup.seed
        self.network = copy.deepcopy(setup.network)
        device = self.network.head.weight.device
        self.start = as_head(
            *fresh_head(setup.ways, width(setup.network), device, setup.seed, "episodes")
        )
        self._freeze()

    def _freeze(self) -> None:
        """Scales of one and shifts of zero around the network as it is now."""
        self.trunk = Functional(self.network, support_norm=False).requires_grad_(False)
        self.scales, self.shifts = Parameters(), Parameters()
        for name, module in self.trunk.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and name != "network.head":
                self.scales[f"{name}.weight"] = module.weight.new_ones(module.weight.shape[:2])
                if module.bias is not None:
                    self.shifts[f"{name}.bias"] = torch.zeros_like(module.bias)
        for p in (*self.scales.values(), *self.shifts.values()):
            p.requires_grad_()

    def embed(self, x: Tensor) -> Tensor:
        """Embed images by (W * scale) x + (b + shift) in every layer (section 4.2): [B, c].

        There is one scale a kernel and one shift a neuron.
        """
        frozen = dict(self.trunk.named_parameters())
        scaled = {
            name: frozen[name] * s[(...,) + (None,) * (frozen[name].dim() - 2)]
            for name, s in self.scales.items()
        }
        return self.trunk.embed(
            scaled | {name: frozen[name] + s for name, s in self.shifts.items()}, x, len(x)
        )

    def head(self, embeddings: Tensor, labels: Tensor) -> Parameters:
        """Adapt the head to the support set (section 4.2); first order in its start.

        Args:
            embeddings: the support set's [S, c].
            labels: their classes [S].
        """

        def loss(head: Parameters) -> Tensor:
            return F.cross_entropy(linear(head, embeddings), labels)

        return inner_loop(
            loss, self.start, HEAD, self.settings.mtl_lr, self.settings.mtl_steps, order=1
        )

    def outer_loss(self, episode: Episode) -> Tensor:
        """Cross-entropy of the queries under the adapted head (section 4.2).

        It descends to scales, shifts and the head's start.
        """
        with torch.no_grad():
            embeddings = self.embed(episode.support)
        head = self.head(embeddings, episode.support_labels)
        return F.cross_entropy(linear(head, self.embed(episode.query)), episode.query_labels)

    def meta_train(self, source: Episodes, progress: Progress, course: Course) -> list[float]:
        """Pre-train on all classes (section 4.1), then train on episodes; see :class:`Learner`."""
        weight, bias = fresh_head(
            len(source.classes),
            width(self.network),
            source.resident.device,
            self.seed,
            "pre-training",
        )
        first = pretrain(
            self.network,
            lambda x: F.linear(x, weight, bias),
            [weight, bias],
            source,
            lambda f, t: progress(f / 2, t),
            course,
        )
        self._freeze()
        learned = self.scales | self.shifts | self.start  # kernels, biases, the head: no name twice
        return first + descend_episodes(
            source,
            learned,
            learned.values(),
            self.settings.meta_batch,
            self.outer_loss,
            lambda f, t: progress((1 + f) / 2, t),
            course,
        )

    def predict(
        self, support: Tensor, labels: Tensor, queries: Iterable[Tensor], draw: torch.Generator
    ) -> Tensor:
        """See :class:`Learner`."""
        with torch.no_grad():
            embeddings = self.embed(support)
        head = {name: p.detach() for name, p in self.head(embeddings, labels).items()}
        return classes_of(lambda part: linear(head, self.embed(part)), queries)
