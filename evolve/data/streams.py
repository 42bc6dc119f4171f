"""The ancestor's stream of tasks (paper 5.3).

Tasks are drawn independently of each other, so classes recur and some never appear.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evolve.core.errors import UserError
from evolve.core.randomness import generator
from evolve.core.settings import StreamSettings
from evolve.data.resident import Resident


@dataclass(frozen=True, eq=False)
class StreamTask:
    """One task of the stream.

    ``classes`` stand in the order drawn; ``train`` and ``test`` index the images.
    """

    number: int  # 1-based
    classes: tuple[int, ...]
    train: Tensor  # int64 [N]
    test: Tensor  # int64 [M]


def stream_tasks(
    s: StreamSettings, class_ids: Sequence[int], resident: Resident, seed: int, count: int
) -> list[StreamTask]:
    """Draw the tasks 1 to ``count``.

    Task t depends on ``seed`` and t alone, not on ``count``; a class's images depend on ``seed``
    and the class.

    Args:
        s: the scenario's [stream].
        class_ids: the ancestor's classes.
        resident: the images.
        seed: the lineage's.
        count: how many tasks.

    Raises:
        UserError: the ancestor has fewer classes, or a class fewer images, than ``s`` asks for.
    """
    pool = sorted(class_ids)
    if s.classes_per_task > len(pool):
        raise UserError(
            f"stream.classes_per_task = {s.classes_per_task}: the ancestor has {len(pool)} "
            f"classes; ask for 2 to {len(pool)}"
        )
    drawn: dict[int, tuple[Tensor, Tensor]] = {}
    tasks = []
    for number in range(1, count + 1):
        order = torch.randperm(len(pool), generator=generator(seed, "stream", number))
        classes = tuple(pool[place] for place in order[: s.classes_per_task].tolist())
        for class_id in classes:
            if class_id not in drawn:
                drawn[class_id] = class_images(class_id, s.images_per_class, resident, seed)
        train, test = (
            torch.cat([drawn[class_id][part] for class_id in classes]) for part in (0, 1)
        )
        tasks.append(StreamTask(number, classes, train, test))
    return tasks


def class_images(class_id: int, count: int, resident: Resident, seed: int) -> tuple[Tensor, Tensor]:
    """Draw a class's training images from ``seed`` and the class, and list its test images.

    Args:
        class_id: the class.
        count: how many training images; 0: all.
        resident: the images.
        seed: the lineage's.

    Returns:
        int64 indices of the training images, and of the test images.

    Raises:
        UserError: there are fewer, or none of either.
    """
    train, test = resident.indices(class_id, test=False), resident.indices(class_id, test=True)
    if count > len(train):
        name = f"stream.images_per_class = {count}"
        raise UserError(
            f"{name}: class {resident.called(class_id)} has {len(train)} training images; ask for "
            f"1 to {len(train)}, or 0 for all"
        )
    if not len(train) or not len(test):
        raise UserError(
            f"data: class {resident.called(class_id)} has {len(train)} training and {len(test)} "
            "test images; the stream needs both"
        )
    if count:
        order = torch.randperm(len(train), generator=generator(seed, "stream-images", class_id))
        train = train[order[:count].sort().values]
    return train, test


def class_labels(task: StreamTask, head: str, class_ids: Sequence[int]) -> dict[int, int]:
    """The labels of a task's classes.

    Args:
        task: the task.
        head: "shared" or "per-task": labels 0 to n-1 in the task's own order; "single": the class's
            place among all the ancestor's.
        class_ids: the ancestor's classes.

    Returns:
        Class id -> label.
    """
    order = sorted(class_ids) if head == "single" else task.classes
    place = {class_id: label for label, class_id in enumerate(order)}
    return {class_id: place[class_id] for class_id in task.classes}


def task_label(task: StreamTask, head: str) -> int:
    """Avalanche's task label, which chooses the head: 0 unless every task has its own.

    Args:
        task: one of the stream.
        head: the head in use.
    """
    return task.number - 1 if head == "per-task" else 0


def labels_of(index: Tensor, labels: dict[int, int], resident: Resident) -> Tensor:
    """The labels of images.

    Args:
        index: int64 [N], the images.
        labels: class id -> label.
        resident: the images' classes.

    Returns:
        int64 [N] on the CPU.
    """
    return torch.tensor(
        [labels[class_id] for class_id in resident.labels.cpu()[index].tolist()], dtype=torch.int64
    )


class _Images(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Single images without augmentation, for what in Avalanche wants a torch data set."""

    def __init__(self, resident: Resident, index: Tensor, targets: list[int]) -> None:
        self.resident, self.index, self.targets = resident, index, targets

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.resident.batch(self.index[place : place + 1])[0], self.targets[place]


def make_dataset(resident: Resident, index: Tensor, labels: Tensor, task_labels: Tensor) -> Any:
    """An Avalanche classification data set that also knows its images' ``resident_index``.

    It keeps it through subsets and concatenations.

    Args:
        resident: the images.
        index: int64 [N], which of them.
        labels: int64 [N].
        task_labels: int64 [N].
    """
    load_avalanche()
    from avalanche.benchmarks.utils import DataAttribute
    from avalanche.benchmarks.utils.classification_dataset import (
        TaskAwareSupervisedClassificationDataset,
    )

    targets = labels.tolist()
    attributes = [
        DataAttribute(targets, "targets"),
        DataAttribute(task_labels.tolist(), "targets_task_labels", use_in_getitem=True),
        DataAttribute(index.tolist(), "resident_index"),
    ]
    return TaskAwareSupervisedClassificationDataset(
        [_Images(resident, index, targets)], data_attributes=attributes
    )


def make_benchmark(
    tasks: Sequence[StreamTask], resident: Resident, head: str, class_ids: Sequence[int]
) -> Any:
    """An Avalanche benchmark with one training and one test experience a task.

    Args:
        tasks: the stream.
        resident: the images.
        head: how they are labelled, see :func:`class_labels`.
        class_ids: the ancestor's classes.
    """
    load_avalanche()
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.scenarios.task_aware import with_task_labels

    def experience(task: StreamTask, index: Tensor) -> Any:
        labels = labels_of(index, class_labels(task, head, class_ids), resident)
        task_labels = torch.full_like(labels, task_label(task, head))
        return make_dataset(resident, index, labels, task_labels)

    benchmark = benchmark_from_datasets(
        train=[experience(task, task.train) for task in tasks],
        test=[experience(task, task.test) for task in tasks],
    )
    benchmark = with_classes_timeline(benchmark)
    return with_task_labels(benchmark) if head == "per-task" else benchmark


def load_avalanche() -> None:
    """Import Avalanche, without letting it write its config file into the home folder.

    The first time takes seconds.
    """
    if "avalanche" in sys.modules:
        return
    with _elsewhere("~/.avalanche"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import avalanche.benchmarks
        import avalanche.training  # noqa: F401


@contextmanager
def _elsewhere(prefix: str) -> Iterator[None]:
    """Inside, ``os.path.expanduser`` sends paths that start with ``prefix`` to a temporary folder.

    Avalanche reads its config once, while it is imported. To change HOME instead would also move
    the caches of all it imports.
    """
    real = os.path.expanduser
    with tempfile.TemporaryDirectory(prefix="evolve-avalanche-") as folder:

        def expanduser(path: Any) -> Any:
            return (
                folder + path[len(prefix) :]
                if isinstance(path, str) and path.startswith(prefix)
                else real(path)
            )

        os.path.expanduser = expanduser  # type: ignore[assignment]
        try:
            yield
        finally:
            os.path.expanduser = real
