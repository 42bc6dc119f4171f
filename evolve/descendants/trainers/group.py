"""What trainers share: the descendants of a group with their tasks, and every draw their training makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    """One descendant's classes and images. Indices (int64, CPU) point into a Resident; labels are 0..n-1, places in ``classes``."""

    classes: tuple[int, ...]
    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor


def padded_tests(tasks: Sequence[DownstreamTask], multiple: int) -> tuple[Tensor, Tensor]:
    """Indices and labels of all tasks' test images, int64 [tasks, images] on the CPU, so many images as the largest task has, rounded up to a
    ``multiple``: the rest is index 0, label -1.
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
    """Descendants that learn side by side, in step: all tasks have equally many training images. ``numbers`` are their places in the generation.

    ``lr_scale`` multiplies the learning rate of the layers that they inherited.
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
        """Member's batches of one epoch, int64 places in its ``task.train``; the order depends on (seed, number, epoch) alone."""
        draw = generator(self.seed, "batches", self.numbers[member], epoch)
        return batches(torch.randperm(self.images, generator=draw), self.d.batch)

    def augmentation(self, member: int, epoch: int) -> torch.Generator:
        """What draws the member's crops and flips of one epoch, batch after batch."""
        return generator(self.seed, "augment", self.numbers[member], epoch)

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of one step."""
        return learning_rate(self.d, (epoch * self.steps + step) / (self.d.epochs * self.steps))

    def members(self) -> Iterator[int]:
        """0..size-1."""
        return iter(range(self.size))


class Trainer(Protocol):
    """Trains the models of one :class:`Group` in place. Raises nothing of its own; a diverged model has a loss that is not finite."""

    def epoch(self, epoch: int) -> list[float]:
        """One pass over every member's training images; each one's mean training loss."""
        ...

    def correct(self) -> list[Tensor]:
        """For each member which of its test images it gets right now, bool [tests] on the CPU: eval mode, no augmentation."""
        ...

    def close(self) -> None:
        """Leave the final weights in the models that were given."""
        ...


def learning_rate(d: DescendSettings, done: float) -> float:
    """The rate once a share ``done`` in [0, 1] of all steps is made; it rises from zero over the share ``d.warmup``."""
    warm = min(1.0, done / d.warmup) if d.warmup else 1.0
    return (
        d.lr * warm * (1 + math.cos(math.pi * done)) / 2 if d.schedule == "cosine" else d.lr * warm
    )
