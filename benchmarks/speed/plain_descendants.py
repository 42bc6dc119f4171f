"""Baseline of the descendants: the training loop that anyone writes, one after the other."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evolve.core.settings import DescendSettings
from evolve.data.resident import Resident
from evolve.descendants.descendants import downstream_tasks, epochs_tested, learning_rate
from evolve.learngene.inheritance import inherit
from evolve.networks.architecture import Architecture
from evolve.networks.network import Network
from evolve.networks.optimizers import make_optimizer

from .cases import DESCEND_CLASSES, Case
from .plain_images import PilImages, fastest, loader, pil_images, transform_of
from .work import barrier


def plain_model(plan: Architecture, classes: int, descendant: int) -> Network:
    """A descendant from scratch in torch's default memory format."""
    return inherit(plan, None, classes, 0, descendant).to(memory_format=torch.contiguous_format)


def train(
    model: nn.Module,
    batches: Any,
    tests: Any,
    d: DescendSettings,
    epochs: int,
    device: torch.device,
) -> tuple[list[float], float]:
    """Train, and test after the epochs that the settings say.

    Args:
        model: the network, trained in place.
        batches: a sized iterable of (images [B, 3, H, W], labels [B]).
        tests: the same of the test images.
        d: the settings.
        epochs: how many.
        device: where the network lies.

    Returns:
        Each epoch's mean loss, and the last test accuracy in [0, 1].
    """
    steps = epochs * len(batches)
    optimizer = make_optimizer(model.parameters(), d.optimizer, d.lr, d.momentum, d.weight_decay)
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    if d.warmup:
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(d, step / steps) / d.lr
        )
    elif d.schedule == "cosine":
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    losses: list[Tensor] = []
    right = 0.0
    tested = epochs_tested(replace(d, epochs=epochs))
    for epoch in range(1, epochs + 1):
        losses.append(_epoch(model, batches, optimizer, schedule, device))
        if epoch in tested:
            right = accuracy(model, tests, device)
    return [float(loss) for loss in losses], right


def _epoch(
    model: nn.Module,
    batches: Any,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    device: torch.device,
) -> Tensor:
    """Train on every batch once; the mean loss, a scalar on the device."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    total, seen = torch.zeros((), device=device), 0
    for images, labels in batches:
        images, labels = (
            images.to(device, non_blocking=True),
            labels.to(device, non_blocking=True),
        )
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        total += loss.detach() * len(labels)
        seen += len(labels)
    return total / seen


@torch.no_grad()
def accuracy(model: nn.Module, tests: Any, device: torch.device) -> float:
    """Share of the test images that the model gets right."""
    model.eval()
    right, seen = torch.zeros((), device=device), 0
    for images, labels in tests:
        right += (model(images.to(device)).argmax(1) == labels.to(device)).sum()
        seen += len(labels)
    return float(right) / seen


class PlainDescendants:
    """The baseline side.

    An amount is the epochs of one descendant: the next one would take as long.
    """

    def __init__(
        self, case: Case, resident: Resident, candidates: tuple[int, ...], seconds: float
    ) -> None:
        self.d, self.device, self.sync = (
            case.settings.descend,
            resident.device,
            barrier(resident.device),
        )
        task = downstream_tasks(self.d, DESCEND_CLASSES, resident, 0)[0]
        images = PilImages(
            pil_images(resident, task.train),
            task.train_labels.tolist(),
            transform_of(resident, self.d.augment),
        )
        unseen = PilImages(
            pil_images(resident, task.test), task.test_labels.tolist(), transform_of(resident, ())
        )
        self.images, self.tests = len(images), DataLoader(unseen, batch_size=64)
        self.model = plain_model(case.plan, self.d.classes_per_task, 0).to(self.device)
        self.start = deepcopy(self.model.state_dict())
        loaders = {
            workers: loader(images, self.d.batch, workers, self.device) for workers in candidates
        }
        self.loader = loaders[candidates[0]]
        workers, tried = fastest(
            candidates, lambda workers: self._epochs(loaders[workers], 1), seconds
        )
        self.loader = loaders[workers]
        self.info: dict[str, Any] = {"num_workers": workers, "seconds_an_epoch": tried}

    def prepare(self) -> None:
        """The weights of the beginning."""
        self.model.load_state_dict(self.start)

    def run(self, amount: int) -> int:
        """``amount`` epochs; the images trained on."""
        self._epochs(self.loader, amount)
        return amount * self.images

    def _epochs(self, batches: Any, epochs: int) -> None:
        train(self.model, batches, self.tests, self.d, epochs, self.device)
        self.sync()
