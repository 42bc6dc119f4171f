"""Avalanche's memories of images, stored as indices of the resident images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.training.storage_policy import (
    BalancedExemplarsBuffer,
    ClassBalancedBuffer,
    ExemplarsBuffer,
    ExperienceBalancedBuffer,
    ReservoirSamplingBuffer,
)
from torch import Tensor

from evolve.ancestor.strategies.loader import Rows, rows_of
from evolve.ancestor.strategies.template import State
from evolve.core.errors import UserError
from evolve.data.resident import Resident
from evolve.data.streams import make_dataset


class ClassMemory(ClassBalancedBuffer):
    """Avalanche's memory of equally many images a class.

    A class's number of images does not depend on how the set of classes was filled.
    """

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Take up images of the task."""
        super().post_adapt(agent, exp)
        settle(self)

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Avalanche's own prints a deprecation warning."""
        self.post_adapt(strategy, strategy.experience)


POLICIES: dict[str, Callable[[int], ExemplarsBuffer]] = {
    "experience-balanced": ExperienceBalancedBuffer,
    "class-balanced": ClassMemory,
    "reservoir": ReservoirSamplingBuffer,
}


def memory_rows(policy: ExemplarsBuffer) -> Rows | None:
    """All that is remembered, group after group; None while there is nothing.

    Args:
        policy: Avalanche's memory.
    """
    groups = [rows_of(group.buffer) for group in _groups(policy).values() if len(group.buffer)]
    if not groups:
        return None
    index, label, task = (torch.cat(columns) for columns in zip(*groups, strict=True))
    return index, label, task


def check_memory(strategy: str, images: int, model: Any) -> None:
    """Refuse a memory that could lack a class of which the strategy needs an image.

    Args:
        strategy: its name, for the error.
        images: the memory's size.
        model: the ancestor.

    Raises:
        UserError: there are more classes than images.
    """
    classes = model.trunk.head.out_features
    if images < classes:
        raise UserError(
            f"ancestor.strategy_args.mem_size = {images}: {strategy} needs an image of each class; "
            f"choose at least {classes}"
        )


def settle(policy: Any) -> None:
    """Fill the set of seen classes in one order, on which the sizes of the groups depend.

    Args:
        policy: Avalanche's memory, balanced by class.
    """
    policy.seen_classes = set(sorted(policy.buffer_groups))


def memory_state(policy: ExemplarsBuffer) -> State:
    """What a memory holds, as tensors "<group>.<what>".

    Args:
        policy: Avalanche's memory.

    Returns:
        Of every group the indices, labels and task labels, int64 [n], and draws, float32 [n]; the
        groups' order and sizes.
    """
    tensors: dict[str, Tensor] = {}
    for key, group in _groups(policy).items():
        index, label, task = (
            rows_of(group.buffer) if len(group.buffer) else [torch.zeros(0, dtype=torch.int64)] * 3
        )
        tensors |= {
            f"{key}.index": index,
            f"{key}.label": label,
            f"{key}.task": task,
            f"{key}.weight": group._buffer_weights,
        }
    return tensors, {"groups": [[key, group.max_size] for key, group in _groups(policy).items()]}


def restore_memory(
    policy: ExemplarsBuffer,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    resident: Resident,
) -> None:
    """Fill a memory from what :func:`memory_state` returned.

    Args:
        policy: new and empty.
        tensors: its tensors.
        meta: its groups.
        resident: the images.
    """
    for key, size in meta["groups"]:
        group = (
            policy if isinstance(policy, ReservoirSamplingBuffer) else ReservoirSamplingBuffer(size)
        )
        index, label, task, weight = (
            tensors[f"{key}.{name}"] for name in ("index", "label", "task", "weight")
        )
        if len(index):
            group.buffer, group._buffer_weights = make_dataset(resident, index, label, task), weight
        if isinstance(policy, BalancedExemplarsBuffer):
            policy.buffer_groups[key] = group
    if isinstance(policy, ExperienceBalancedBuffer):
        policy._num_exps = len(meta["groups"])
    elif isinstance(policy, BalancedExemplarsBuffer):
        settle(policy)


def join(datasets: Iterable[Any]) -> Any:
    """The datasets that hold something, as one.

    Args:
        datasets: Avalanche's; at least one holds something.
    """
    return concat_datasets([dataset for dataset in datasets if len(dataset)])


def _groups(policy: ExemplarsBuffer) -> dict[int, Any]:
    return policy.buffer_groups if isinstance(policy, BalancedExemplarsBuffer) else {0: policy}
