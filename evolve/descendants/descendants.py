"""Measure: the downstream tasks of a lineage, and how a descendant learns its own (paper, 5.1 and 5.3)."""

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
    "Trained",
    "batches",
    "downstream_tasks",
    "evaluate",
    "learning_rate",
    "train_together",
]


@dataclass(frozen=True)
class Trained:
    """What a descendant's training gave. Accuracies are shares in [0, 1]; ``last`` is the headline number.

    ``train_loss``: one an epoch. ``test_accuracy``: one for each of the epochs ``tested``, counted from 1. ``newborn``: the accuracy
    before any training, see :func:`newborn_accuracy`.
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
    """The tasks of ``d.descendants`` descendants, the same for every method and generation.

    Task i depends only on (seed, i); its classes do not depend on the shots, and fewer shots are a part of more.
    ``role`` is what the classes are to the lineage, for errors. Raises UserError naming the setting
    and the most that the images allow.
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
    """``count`` of the indices, sorted; 0 means all. Always one permutation of all, so a larger count only adds images."""
    chosen = torch.randperm(len(indices), generator=draw)
    return indices[chosen[: count or len(indices)]].sort().values


def _labels(parts: Sequence[Tensor]) -> Tensor:
    return torch.repeat_interleave(
        torch.arange(len(parts)), torch.tensor([len(part) for part in parts])
    )


def train_together(
    models: Sequence[Network],
    tasks: Sequence[DownstreamTask],
    resident: Resident,
    d: DescendSettings,
    seed: int,
    numbers: Sequence[int],
    progress: Callable[[float, str], None],
    reference: bool = False,
    lr_scale: float = 1.0,
    teacher: Teacher | None = None,
    newborns: bool = True,
) -> list[Trained]:
    """Train all parameters of ``models``, in place, each on its own task: SGD with momentum, cross-entropy, all test images after every
    ``d.test_every`` epochs and the last.

    They learn in step, but none sees another: each one's batch order comes from (seed, "batches", its number, epoch), its augmentation
    from (seed, "augment", its number, epoch), so every method sees the same batches. A last batch of a single image joins the batch
    before it: BN cannot train on one. The cosine schedule falls step by step from ``d.lr`` to zero after the last step. The models must
    be on the Resident's device; they may differ in architecture, and numbers may repeat (several generations, one after the other).
    ``reference`` takes the plain path whatever is faster here. ``lr_scale`` multiplies the learning rate of inherited layers, 0 freezes them;
    a ``teacher`` adds its hints at the layers that the architectures would inherit. Without ``newborns`` nobody is looked at before training.
    """
    group = Group(tasks, numbers, resident, d, seed, lr_scale)
    pairs = zip(models, tasks, strict=True)
    newborn = [
        newborn_accuracy(model, task, resident, not reference) if newborns else math.nan
        for model, task in pairs
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
    """The epochs, counted from 1, after which all test images are looked at: every ``test_every``-th and the last."""
    return (
        sorted({*range(d.test_every, d.epochs + 1, d.test_every), d.epochs})
        if d.test_every
        else [d.epochs]
    )


@torch.no_grad()
def newborn_accuracy(
    model: Network, task: DownstreamTask, resident: Resident, fused: bool = True
) -> float:
    """What a descendant can tell apart before it learns anything: the test images' share whose features lie nearest to their class's mean.

    Features are the head's input in eval mode, distances Euclidean, a class's mean is over its training images (nearest class mean;
    Mensink et al. 2013). It needs no head, so it says what was inherited and not how the head was drawn.
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
    """The fastest trainer for these models on this device; the plain one where ``reference`` asks for it, AdamW, or a learning rate of their own
    for the inherited layers, which the others do not know.
    """
    resident, fast = group.resident, all(model.architecture.passes for model in models)
    if reference or not fast or group.lr_scale != 1 or group.d.optimizer != "sgd":
        return PlainTrainer(models, group)
    if resident.device.type == "cpu":
        return FusedTrainer(models, group)
    if resident.held:
        return checked(cast("Sequence[VGG]", models), group)  # only VGGs have fast passes
    return PlainTrainer(models, group)  # a captured graph could not wait for batches that travel
