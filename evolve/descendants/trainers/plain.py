"""The reference: autograd and torch's optimizers, one descendant after the other.

It works on every device and dtype, with any learning rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.data.resident import Resident
from evolve.descendants.trainers.group import Group
from evolve.networks.network import Network
from evolve.networks.optimizers import make_optimizer

TEST_BATCH = 64  # measured: larger batches fall out of the CPU cache


class PlainTrainer:
    """A :class:`evolve.descendants.trainers.group.Trainer`.

    Args:
        models: the group's, on the Resident's device.
        group: their tasks, images and settings.
    """

    def __init__(self, models: Sequence[Network], group: Group) -> None:
        d = group.d
        self.models, self.group = models, group
        self.optimizers = [
            make_optimizer(
                rated(model, group.lr_scale),
                d.optimizer,
                d.lr,
                d.momentum,
                d.weight_decay,
                foreach=True,
            )
            for model in models
        ]

    def epoch(self, epoch: int) -> list[float]:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        return [self._epoch(member, epoch) for member in range(self.group.size)]

    def _epoch(self, member: int, epoch: int) -> float:
        group, model, optimizer = self.group, self.models[member], self.optimizers[member]
        task, resident = group.tasks[member], group.resident
        model.train()
        augment = group.augmentation(member, epoch)
        labels = task.train_labels.to(resident.device)
        total = torch.zeros((), dtype=torch.float64, device=resident.device)
        for step, batch in enumerate(group.batches(member, epoch)):
            for part in optimizer.param_groups:
                part["lr"] = group.rate(epoch, step) * part["scale"]
            optimizer.zero_grad(set_to_none=True)
            images = resident.batch(task.train[batch], group.d.augment, augment).to(
                model.head.weight.dtype
            )
            loss = self.loss(member, images, labels[batch.to(labels.device)])
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        return (total / group.images).item()

    def loss(self, member: int, images: Tensor, labels: Tensor) -> Tensor:
        """What the member descends in training mode: the cross-entropy.

        Args:
            member: its place in the group.
            images: [B, 3, S, S].
            labels: [B].
        """
        return F.cross_entropy(self.models[member](images), labels)

    def correct(self) -> list[Tensor]:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        pairs = zip(self.models, self.group.tasks, strict=True)
        return [
            evaluate(model, task.test, task.test_labels, self.group.resident)
            for model, task in pairs
        ]

    def close(self) -> None:
        """See :class:`evolve.descendants.trainers.group.Trainer`."""
        pass


def rated(model: Network, lr_scale: float) -> list[dict[str, Any]]:
    """The model's parameters for an optimizer: the fresh ones, and the inherited layers'.

    Weight decay acts through the learning rate (torch's SGD and AdamW), so at 0 an inherited
    parameter keeps its bits. BN's running statistics are no parameters: they move all the same.

    Args:
        model: the descendant.
        lr_scale: the inherited layers' factor of the learning rate.

    Returns:
        Two groups with their factors as "scale".
    """
    inherited = {
        id(p) for name in model.architecture.inherits() for p in model.layers[name].parameters()
    }
    parts: dict[bool, list[Tensor]] = {False: [], True: []}
    for parameter in model.parameters():
        parts[id(parameter) in inherited].append(parameter)
    return [{"params": parts[False], "scale": 1.0}, {"params": parts[True], "scale": lr_scale}]


@torch.no_grad()
def evaluate(model: Network, index: Tensor, labels: Tensor, resident: Resident) -> Tensor:
    """Which images a model gets right, in eval mode and without augmentation.

    Args:
        model: the network.
        index: the images' indices [n].
        labels: [n].
        resident: the images.

    Returns:
        bool [n] on the CPU.
    """
    model.eval()

    def right() -> Iterator[Tensor]:
        for part, truth in zip(index.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
            images = resident.batch(part).to(model.head.weight.dtype)
            yield model(images).argmax(1).cpu() == truth

    return torch.cat(list(right()))
