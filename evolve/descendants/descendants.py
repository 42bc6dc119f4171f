"""Measure: a lineage's downstream tasks, and how a descendant learns its own (paper, 5.1, 5.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.settings import DescendSettings
from evolve.data.batches import batches
from evolve.data.resident import Resident
from evolve.descendants.trainers.distill import DistillTrainer, Teacher
from evolve.descendants.trainers.fused import FusedTrainer
from evolve.descendants.trainers.graph_check import checked
from evolve.descendants.trainers.group import DownstreamTask, Group, Trainer, learning_rate
from evolve.descendants.trainers.plain import TEST_BATCH, PlainTrainer, evaluate
from evolve.networks.network import Network

if TYPE_CHECKING:
    from evolve.networks.vgg import VGG

GPU_TEST_BATCH = 512  # a GPU waits for the calls, not for the images

__all__ = [
    "DownstreamTask",
    "Group",
    "Trained",
    "batches",
    "downstream_tasks",
    "evaluate",
    "learning_rate",
    "train_together",
]


@dataclass(frozen=True)
class Trained:
    """What a descendant's training gave. Accuracies are shares in [0, 1].

    Attributes:
        train_loss: one an epoch.
        test_accuracy: one for each of the epochs ``tested``.
        tested: epochs, counted from 1.
        newborn: the accuracy before any training, see :func:`newborn_accuracy`.
        last: the headline number.
        best: the highest.
        correct: 0 or 1 for each test image, after the last epoch.
    """

    train_loss: list[float]
    test_accuracy: list[float]
    tested: list[int]
    newborn: float
    last: float
    best: float
    correct: list[int]  # 0 or 1 for each test image, after the last epoch


def downstream_tasks(
    d: DescendSettings,
    class_ids: Sequence[int],
    resident: Resident,
    seed: int,
    role: str = "descend",
) -> list[DownstreamTask]:
    """The descendants' tasks, the same for every method and generation.

    Task i depends only on (seed, i); its classes do not depend on the shots, and fewer shots are a
    part of more.

    Args:
        d: the settings; there are ``d.descendants`` tasks.
        class_ids: ids of the classes to draw from.
        resident: their images.
        seed: seed of all draws.
        role: what the classes are to the lineage, for errors.

    Raises:
        UserError: there are too few classes or images; it names the setting and what they allow.
    """
    ids = sorted(set(class_ids))
    _check(d, ids, resident, role)
    return [_task(d, ids, resident, seed, number) for number in range(d.descendants)]


def _check(d: DescendSettings, ids: Sequence[int], resident: Resident, role: str) -> None:
    if d.classes_per_task > len(ids):
        raise UserError(
            f"descend.classes_per_task = {d.classes_per_task}: "
            f"there are {len(ids)} {role} classes; give at most {len(ids)}"
        )
    train = {c: len(resident.indices(c, test=False)) for c in ids}
    test = {c: len(resident.indices(c, test=True)) for c in ids}
    for key, value, counts in (
        ("shots", d.shots, train),
        ("test_per_class", max(1, d.test_per_class), test),
    ):
        least = min(ids, key=lambda c: counts[c])
        if value > counts[least]:
            kind = "training" if key == "shots" else "test"
            most = counts[least]
            raise UserError(
                f"descend.{key} = {value}: {role} class {resident.called(least)} "
                f"has {most} {kind} images; give at most {most}"
            )


def _task(
    d: DescendSettings, ids: Sequence[int], resident: Resident, seed: int, number: int
) -> DownstreamTask:
    order = torch.randperm(len(ids), generator=generator(seed, "downstream", number))
    classes = tuple(ids[place] for place in order[: d.classes_per_task].tolist())
    shots, tests = generator(seed, "shots", number), generator(seed, "test-images", number)
    train = [_draw(resident.indices(c, test=False), d.shots, shots) for c in classes]
    test = [_draw(resident.indices(c, test=True), d.test_per_class, tests) for c in classes]
    return DownstreamTask(classes, torch.cat(train), torch.cat(test), _labels(train), _labels(test))


def _draw(indices: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """``count`` of the indices, sorted; 0 means all.

    Always one permutation of all, so a larger count only adds images.
    """
    chosen = torch.randperm(len(indices), generator=draw)
    return indices[chosen[: count or len(indices)]].sort().values


def _labels(parts: Sequence[Tensor]) -> Tensor:
    return torch.repeat_interleave(
        torch.arange(len(parts)), torch.tensor([len(part) for part in parts])
    )


def train_together(
    models: Sequence[Network],
    group: Group,
    progress: Callable[[float, str], None],
    reference: bool = False,
    teacher: Teacher | None = None,
    newborns: bool = True,
) -> list[Trained]:
    """Train all parameters of the models, in place, each on its own task (paper, 5.3).

    SGD or AdamW on the cross-entropy; all test images are looked at after every ``test_every``
    epochs and the last. The models learn in step, but none sees another: batch order and
    augmentation come from (seed, purpose, number, epoch), so every method sees the same batches. A
    last batch of a single image joins the batch before it: BN cannot train on one. The cosine
    schedule falls step by step from ``d.lr`` to zero after the last step.

    Args:
        models: on the Resident's device; they may differ in architecture.
        group: their tasks, images and settings. Numbers may repeat: several generations, one after
            the other.
        progress: told the fraction done, in [0, 1], and what is being done.
        reference: take the plain path whatever is faster here.
        teacher: adds its hints at the layers that the architectures would inherit.
        newborns: look at the models before training, too.

    Raises:
        UserError: a feature and its hint differ in shape.
    """
    d = group.d
    newborn = [
        newborn_accuracy(model, task, group.resident, not reference) if newborns else math.nan
        for model, task in zip(models, group.tasks, strict=True)
    ]
    trainer = (
        DistillTrainer(models, group, teacher)
        if teacher
        else choose_trainer(models, group, reference)
    )
    losses: list[list[float]] = [[] for _ in models]
    accuracies: list[list[float]] = [[] for _ in models]
    correct: list[Tensor] = []
    tested = epochs_tested(d)
    for epoch in range(1, d.epochs + 1):
        for kept, loss in zip(losses, trainer.epoch(epoch - 1), strict=True):
            kept.append(loss)
        if epoch in tested:
            correct = trainer.correct()
            for shares, right in zip(accuracies, correct, strict=True):
                shares.append(right.double().mean().item())
        progress(epoch / d.epochs, f"epoch {epoch} of {d.epochs}")
    trainer.close()
    return [
        Trained(loss, shares, tested, born, shares[-1], max(shares), right.int().tolist())
        for loss, shares, born, right in zip(losses, accuracies, newborn, correct, strict=True)
    ]


def epochs_tested(d: DescendSettings) -> list[int]:
    """The epochs, counted from 1, after which all test images are looked at.

    Args:
        d: the settings: every ``test_every``-th and the last.
    """
    return (
        sorted({*range(d.test_every, d.epochs + 1, d.test_every), d.epochs})
        if d.test_every
        else [d.epochs]
    )


@torch.no_grad()
def newborn_accuracy(
    model: Network, task: DownstreamTask, resident: Resident, fused: bool = True
) -> float:
    """What a descendant can tell apart before it learns anything.

    It is the test images' share whose features lie nearest to their class's mean. Features are the
    head's input in eval mode, distances Euclidean, a class's mean is over its training images
    (nearest class mean; Mensink et al. 2013). It needs no head, so it says what was inherited and
    not how the head was drawn.

    Args:
        model: the descendant; its mode is left as it was.
        task: its task.
        resident: the images, on the model's device.
        fused: take the network's fast passes.

    Returns:
        A share in [0, 1].
    """
    before, size = (
        (model.training, model.fused),
        TEST_BATCH if resident.device.type == "cpu" else GPU_TEST_BATCH,
    )
    model.eval()
    model.fused = fused

    def embedded(index: Tensor) -> Tensor:
        parts = [
            model.embed(resident.batch(part).to(model.head.weight.dtype))
            for part in index.split(size)
        ]
        return torch.cat(parts).double().cpu()

    features, labels = embedded(task.train), task.train_labels
    means = torch.stack([features[labels == label].mean(0) for label in range(len(task.classes))])
    nearest = torch.cdist(embedded(task.test), means).argmin(1)
    model.train(before[0])
    model.fused = before[1]
    return (nearest == task.test_labels).double().mean().item()


def choose_trainer(models: Sequence[Network], group: Group, reference: bool) -> Trainer:
    """The fastest trainer for these models on this device.

    Args:
        models: all of the group.
        group: a learning rate of their own for the inherited layers only the plain one knows.
        reference: take the plain one.
    """
    plans, resident = [model.architecture for model in models], group.resident
    learners = all(plan.learner(group.d.optimizer) for plan in plans)
    if reference or not learners or group.lr_scale != 1:
        return PlainTrainer(models, group)
    if resident.device.type == "cpu":
        return FusedTrainer(models, group)
    # A captured graph could not wait for batches that travel, and holds VGGs only.
    if resident.held and all(plan.passes for plan in plans):
        return checked(cast("Sequence[VGG]", models), group)
    return PlainTrainer(models, group)
