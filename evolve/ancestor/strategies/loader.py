"""Batches of a task by slicing resident images, instead of a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from evolve.core.randomness import generator
from evolve.core.settings import AncestorSettings
from evolve.data.batches import batch_count, batches
from evolve.data.resident import Resident, sent

Rows = tuple[Tensor, Tensor, Tensor]  # resident index, label, task label: int64 [N] each


def rows_of(dataset: Any) -> Rows:
    """Resident index, label and task label of every sample, int64 [N] each.

    Args:
        dataset: one of the benchmark's, over a Resident.
    """
    columns = (dataset.resident_index, dataset.targets, dataset.targets_task_labels)
    index, label, task = (torch.tensor(list(column), dtype=torch.int64) for column in columns)
    return index, label, task


class ResidentLoader:
    """Batches [images, labels, task labels] of one task, by slicing resident images.

    The epoch decides every draw; ``index`` says which resident images [B] the last batch showed.
    """

    def __init__(
        self, resident: Resident, rows: Rows, a: AncestorSettings, seed: int, task: int
    ) -> None:
        self.resident, self.rows, self.a, self.seed, self.task = resident, rows, a, seed, task
        self.memory: Rows | None = None
        self.epoch = 0

    def __len__(self) -> int:
        return batch_count(len(self.rows[0]), self.a.batch)

    def __iter__(self) -> Iterator[list[Tensor]]:
        rows = list(self._rows())
        images = self.resident.batches(
            [columns[0] for columns in rows], self.a.augment, self._draw("ancestor-augment")
        )
        for (self.index, labels, tasks), shown in zip(rows, images, strict=True):
            device = self.resident.device
            yield [shown, sent(labels, device), sent(tasks, device)]

    def _rows(self) -> Iterator[Rows]:
        order = torch.randperm(len(self.rows[0]), generator=self._draw("ancestor-order"))
        remembered = self._remembered()
        for columns in zip(
            *(batches(column[order], self.a.batch) for column in self.rows), strict=True
        ):
            if self.memory is not None:
                more = next(remembered)
                columns = tuple(
                    torch.cat([column, extra[more]])
                    for column, extra in zip(columns, self.memory, strict=True)
                )
            yield columns

    def _remembered(self) -> Iterator[Tensor]:
        """Places in the memory, one piece a step: permutations without end, as Avalanche's replay
        does it.
        """
        draw = self._draw("ancestor-memory")
        while self.memory is not None:
            yield from torch.randperm(len(self.memory[0]), generator=draw).split(self.a.batch)

    def _draw(self, purpose: str) -> torch.Generator:
        return generator(self.seed, purpose, self.task, self.epoch)
