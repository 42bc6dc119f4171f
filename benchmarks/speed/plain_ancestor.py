"""Baseline of the ancestor: Avalanche's Naive over PIL images, as its tutorials show it; tests."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from evolve.ancestor.model import build_ancestor
from evolve.data.resident import Resident
from evolve.data.streams import class_labels, labels_of, load_avalanche, stream_tasks
from evolve.networks.optimizers import make_optimizer

from .cases import ANCESTOR_CLASSES, Case
from .plain_descendants import accuracy
from .plain_images import PilImages, fastest, pil_images, transform_of
from .work import barrier


class PlainAncestor:
    """The baseline side: the first task of the stream. An amount is epochs.

    What Avalanche does once a task (setting up strategy and benchmark) is not timed, and it neither
    tests nor keeps checkpoints: all that is left out in its favour.
    """

    def __init__(
        self, case: Case, resident: Resident, candidates: tuple[int, ...], seconds: float
    ) -> None:
        load_avalanche()
        self.a, self.device, self.sync = (
            case.settings.ancestor,
            resident.device,
            barrier(resident.device),
        )
        task = stream_tasks(case.settings.stream, ANCESTOR_CLASSES, resident, 0, 1)[0]
        labels = labels_of(
            task.train, class_labels(task, self.a.head, ANCESTOR_CLASSES), resident
        ).tolist()
        images = PilImages(
            pil_images(resident, task.train), labels, transform_of(resident, self.a.augment)
        )
        self.images, self.experience = len(images), _experience(images)
        self.model = build_ancestor(
            self.a, case.settings.stream, ANCESTOR_CLASSES, case.settings.data.size, 0
        )
        self.model = self.model.to(self.device).to(memory_format=torch.contiguous_format)
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.prepare()
        workers, tried = fastest(candidates, lambda workers: self._epochs(1, workers), seconds)
        self.workers = workers
        self.info: dict[str, Any] = {"num_workers": workers, "seconds_an_epoch": tried}

    def prepare(self) -> None:
        """The weights of the beginning, and a new strategy."""
        from avalanche.training.plugins import EvaluationPlugin
        from avalanche.training.supervised import Naive

        self.model.load_state_dict(self.start)
        a = self.a
        optimizer = make_optimizer(
            self.model.parameters(), a.optimizer, a.lr, a.momentum, a.weight_decay
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No loggers specified")
            nothing = EvaluationPlugin()
        self.strategy = Naive(
            model=self.model,
            optimizer=optimizer,
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=a.batch,
            train_epochs=1,
            device=self.device,
            evaluator=nothing,
        )

    def run(self, amount: int) -> int:
        """``amount`` epochs; the images trained on."""
        self._epochs(amount, self.workers)
        return amount * self.images

    def _epochs(self, epochs: int, workers: int) -> None:
        self.strategy.train_epochs = epochs
        pinned = self.device.type == "cuda"
        self.strategy.train(
            self.experience, num_workers=workers, persistent_workers=workers > 0, pin_memory=pinned
        )
        self.sync()


def _experience(images: PilImages) -> Any:
    """The one experience of a benchmark over ``images``."""
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
    from avalanche.benchmarks.utils import as_classification_dataset

    dataset = as_classification_dataset(images)
    return with_classes_timeline(
        benchmark_from_datasets(train=[dataset], test=[dataset])
    ).train_stream[0]


class PlainTests:
    """The baseline of the ancestor's tests: task by task, as a stream is evaluated.

    An amount is tests of one task.
    """

    def __init__(self, case: Case, resident: Resident) -> None:
        a, s = case.settings.ancestor, case.settings.stream
        task = stream_tasks(s, ANCESTOR_CLASSES, resident, 0, 1)[0]
        labels = labels_of(task.test, class_labels(task, a.head, ANCESTOR_CLASSES), resident)
        images = PilImages(
            pil_images(resident, task.test), labels.tolist(), transform_of(resident, ())
        )
        self.device, self.images = resident.device, len(images)
        self.loader = DataLoader(images, batch_size=64)
        self.model = build_ancestor(a, s, ANCESTOR_CLASSES, case.settings.data.size, 0)
        self.model.to(self.device).to(memory_format=torch.contiguous_format)
        self.info: dict[str, Any] = {"task": self.images}

    def prepare(self) -> None:
        """Nothing: a test leaves nothing behind."""

    def run(self, amount: int) -> int:
        """``amount`` times all test images of a task; how many these were."""
        for _ in range(amount):
            accuracy(self.model, self.loader, self.device)
        return amount * self.images
