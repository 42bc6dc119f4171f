"""What our Avalanche strategy costs over a bare loop.

Its iterations stand against the same step on a ready batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evolve.ancestor.accumulate import Learner
from evolve.data.resident import Resident
from evolve.data.streams import StreamTask, stream_tasks
from evolve.runs.estimate.timing import NoCheckpoint, silent

from .cases import ANCESTOR_CLASSES, Case
from .work import barrier


class BareLoop:
    """Forward, cross-entropy, backward and optimizer step of a copied model on one ready batch."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
    ) -> None:
        # Together: the copied optimizer holds the copied parameters.
        self.model, self.optimizer = copy.deepcopy((model, optimizer))
        self.images, self.labels, self.criterion = images, labels, nn.CrossEntropyLoss()

    def steps(self, count: int) -> None:
        """``count`` iterations."""
        self.model.train()
        for _ in range(count):
            self.optimizer.zero_grad()
            self.criterion(self.model(self.images), self.labels).backward()
            self.optimizer.step()


class Overhead:
    """Epochs of the strategy and of the bare loop in turn: the machine's noise meets both."""

    def __init__(self, case: Case, resident: Resident) -> None:
        self.settings, self.resident, self.sync = case.settings, resident, barrier(resident.device)
        self.info: dict[str, Any] = {}

    def measure(self, epochs: int) -> dict[str, float]:
        """Seconds an iteration of both, from fresh weights.

        Both run ``epochs`` epochs, after one that warms up.
        """
        learner, tasks = self._learner(epochs + 1)
        strategy, steps = learner.strategy, len(tasks[0].train) // learner.a.batch
        bare, epoch_of_strategy = self._bare(learner, tasks[0]), learner.strategy.training_epoch
        spent: dict[str, list[float]] = {"strategy": [], "bare": []}

        def both(**arguments: Any) -> None:
            turns: dict[str, Callable[[], None]] = {
                "strategy": lambda: epoch_of_strategy(**arguments),
                "bare": lambda: bare.steps(steps),
            }
            for name in list(turns) if len(spent["bare"]) % 2 else list(turns)[::-1]:
                spent[name].append(self._timed(turns[name]))

        strategy.training_epoch = both  # type: ignore[method-assign]
        learner.learn(tasks, NoCheckpoint(), silent)
        iterations = steps * epochs
        return {name: sum(times[1:]) / iterations for name, times in spent.items()} | {
            "iterations": iterations
        }

    def _learner(self, epochs: int) -> tuple[Learner, list[StreamTask]]:
        """What ``accumulate`` makes for the first task, and that task.

        It must hold whole batches only: a smaller one is cheaper.
        """
        s = self.settings
        tasks = stream_tasks(s.stream, ANCESTOR_CLASSES, self.resident, 0, 1)
        assert len(tasks[0].train) % s.ancestor.batch == 0
        a = replace(s.ancestor, epochs=epochs, strategy="naive", strategy_args={})
        learner = Learner(a, s.stream, ANCESTOR_CLASSES, self.resident, 0)
        learner.restore(None, 0)
        return learner, tasks

    def _bare(self, learner: Learner, task: StreamTask) -> BareLoop:
        images = self.resident.batch(task.train[: learner.a.batch])
        labels = torch.arange(learner.a.batch, device=images.device).remainder(
            self.settings.stream.classes_per_task
        )
        return BareLoop(learner.strategy.model, learner.strategy.optimizer, images, labels)

    def _timed(self, work: Callable[[], None]) -> float:
        self.sync()
        begun = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - begun
