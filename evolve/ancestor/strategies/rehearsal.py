"""Strategies that keep images of earlier tasks, as indices of the resident images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from avalanche.training.plugins import GDumbPlugin, MIRPlugin, ReplayPlugin
from torch import Tensor

from evolve.ancestor.strategies.loader import Rows, rows_of
from evolve.ancestor.strategies.memory import (
    POLICIES,
    ClassMemory,
    join,
    memory_rows,
    memory_state,
    restore_memory,
)
from evolve.ancestor.strategies.template import ResidentStrategy, Restarting, State, Stored


class Remembering(Stored):
    """A plugin with one of Avalanche's ``storage_policy``."""

    storage_policy: Any

    def state(self) -> State:
        """The memory."""
        (tensors, meta), (more, extra) = memory_state(self.storage_policy), super().state()
        return tensors | more, meta | extra

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        super().restore(tensors, meta, strategy)
        restore_memory(self.storage_policy, tensors, meta, strategy.resident)


class Replay(Remembering, ReplayPlugin):
    """Avalanche's experience replay."""

    def __init__(self, mem_size: int, policy: str) -> None:
        super().__init__(mem_size, storage_policy=POLICIES[policy](mem_size))

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Let remembered images join every batch."""
        strategy.dataloader.memory = memory_rows(self.storage_policy)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take up images of the task."""
        self.storage_policy.post_adapt(strategy, strategy.experience)


class GDumb(Remembering, Restarting, GDumbPlugin):
    """Avalanche's GDumb: the untrained ancestor learns a class-balanced memory of all tasks.

    The new task's images are among it. Avalanche puts a copy in the model's place; here the weights
    return to the untrained ones in place.
    """

    def attach(self, strategy: ResidentStrategy) -> None:
        """Keep the untrained ancestor, and make the memory."""
        super().attach(strategy)
        self.storage_policy = ClassMemory(self.mem_size)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Return to the untrained ancestor."""
        strategy.model.load_state_dict(self.untrained)

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Take up images of the task, and train on the memory alone."""
        self.storage_policy.post_adapt(strategy, strategy.experience)
        strategy.adapted_dataset = join(self.storage_policy.buffer_datasets)


class MIR(Remembering, MIRPlugin):
    """Avalanche's Maximally Interfered Retrieval.

    As there, classes of the last batch of a task are not replayed in the next.
    """

    last = torch.zeros(0, dtype=torch.int64)  # the labels of an epoch's last batch
    excluded: Sequence[int] = ()

    def attach(self, strategy: ResidentStrategy) -> None:
        """Make the memory."""
        self.storage_policy = ClassMemory(self.mem_size)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Begin to draw candidates, if there are more than a batch of them."""
        groups = [
            group.buffer
            for label, group in self.storage_policy.buffer_groups.items()
            if label not in self.excluded and len(group.buffer)
        ]
        count = sum(len(group) for group in groups)
        self.replay_loader = (
            self._samples(strategy, rows_of(join(groups))) if count > self.batch_size_mem else None
        )

    def _samples(self, strategy: ResidentStrategy, rows: Rows) -> Iterator[list[Tensor]]:
        for *batch, _ in strategy.remembered(rows, self.subsample):
            yield batch

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Note the labels of the last batch."""
        self.last = torch.unique(strategy.mb_y).cpu()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take up images of the task."""
        self.storage_policy.post_adapt(strategy, strategy.experience)
        self.excluded = self.last.tolist()

    def state(self) -> State:
        """The memory, and the classes that the next task does not replay."""
        tensors, meta = super().state()
        return tensors, meta | {"excluded": list(self.excluded)}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        super().restore(tensors, meta, strategy)
        self.excluded = meta["excluded"]

    def running(self) -> dict[str, Tensor]:
        """The labels of the last batch."""
        return {"last": self.last}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`running` returned."""
        self.last = tensors["last"]
