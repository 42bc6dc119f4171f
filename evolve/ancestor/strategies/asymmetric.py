"""Avalanche's templates with two losses, for the task's images and for remembered ones.

They are DER, ER-ACE and ER-AML. Each inherits from :class:`ResidentStrategy`, then from Avalanche's
own: loop and loss stay Avalanche's, and what it would read from a DataLoader over its memory comes
from :meth:`ResidentStrategy.remembered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from avalanche.benchmarks.utils import make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import TensorDataAttribute
from avalanche.benchmarks.utils.flat_data import FlatData
from avalanche.training.supervised import DER as AvalancheDER
from avalanche.training.supervised import ER_ACE, ER_AML
from torch import Tensor

from evolve.ancestor.strategies.loader import Rows, rows_of
from evolve.ancestor.strategies.memory import (
    ClassMemory,
    check_memory,
    memory_rows,
    memory_state,
    restore_memory,
    settle,
)
from evolve.ancestor.strategies.template import ResidentStrategy, State


class Dual(ResidentStrategy):
    """A template with a ``storage_policy`` and a ``replay_loader``."""

    storage_policy: Any
    batch_size_mem: int

    def state(self) -> State:
        """The memory."""
        return memory_state(self.storage_policy)

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        restore_memory(self.storage_policy, tensors, meta, self.resident)

    def _before_training_epoch(self, **kwargs: Any) -> None:
        rows = memory_rows(self.storage_policy)
        enough = self.task > 1 and rows is not None and len(rows[0]) >= self.batch_size_mem
        self.replay_loader = self._batches(rows) if enough and rows is not None else None
        super()._before_training_epoch(**kwargs)

    def _batches(self, rows: Rows) -> Iterator[list[Tensor]]:
        for *batch, _ in self.remembered(rows, self.batch_size_mem):
            yield batch


class DER(Dual, AvalancheDER):
    """Avalanche's Dark Experience Replay (beta = 0) and DER++.

    Remembered images come with the logits they had when their task ended.
    """

    def _batches(self, rows: Rows) -> Iterator[list[Tensor]]:
        logits = _logits(self.storage_policy.buffer)
        for *batch, places in self.remembered(rows, self.batch_size_mem):
            yield [*batch, logits[places].to(self.device)]

    def _after_training_exp(self, **kwargs: Any) -> None:
        super()._after_training_exp(**kwargs)
        settle(self.storage_policy)

    def state(self) -> State:
        """The memory and its logits, float32 [n, classes], by group."""
        tensors, meta = super().state()
        groups = self.storage_policy.buffer_groups.items()
        return tensors | {
            f"{key}.logits": _logits(group.buffer) for key, group in groups if len(group.buffer)
        }, meta

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        super().restore(tensors, meta)
        for key, group in self.storage_policy.buffer_groups.items():
            if len(group.buffer):
                rows = FlatData(
                    [list(tensors[f"{key}.logits"])], discard_elements_not_in_indices=True
                )
                attribute = TensorDataAttribute(rows, name="logits", use_in_getitem=True)
                group.buffer = make_avalanche_dataset(group.buffer, data_attributes=[attribute])


def _logits(dataset: Any) -> Tensor:
    """float32 [N, classes]."""
    return torch.stack(list(dataset.logits))


class ERACE(Dual, ER_ACE):
    """Avalanche's ER-ACE, a cross-entropy that differs for new and for remembered images.

    The task's images are told apart among the classes of their batch only, remembered ones among
    all. The memory takes up a task's images before they are learned.
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self.storage_policy = ClassMemory(self.mem_size)


class ERAML(Dual, ER_AML):
    """Avalanche's ER-AML: images are drawn to remembered ones of their class and away from others.

    Avalanche 0.6 reads each class's memory in whole batches, and waits forever for one where a
    class has fewer images than a batch.
    """

    def __init__(self, *, model: Any, arguments: Mapping[str, Any], **common: Any) -> None:
        check_memory("er-aml", arguments["mem_size"], model)
        super().__init__(
            model=model, arguments={**arguments, "feature_extractor": model.trunk.embed}, **common
        )
        self.aml_criterion.device = self.device
        self.storage_policy = ClassMemory(self.mem_size)

    def _before_training_epoch(self, **kwargs: Any) -> None:
        super()._before_training_epoch(**kwargs)
        groups = {
            label: rows_of(group.buffer)
            for label, group in self.storage_policy.buffer_groups.items()
        }
        self.pos_neg_loaders = [self._of_one_class(label, rows) for label, rows in groups.items()]

    def _of_one_class(self, label: int, rows: Rows) -> Iterator[list[Tensor]]:
        for *batch, _ in self.remembered(rows, self.train_mb_size, f"ancestor-memory-{label}"):
            yield batch
