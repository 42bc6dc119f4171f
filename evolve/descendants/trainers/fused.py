"""The CPU's trainer: passes written out (:mod:`evolve.networks.fast.fused`), all parameters of a network in one flat tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evolve.descendants.trainers.group import Group
from evolve.descendants.trainers.plain import TEST_BATCH
from evolve.networks.fast.fused import Training, passes
from evolve.networks.fast.shape import Statistics, flat_zeros
from evolve.networks.vgg import VGG

KEPT_BYTES = 64 * 2**20
"""Normalised test images of a network are kept from epoch to epoch up to this size."""


class FusedTrainer:
    """A :class:`evolve.descendants.trainers.group.Trainer` for models on the CPU, in float32 or float64. Each passes by itself, so company changes no bit."""

    def __init__(self, models: Sequence[VGG], group: Group) -> None:
        self.learners = [Learner(model, group, member) for member, model in enumerate(models)]

    def epoch(self, epoch: int) -> list[float]:
        return [learner.epoch(epoch) for learner in self.learners]

    def correct(self) -> list[Tensor]:
        return [learner.correct() for learner in self.learners]

    def close(self) -> None:
        for learner in self.learners:
            learner.close()


class Learner:
    """One member of a group."""

    def __init__(self, model: VGG, group: Group, member: int) -> None:
        self.model, self.group, self.member, self.task = model, group, member, group.tasks[member]
        plan, head = model.plan, model.head.weight
        self.fused, self.dtype = passes(plan, group.resident.size), head.dtype
        layers = [(spec.c_in, spec.c_out) for block in plan for spec in block]
        self.parameters, self.weights = flat_zeros(layers, len(head), self.dtype)
        self.momentum, self.momentum_views = flat_zeros(layers, len(head), self.dtype)
        self.convolutions = sum(
            weight.numel() for weight in self.weights.conv
        )  # numbers; they come first
        self.statistics = Statistics(
            *(
                [getattr(unit.bn, name).clone() for unit in model.units]
                for name in ("running_mean", "running_var")
            )
        )
        self.rates = torch.tensor([0.0, group.d.momentum, group.d.weight_decay], dtype=self.dtype)
        self.steps = 0
        self._training: dict[int, Training] = {}
        self._tests: list[Tensor] = []
        self._load()
        # The momentum already holds the next step's decay, so that a gradient only has to be added (see _update).
        self.momentum.add_(self.parameters, alpha=group.d.weight_decay)

    def epoch(self, epoch: int) -> float:
        group, draw = self.group, self.group.augmentation(self.member, epoch)
        total = torch.zeros((), dtype=torch.float64)
        batches = group.batches(self.member, epoch)
        shown = group.resident.batches(
            [self.task.train[places] for places in batches], group.d.augment, draw
        )
        for step, (places, images) in enumerate(zip(batches, shown, strict=True)):
            total += self._step(
                images.to(self.dtype), self.task.train_labels[places], group.rate(epoch, step)
            ) * len(places)
        return float(total / group.images)

    def _step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One optimizer step on images [B, 3, S, S] and labels [B]; the mean loss, float64."""
        training = self._trained(len(images))
        scores = torch.log_softmax(training.forward(images), 1)
        truth = labels.unsqueeze(1)
        gradient = (
            scores.exp()
            .scatter_add_(1, truth, torch.full_like(scores[:, :1], -1))
            .div_(len(labels))
        )
        self.rates[0] = -rate
        training.backward(gradient, self.momentum_views)
        self._update(rate)
        self.steps += 1
        return -scores.gather(1, truth).double().mean()

    def _update(self, rate: float) -> None:
        """SGD with momentum m and decay w, as torch.optim.SGD: b' = m b + g + w p; p' = p - rate b', for all that is no convolution's weight.

        The momentum tensor holds m b + w p when the backward pass begins to add g, so that it is read and written once for the step just
        made and the next one's decay. The convolutions' weights have made theirs in the backward pass
        (:func:`evolve.networks.fast.compiled.convolution.weight_step`).
        """
        p, b = self.parameters[self.convolutions :], self.momentum[self.convolutions :]
        p.add_(b, alpha=-rate)
        b.mul_(self.group.d.momentum).add_(p, alpha=self.group.d.weight_decay)

    def _trained(self, batch: int) -> Training:
        if batch not in self._training:
            self._training[batch] = Training(
                self.fused, self.weights, self.statistics, batch, self.rates
            )
        return self._training[batch]

    def correct(self) -> Tensor:
        found = []
        for number, (places, labels) in enumerate(
            zip(
                self.task.test.split(TEST_BATCH),
                self.task.test_labels.split(TEST_BATCH),
                strict=True,
            )
        ):
            logits = self.fused.evaluate(
                self.weights, self.statistics, self._test_images(number, places)
            )
            found.append(logits.argmax(1) == labels)
        return torch.cat(found)

    def _test_images(self, number: int, places: Tensor) -> Tensor:
        if number < len(self._tests):
            return self._tests[number]
        images = self.group.resident.batch(places).to(self.dtype)
        if images.nbytes // len(places) * len(self.task.test) <= KEPT_BYTES:
            self._tests.append(images)
        return images

    @torch.no_grad()
    def _load(self) -> None:
        for own, given in self._pairs():
            own.copy_(given)

    @torch.no_grad()
    def close(self) -> None:
        for own, given in self._pairs():
            given.copy_(own)
        for unit in self.model.units:
            unit.bn.num_batches_tracked.add_(self.steps)  # type: ignore[union-attr]

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Every own view with the model's tensor that it stands for."""
        pairs, w, s = [], self.weights, self.statistics
        for layer, unit in enumerate(self.model.units):
            bn = unit.bn
            given = (
                unit.conv.weight,
                unit.conv.bias,
                bn.weight,
                bn.bias,
                bn.running_mean,
                bn.running_var,
            )
            own = (
                w.conv[layer],
                w.bias[layer],
                w.gamma[layer],
                w.beta[layer],
                s.mean[layer],
                s.var[layer],
            )
            pairs += list(zip(own, given, strict=True))
        return [*pairs, (w.head, self.model.head.weight), (w.head_bias, self.model.head.bias)]  # type: ignore[list-item]
