"""Baselines of the condenser: the bilevel objective of the authors' code, and Eq. 16.

The former's gradient is a double backward through all look-ahead steps. psi is as its formula says,
the frozen ancestor is evaluated wherever the objective needs it (as the published code of the
method that the paper borrows does), and the memory format is the default. The batches are our
resident ones, drawn as ours: in its favour, and so that both can be compared number by number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from evolve.condensers.batches import (
    draw_images,
    epoch_rows,
    meta_rows,
    split_meta,
    steps_per_epoch,
)
from evolve.condensers.meta_network.frozen import Features
from evolve.condensers.meta_network.hypergradient import LookAhead, Rule, sgd, unrolled
from evolve.condensers.meta_network.layout import Projection
from evolve.condensers.meta_network.matchers import matcher_for
from evolve.condensers.meta_network.matching import psi_reference
from evolve.condensers.meta_network.phi import MetaNetwork, optimizer
from evolve.condensers.meta_network.pseudo import Pseudo
from evolve.core.randomness import generator
from evolve.core.settings import CondenseSettings
from evolve.data.resident import Resident
from evolve.networks.architecture import Architecture
from evolve.networks.network import Network, initialise
from evolve.networks.vgg import VGG

from .cases import CONDENSE_CLASSES, Case
from .work import barrier


class DoubleBackward:
    """One condensation.

    ``iterate`` is one iteration of Algorithm 1, ``alpha`` the pairs' weights so far.
    """

    def __init__(
        self,
        plan: Architecture,
        state: Mapping[str, Tensor],
        classes: Sequence[int],
        resident: Resident,
        c: CondenseSettings,
        seed: int,
    ) -> None:
        self.c, self.seed, self.resident = c, seed, resident
        drawn = draw_images(
            [resident.indices(i, test=False) for i in classes], classes, c.images_per_class, seed
        )
        self.train_index, self.train_labels, self.meta_index, self.meta_labels = split_meta(
            drawn, c.meta_fraction, seed
        )
        ancestor = plan.build(len(state["head.weight"]))
        ancestor.load_state_dict(dict(state))
        self.ancestor = Features(
            _plain(ancestor, resident).eval().requires_grad_(False),
            plan.integral_layers(c.granularity),
        )
        self._draw(plan.paper_descendant(), len(classes))
        self.batches = self._batches()

    def _draw(self, plan: Architecture, classes: int) -> None:
        """Pseudo-descendant (theta), alignment (zeta) and meta-network (phi), with the very draws
        of ours.
        """
        pseudo, groups = plan.build(classes), plan.integral_layers(self.c.granularity)
        initialise(pseudo, self.seed, "pseudo-descendant")
        pseudo = _plain(pseudo, self.resident)
        probe = self.resident.batch(self.meta_index[:1]).contiguous()
        with torch.no_grad():
            shown = self.ancestor(probe), Features(pseudo.eval(), groups)(probe)
        self.matcher = matcher_for(*shown)
        fresh = Pseudo(pseudo, groups, self.matcher, self.seed)
        self.pseudo, self.params = Features(pseudo.train(), groups), fresh.initial
        self.names = [name for name, _ in self.pseudo.named_parameters()]
        self.buffers = tuple(torch.zeros_like(p) for p in self.params)
        self.phi = MetaNetwork(self.matcher.pooled_sizes, len(shown[1])).to(probe)
        self.of_phi = optimizer(self.phi, self.c, self.c.meta_lr)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, float]]:
        """Training images and labels, meta images and labels, and the annealed share of the
        learning rate; without end.
        """
        metas, epoch = meta_rows(len(self.meta_index), self.c.meta_batch, self.seed), 0
        steps, device = steps_per_epoch(len(self.train_index), self.c.batch), self.resident.device
        while True:
            draws = generator(self.seed, "condense-augment", epoch)
            for step, rows in enumerate(
                epoch_rows(len(self.train_index), self.c.batch, self.seed, epoch)
            ):
                done = min(1.0, (epoch + step / steps) / self.c.epochs)
                images = self.resident.batch(
                    self.train_index[rows], self.c.augment, draws
                ).contiguous()
                meta = next(metas)
                shown = self.resident.batch(self.meta_index[meta]).contiguous()
                labels, truth = (
                    self.train_labels[rows].to(device),
                    self.meta_labels[meta].to(device),
                )
                yield images, labels, shown, truth, 0.5 * (1 + math.cos(math.pi * done))
            epoch += 1

    def iterate(self) -> None:
        """A step of theta and zeta on CE + lambda L_meta; look ahead; a step of phi down the CE
        there.
        """
        images, labels, meta, truth, annealed = next(self.batches)
        rule = Rule(self.c.lr * annealed, self.c.momentum, self.c.weight_decay)
        leaves = tuple(p.detach().requires_grad_() for p in self.params)
        with torch.no_grad():
            alpha = self._alpha(meta)
        loss = self._classification(leaves, images, labels) + self.c.match_weight * self._matching(
            leaves, meta, alpha
        )
        grads = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            self.params, self.buffers = sgd(leaves, self.buffers, grads, rule)
        alpha = self._alpha(meta)
        look = LookAhead(
            matching=lambda params, weights: self._matching(params, meta, weights),
            train_loss=lambda params: self._classification(params, images, labels),
            outer_loss=lambda params: self._classification(params, meta, truth),
            steps=self.c.lookahead,
        )
        _, gradient = unrolled(look, alpha, self.params, self.buffers, rule)
        self.of_phi.zero_grad()
        alpha.backward(gradient)
        self.of_phi.step()

    @torch.no_grad()
    def alpha(self) -> Tensor:
        """[L, K]: each pair's mean over all meta images."""
        parts = [
            self._alpha(self.resident.batch(part).contiguous())
            for part in self.meta_index.split(64)
        ]
        return torch.cat(parts).mean(0)

    def _alpha(self, x: Tensor) -> Tensor:
        """alpha [B, L, K] of images [B, 3, H, W]."""
        with torch.no_grad():
            pooled = self.matcher.pool(self.ancestor(x))
        weights: Tensor = self.phi(pooled)
        return weights

    def _matching(self, params: Sequence[Tensor], x: Tensor, alpha: Tensor) -> Tensor:
        """L_meta (Eq. 8), mean over the images x [B, 3, H, W]."""
        return (alpha * self._psi(params, x, self._call(params, x))).sum((1, 2)).mean()

    def _psi(self, params: Sequence[Tensor], x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """psi [B, L, K] of images x with the pseudo-descendant's ``maps`` (Eq. 7)."""
        with torch.no_grad():
            targets = self.ancestor(x)
        zeta = params[len(self.names) :]
        h = [Projection(zeta[i], zeta[i + 1]) for i in range(0, len(zeta), 2)]
        return _psi(targets, maps, h)

    def _classification(self, params: Sequence[Tensor], x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self._call(params, x, True)[0], labels)

    def _call(self, params: Sequence[Tensor], x: Tensor, logits: bool = False) -> list[Tensor]:
        outputs: list[Tensor] = functional_call(
            self.pseudo, dict(zip(self.names, params, strict=False)), (x, logits)
        )
        return outputs


def _psi(targets: Sequence[Tensor], features: Sequence[Tensor], h: Sequence[Projection]) -> Tensor:
    """psi [B, L, K] as its formula says; of a ViT's tokens h is the identity."""
    if features[0].dim() == 4:
        return psi_reference(targets, features, h)
    columns = [
        torch.stack([(z - target).square().mean((1, 2)) for target in targets], 1) for z in features
    ]
    return torch.stack(columns, 2)


class FeaturesAndLogits(Features):
    """A VGG seen at its layer groups; where logits are asked for, too, they come last."""

    def forward(self, x: Tensor, logits: bool = False) -> list[Tensor]:
        """Look at images x [B, 3, H, W]."""
        network = cast(VGG, self.network)
        maps = network.features(x)
        seen, last = [maps[place] for place in self.places], maps[-1]
        pooled = F.max_pool2d(last, 2) if last.shape[-1] > 1 else last
        return [*seen, network.head(pooled.mean((2, 3)))] if logits else seen


class PlainEq16(DoubleBackward):
    """One condensation by Algorithm 1 with Eq. 16, as anyone would write it.

    Autograd, torch's SGD for theta and zeta, and one of its optimizers for phi. The training
    batch passes the pseudo-descendant once for both losses; phi's step needs no other gradient.
    """

    def _draw(self, plan: Architecture, classes: int) -> None:
        super()._draw(plan, classes)
        c = self.c
        groups = plan.integral_layers(c.granularity)
        self.pseudo = FeaturesAndLogits(self.pseudo.network, groups)
        self.params = tuple(nn.Parameter(p) for p in self.params)
        self.of_w = torch.optim.SGD(
            self.params, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay
        )

    def iterate(self) -> None:
        """A step of theta and zeta on CE + lambda L_meta of a training batch, then one of phi."""
        images, labels, meta, _, annealed = next(self.batches)
        cosine = self.c.meta_schedule == "cosine"
        self.of_w.param_groups[0]["lr"] = self.c.lr * annealed
        self.of_phi.param_groups[0]["lr"] = self.c.meta_lr * (annealed if cosine else 1.0)
        with torch.no_grad():
            alpha = self._alpha(images)
        *maps, logits = self._call(self.params, images, True)
        matching = (alpha * self._psi(self.params, images, maps)).sum((1, 2)).mean()
        loss = F.cross_entropy(logits, labels) + self.c.match_weight * matching
        self.of_w.zero_grad()
        loss.backward()
        self.of_w.step()
        with torch.no_grad():
            psi = self._psi(self.params, meta, self._call(self.params, meta))
        self.of_phi.zero_grad()
        (self._alpha(meta) * psi).sum((1, 2)).mean().backward()
        self.of_phi.step()


def _plain(network: Network, resident: Resident) -> Network:
    return network.to(resident.device).to(memory_format=torch.contiguous_format)


class PlainCondenser:
    """The baseline side.

    An amount is iterations; setting up and the final scores are not timed, in its favour.
    """

    def __init__(self, case: Case, resident: Resident) -> None:
        self.case, self.resident, self.sync = case, resident, barrier(resident.device)
        self.ancestor_plan, self.state = untrained(case)
        self.info: dict[str, Any] = {}

    def prepare(self) -> None:
        """A fresh condensation."""
        c = self.case.settings.condense
        objective = PlainEq16 if c.objective == "eq16" else DoubleBackward
        self.run_now = objective(
            self.ancestor_plan, self.state, CONDENSE_CLASSES, self.resident, c, 0
        )

    def run(self, amount: int) -> int:
        """``amount`` iterations; the training images they took."""
        for _ in range(amount):
            self.run_now.iterate()
        self.sync()
        return amount * self.case.settings.condense.batch


def untrained(case: Case) -> tuple[Architecture, dict[str, Tensor]]:
    """An untrained ancestor: its plan and its network's state."""
    return case.ancestor, dict(
        case.ancestor.build(case.settings.stream.classes_per_task).state_dict()
    )
