"""More strategies that hold weights near the last task's ancestor: MAS and RWalk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import MASPlugin, RWalkPlugin
from avalanche.training.utils import ParamData, copy_params_dict
from torch import Tensor

from evolve.ancestor.strategies.template import ResidentStrategy, State, Stored
from evolve.core.errors import UserError

Values = dict[str, ParamData]


class MAS(Stored, MASPlugin):
    """Avalanche's Memory Aware Synapses.

    The weights that it holds on to are the model's own at the task's end.

    It measures in training mode; where its batches would leave a rest of one image, for which BN
    has no variance, they are one larger. It passes over the task class by class, so the running
    statistics would be those of the last one: they are put back.
    """

    def _get_importance(self, strategy: Any) -> Values:
        size = strategy.train_mb_size
        strategy.train_mb_size = size + (len(strategy.experience.dataset) % size == 1)
        kept = [buffer.clone() for buffer in strategy.model.buffers()]
        try:
            importance: Values = super()._get_importance(strategy)
        finally:
            strategy.train_mb_size = size
            for buffer, before in zip(strategy.model.buffers(), kept, strict=True):
                buffer.copy_(before)
        return importance

    def state(self) -> State:
        """The importance of every weight."""
        return pack(importance=self.importance), {}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned; the weights to hold on to are the model's own."""
        self.params = copy_params_dict(strategy.model)
        self.importance = unpack(tensors, "importance", strategy.device)


class RWalk(Stored, RWalkPlugin):
    """Avalanche's Riemannian Walk.

    Avalanche 0.6 leaves the network in eval mode once it has taken a step's gradient, so BN would
    learn neither statistics nor by the batch. ``delta_t`` is counted from the task's start.
    """

    def attach(self, strategy: ResidentStrategy) -> None:
        """Note the device."""
        self.device = strategy.device

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse a ``delta_t`` that is longer than the task.

        Raises:
            UserError: it names the argument and what is allowed.
        """
        steps = strategy.train_epochs * len(strategy.dataloader)
        if steps < self.delta_t:
            raise UserError(
                f"ancestor.strategy_args.delta_t = {self.delta_t}: a task has {steps} steps, so "
                f"none would count; choose 1 to {steps}"
            )

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Take the step's gradient, and go back to training mode."""
        super().before_training_iteration(strategy, *args, **kwargs)
        strategy.model.train()

    def state(self) -> State:
        """Scores, importances and penalties of every weight."""
        return pack(
            scores=self.exp_scores, importance=self.iter_importance, penalties=self.exp_penalties
        ), {}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned; the weights to hold on to are the model's own."""
        self.exp_params = copy_params_dict(strategy.model)
        self.exp_scores, self.exp_penalties = (
            unpack(tensors, role, strategy.device) for role in ("scores", "penalties")
        )
        self.iter_importance = unpack(tensors, "importance", strategy.device)

    def running(self) -> dict[str, Tensor]:
        """What the walk has gathered since the task's start."""
        return pack(
            params=self.checkpoint_params,
            loss=self.checkpoint_loss,
            scores=self.checkpoint_scores,
            importance=self.iter_importance,
        )

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`running` returned."""
        self.checkpoint_params, self.checkpoint_loss = (
            unpack(tensors, role, self.device) for role in ("params", "loss")
        )
        self.checkpoint_scores, self.iter_importance = (
            unpack(tensors, role, self.device) for role in ("scores", "importance")
        )


def pack(**kept: Values | None) -> dict[str, Tensor]:
    """Values as ``{"role.parameter": tensor}``."""
    return {
        f"{role}.{name}": value.data
        for role, values in kept.items()
        if values
        for name, value in values.items()
    }


def unpack(tensors: Mapping[str, Tensor], role: str, device: torch.device) -> Values:
    """The inverse of :func:`pack` for one role.

    Args:
        tensors: "role.parameter" -> tensor.
        role: which.
        device: where the values go.
    """
    values = {
        name.removeprefix(f"{role}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{role}.")
    }
    return {
        name: ParamData(name, device=device, init_tensor=tensor.to(device).clone())
        for name, tensor in values.items()
    }
