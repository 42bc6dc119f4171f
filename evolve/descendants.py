"""Measure: the downstream tasks of a lineage, and how a descendant learns its own (paper 5.3; SPEC 1, 7, 8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.data.resident import Resident
from evolve.errors import UserError
from evolve.networks.vgg import VGG
from evolve.randomness import generator
from evolve.settings import DescendSettings

TEST_BATCH = 64  # measured: larger batches fall out of the CPU cache


@dataclass(frozen=True)
class DownstreamTask:
    """One descendant's classes and images. Indices (int64, CPU) point into a Resident; labels are 0..n-1, places in ``classes``."""

    classes: tuple[int, ...]
    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Trained:
    """What a descendant's training gave. Accuracies are shares in [0, 1], one an epoch; ``last`` is the headline number."""

    train_loss: list[float]
    test_accuracy: list[float]
    last: float
    best: float
    correct: list[int]  # 0 or 1 for each test image, after the last epoch


def downstream_tasks(d: DescendSettings, class_ids: Sequence[int], resident: Resident, seed: int) -> list[DownstreamTask]:
    """The tasks of ``d.descendants`` descendants, the same for every method and generation.

    Task i depends only on (seed, i); its classes do not depend on the shots, and fewer shots are a part of more.
    Raises UserError naming the setting and the most that the images allow.
    """
    ids = sorted(set(class_ids))
    _check(d, ids, resident)
    return [_task(d, ids, resident, seed, number) for number in range(d.descendants)]


def _check(d: DescendSettings, ids: Sequence[int], resident: Resident) -> None:
    if d.classes_per_task > len(ids):
        raise UserError(f"descend.classes_per_task = {d.classes_per_task}: there are {len(ids)} descend classes; give at most {len(ids)}")
    train = {c: len(resident.indices(c, test=False)) for c in ids}
    test = {c: len(resident.indices(c, test=True)) for c in ids}
    for key, value, counts in (("shots", d.shots, train), ("test_per_class", max(1, d.test_per_class), test)):
        least = min(ids, key=lambda c: counts[c])
        if value > counts[least]:
            kind = "training" if key == "shots" else "test"
            most = counts[least]
            raise UserError(f"descend.{key} = {value}: descend class {least} has {most} {kind} images; give at most {most}")


def _task(d: DescendSettings, ids: Sequence[int], resident: Resident, seed: int, number: int) -> DownstreamTask:
    order = torch.randperm(len(ids), generator=generator(seed, "downstream", number))
    classes = tuple(ids[place] for place in order[: d.classes_per_task].tolist())
    shots, tests = generator(seed, "shots", number), generator(seed, "test-images", number)
    train = [_draw(resident.indices(c, test=False), d.shots, shots) for c in classes]
    test = [_draw(resident.indices(c, test=True), d.test_per_class, tests) for c in classes]
    return DownstreamTask(classes, torch.cat(train), torch.cat(test), _labels(train), _labels(test))


def _draw(indices: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """``count`` of the indices, sorted; 0 means all. Always one permutation of all, so a larger count only adds images."""
    chosen = torch.randperm(len(indices), generator=draw)
    return indices[chosen[: count or len(indices)]].sort().values


def _labels(parts: Sequence[Tensor]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))


def train_descendant(
    model: VGG,
    task: DownstreamTask,
    resident: Resident,
    d: DescendSettings,
    seed: int,
    descendant: int,
    progress: Callable[[float, str], None],
) -> Trained:
    """Train all of ``model``'s parameters, in place, on ``task``: SGD with momentum, cross-entropy, all test images after each epoch.

    The batch order comes from (seed, "batches", descendant, epoch), the augmentation from (seed, "augment", descendant, epoch),
    so every method sees the same batches. A last batch of a single image joins the batch before it: BN cannot train on one.
    The cosine schedule falls step by step from ``d.lr`` to zero after the last step. ``model`` must be on the Resident's device.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=d.lr, momentum=d.momentum, weight_decay=d.weight_decay, foreach=True)
    labels = task.train_labels.to(resident.device)
    losses, accuracies = [], []
    correct = torch.zeros(0, dtype=torch.bool)
    for epoch in range(d.epochs):
        losses.append(_epoch(model, optimizer, task.train, labels, resident, d, seed, descendant, epoch))
        correct = evaluate(model, task.test, task.test_labels, resident)
        accuracies.append(correct.double().mean().item())
        progress((epoch + 1) / d.epochs, f"epoch {epoch + 1} of {d.epochs}")
    return Trained(losses, accuracies, accuracies[-1], max(accuracies), correct.int().tolist())


def _epoch(
    model: VGG,
    optimizer: torch.optim.SGD,
    index: Tensor,
    labels: Tensor,
    resident: Resident,
    d: DescendSettings,
    seed: int,
    descendant: int,
    epoch: int,
) -> float:
    """One pass over the training images; returns the mean training loss over images."""
    model.train()
    augment = generator(seed, "augment", descendant, epoch)
    order = torch.randperm(len(index), generator=generator(seed, "batches", descendant, epoch))
    steps = batches(order, d.batch)
    total = torch.zeros((), dtype=torch.float64, device=resident.device)
    for step, batch in enumerate(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(d, (epoch * len(steps) + step) / (d.epochs * len(steps)))
        optimizer.zero_grad(set_to_none=True)
        images = resident.batch(index[batch], d.augment, augment).to(model.head.weight.dtype)
        loss = F.cross_entropy(model(images), labels[batch.to(labels.device)])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch)
    return (total / len(index)).item()


def learning_rate(d: DescendSettings, done: float) -> float:
    """The rate once a share ``done`` in [0, 1] of all steps is made."""
    return d.lr * (1 + math.cos(math.pi * done)) / 2 if d.schedule == "cosine" else d.lr


def batches(order: Tensor, size: int) -> list[Tensor]:
    """``order`` [n] in parts of ``size``; a last part of one joins the part before it."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


@torch.no_grad()
def evaluate(model: VGG, index: Tensor, labels: Tensor, resident: Resident) -> Tensor:
    """Which of the images ``index`` [n] the model gets right, bool [n] on the CPU. Eval mode, no augmentation."""
    model.eval()

    def right() -> Iterator[Tensor]:
        for part, truth in zip(index.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
            images = resident.batch(part).to(model.head.weight.dtype)
            yield model(images).argmax(1).cpu() == truth

    return torch.cat(list(right()))
