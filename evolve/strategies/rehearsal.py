"""Strategies that keep images of earlier tasks, as indices of the resident images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from torch import Tensor

from evolve.data.streams import make_dataset
from evolve.strategies.loader import rows_of
from evolve.strategies.template import ResidentStrategy, State, Stored


class Replay(Stored, ReplayPlugin):
    """Avalanche's experience replay; the memory is stored as indices of the resident images."""

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        groups = [rows_of(group.buffer) for group in self.storage_policy.buffer_groups.values() if len(group.buffer)]
        if groups:
            index, label, task = (torch.cat(columns) for columns in zip(*groups, strict=True))
            strategy.dataloader.memory = (index, label, task)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)  # Avalanche's own call prints a deprecation warning

    def state(self) -> State:
        tensors: dict[str, Tensor] = {}
        for group, buffer in self.storage_policy.buffer_groups.items():
            held = [*rows_of(buffer.buffer), buffer._buffer_weights] if len(buffer.buffer) else [torch.zeros(0, dtype=torch.int64)] * 3
            tensors |= {f"{group}.{name}": part for name, part in zip(("index", "label", "task", "weight"), held, strict=False)}
        return tensors, {"groups": len(self.storage_policy.buffer_groups)}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy) -> None:
        policy = self.storage_policy
        policy._num_exps = meta["groups"]
        for group, size in enumerate(policy.get_group_lengths(meta["groups"])):
            buffer = policy.buffer_groups[group] = ReservoirSamplingBuffer(size)
            index, label, task = (tensors[f"{group}.{name}"] for name in ("index", "label", "task"))
            if len(index):
                buffer.buffer = make_dataset(strategy.resident, index, label, task)
                buffer._buffer_weights = tensors[f"{group}.weight"]
