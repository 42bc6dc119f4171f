"""The reference: autograd and torch.optim.SGD, one descendant after the other. Works on every device and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.data.resident import Resident
from evolve.networks.network import Network
from evolve.training.group import Group

TEST_BATCH = 64  # measured: larger batches fall out of the CPU cache


class PlainTrainer:
    """A :class:`evolve.training.group.Trainer`. The models must be on the Resident's device."""

    def __init__(self, models: Sequence[Network], group: Group) -> None:
        d = group.d
        self.models, self.group = models, group
        self.optimizers = [
            torch.optim.SGD(model.parameters(), lr=d.lr, momentum=d.momentum, weight_decay=d.weight_decay, foreach=True) for model in models
        ]

    def epoch(self, epoch: int) -> list[float]:
        return [self._epoch(member, epoch) for member in self.group.members()]

    def _epoch(self, member: int, epoch: int) -> float:
        group, model, optimizer = self.group, self.models[member], self.optimizers[member]
        task, resident = group.tasks[member], group.resident
        model.train()
        augment = group.augmentation(member, epoch)
        labels = task.train_labels.to(resident.device)
        total = torch.zeros((), dtype=torch.float64, device=resident.device)
        for step, batch in enumerate(group.batches(member, epoch)):
            optimizer.param_groups[0]["lr"] = group.rate(epoch, step)
            optimizer.zero_grad(set_to_none=True)
            images = resident.batch(task.train[batch], group.d.augment, augment).to(model.head.weight.dtype)
            loss = F.cross_entropy(model(images), labels[batch.to(labels.device)])
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(batch)
        return (total / group.images).item()

    def correct(self) -> list[Tensor]:
        pairs = zip(self.models, self.group.tasks, strict=True)
        return [evaluate(model, task.test, task.test_labels, self.group.resident) for model, task in pairs]

    def close(self) -> None:
        pass


@torch.no_grad()
def evaluate(model: Network, index: Tensor, labels: Tensor, resident: Resident) -> Tensor:
    """Which of the images ``index`` [n] the model gets right, bool [n] on the CPU. Eval mode, no augmentation."""
    model.eval()

    def right() -> Iterator[Tensor]:
        for part, truth in zip(index.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
            images = resident.batch(part).to(model.head.weight.dtype)
            yield model(images).argmax(1).cpu() == truth

    return torch.cat(list(right()))
