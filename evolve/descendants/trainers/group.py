"""What trainers share: the descendants of a group with their tasks, and their training's draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evolve.core.randomness import generator
from evolve.core.settings import DescendSettings
from evolve.data.batches import batch_count, batches
from evolve.data.resident import Resident


@dataclass(frozen=True)
class DownstreamTask:
    """One descendant's classes and images.

    Indices (int64, CPU) point into a Resident; labels are 0..n-1, places in ``classes``.
    """

    classes: tuple[int, ...]
    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor


def padded_tests(tasks: Sequence[DownstreamTask], multiple: int) -> tuple[Tensor, Tensor]:
    """Indices and labels of all tasks' test images.

    Args:
        tasks: the tasks.
        multiple: there are as many columns as the largest task has images, rounded up to a multiple
            of this.

    Returns:
        int64 [tasks, columns] each, on the CPU, filled up with index 0, label -1.
    """
    most = max(len(task.test) for task in tasks)
    index = torch.zeros(len(tasks), -(-most // multiple) * multiple, dtype=torch.int64)
    labels = torch.full_like(index, -1)
    for member, task in enumerate(tasks):
        index[member, : len(task.test)], labels[member, : len(task.test)] = (
            task.test,
            task.test_labels,
        )
    return index, labels


@dataclass(frozen=True)
class Group:
    """Descendants that learn side by side, in step.

    Attributes:
        tasks: a task each; all have equally many training images.
        numbers: their places in the generation.
        resident: the images.
        d: how they learn.
        seed: seed of all draws.
        lr_scale: multiplies the learning rate of the layers that they inherited; 0 freezes them.
    """

    tasks: Sequence[DownstreamTask]
    numbers: Sequence[int]
    resident: Resident
    d: DescendSettings
    seed: int
    lr_scale: float = 1.0

    @property
    def size(self) -> int:
        """How many descendants."""
        return len(self.tasks)

    @property
    def images(self) -> int:
        """Training images of each."""
        return len(self.tasks[0].train)

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return batch_count(self.images, self.d.batch)

    def batches(self, member: int, epoch: int) -> list[Tensor]:
        """A member's batches of one epoch; the order depends on (seed, number, epoch) alone.

        Args:
            member: its place in the group.
            epoch: the epoch's number, from 0.

        Returns:
            int64 places in the member's ``task.train``.
        """
        draw = generator(self.seed, "batches", self.numbers[member], epoch)
        return batches(torch.randperm(self.images, generator=draw), self.d.batch)

    def augmentation(self, member: int, epoch: int) -> torch.Generator:
        """What draws a member's crops and flips of one epoch, batch after batch.

        Args:
            member: its place in the group.
            epoch: the epoch's number, from 0.
        """
        return generator(self.seed, "augment", self.numbers[member], epoch)

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of one step.

        Args:
            epoch: the epoch's number, from 0.
            step: the step's in it.
        """
        return learning_rate(self.d, (epoch * self.steps + step) / (self.d.epochs * self.steps))


class Trainer(Protocol):
    """Trains the models of one :class:`Group` in place.

    It raises nothing of its own; a diverged model has a loss that is not finite.
    """

    def epoch(self, epoch: int) -> list[float]:
        """Pass over every member's training images once.

        Args:
            epoch: the epoch's number, from 0.

        Returns:
            Each one's mean training loss.
        """

    def correct(self) -> list[Tensor]:
        """For each member which of its test images it gets right now.

        Returns:
            bool [tests] on the CPU each: eval mode, no augmentation.
        """

    def close(self) -> None:
        """Leave the final weights in the models that were given."""


def learning_rate(d: DescendSettings, done: float) -> float:
    """The learning rate; it rises from zero over the share ``d.warmup`` of all steps.

    Args:
        d: the settings.
        done: the share of all steps that is made, in [0, 1].
    """
    warm = min(1.0, done / d.warmup) if d.warmup else 1.0
    return (
        d.lr * warm * (1 + math.cos(math.pi * done)) / 2 if d.schedule == "cosine" else d.lr * warm
    )
