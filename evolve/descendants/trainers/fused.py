"""The CPU's trainer: a network's own passes, all its parameters in one flat tensor.

The tensor, the passes and the optimizer are what an architecture's ``learner`` makes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evolve.descendants.trainers.group import Group
from evolve.descendants.trainers.plain import TEST_BATCH
from evolve.networks.network import Network

KEPT_BYTES = 64 * 2**20
"""Normalised test images of a network are kept from epoch to epoch up to this size."""


class FusedTrainer:
    """A :class:`evolve.descendants.trainers.group.Trainer` for models on the CPU.

    They are float32 or float64. Each passes by itself, so company changes no bit.

    Args:
        models: the group's.
        group: their tasks, images and settings.
    """

    def __init__(self, models: Sequence[Network], group: Group) -> None:
        self.learners = [Learner(model, group, member) for member, model in enumerate(models)]

    def epoch(self, epoch: int) -> list[float]:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        return [learner.epoch(epoch) for learner in self.learners]

    def correct(self) -> list[Tensor]:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        return [learner.correct() for learner in self.learners]

    def close(self) -> None:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        for learner in self.learners:
            learner.flat.store()


class Learner:
    """One member of a group.

    Args:
        model: its network.
        group: the group.
        member: its place in the group.
    """

    def __init__(self, model: Network, group: Group, member: int) -> None:
        self.group, self.member, self.task = group, member, group.tasks[member]
        self.dtype = model.head.weight.dtype
        d, learner = group.d, model.architecture.learner(group.d.optimizer)
        assert learner is not None, "choose_trainer asks before"
        self.flat = learner(model, group.resident.size, d.optimizer, d.momentum, d.weight_decay)
        self._tests: list[Tensor] = []

    def epoch(self, epoch: int) -> float:
        """One pass over its training images; the mean loss.

        Args:
            epoch: the epoch's number, from 0.
        """
        group, draw = self.group, self.group.augmentation(self.member, epoch)
        total = torch.zeros((), dtype=torch.float64)
        batches = group.batches(self.member, epoch)
        shown = group.resident.batches(
            [self.task.train[places] for places in batches], group.d.augment, draw
        )
        for step, (places, images) in enumerate(zip(batches, shown, strict=True)):
            labels, rate = self.task.train_labels[places], group.rate(epoch, step)
            total += self.flat.step(images.to(self.dtype), labels, rate) * len(places)
        return float(total / group.images)

    def correct(self) -> Tensor:
        """Which test images it gets right now, bool [tests]."""
        parts = self.task.test.split(TEST_BATCH), self.task.test_labels.split(TEST_BATCH)
        return torch.cat(
            [
                self.flat.logits(self._test_images(number, places)).argmax(1) == labels
                for number, (places, labels) in enumerate(zip(*parts, strict=True))
            ]
        )

    def _test_images(self, number: int, places: Tensor) -> Tensor:
        if number < len(self._tests):
            return self._tests[number]
        images = self.group.resident.batch(places).to(self.dtype)
        if images.nbytes // len(places) * len(self.task.test) <= KEPT_BYTES:
            self._tests.append(images)
        return images
