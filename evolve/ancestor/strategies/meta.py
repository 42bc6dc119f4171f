"""Look-ahead MAML: a learning rate for every weight, learned with the weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from avalanche.training.supervised.lamaml_v2 import LaMAML as AvalancheLaMAML
from torch import Tensor, nn

from evolve.ancestor.strategies.memory import memory_state, restore_memory
from evolve.ancestor.strategies.template import ResidentStrategy, State
from evolve.core.randomness import derive_seed, isolated_rng


class _TwoInputs(nn.Module):
    """The ancestor with the task labels that Avalanche's LaMAML always passes."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor, task_labels: Tensor | None = None) -> Any:
        """[B, 3, H, W] -> [B, classes]."""
        return self.trunk(x)


class _Reservoir(ReservoirSamplingBuffer):
    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Avalanche's own prints a deprecation warning."""
        self.post_adapt(strategy, strategy.experience)


class LaMAML(ResidentStrategy, AvalancheLaMAML):
    """Avalanche's LaMAML (the one without the package higher).

    The weights follow their own learned rates: of the ancestor's optimizer only ``batch`` and
    ``epochs`` matter, unless ``sync_update``.

    Avalanche draws the weights anew by its own rule; here the ancestor stays as drawn. It cuts a
    batch into ``n_inner_updates`` parts, of which the last may be empty or of one image, too few
    for BN; here there are fewer parts where that would happen.
    """

    def __init__(
        self, *, model: Any, seed: int, arguments: Mapping[str, Any], **common: Any
    ) -> None:
        drawn = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with isolated_rng(derive_seed(seed, "ancestor", "avalanche")), warnings.catch_warnings():
            # Avalanche warns of its own arguments.
            warnings.filterwarnings("ignore", message="Avalanche is transitioning")
            super().__init__(
                model=_TwoInputs(model.trunk), seed=seed, arguments=arguments, **common
            )
        self.model.load_state_dict(drawn)
        self.model.trunk.fused = False  # it differentiates twice
        self.wanted: int = arguments["n_inner_updates"]
        self.buffer.storage_policy = _Reservoir(arguments["max_buffer_size"])

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)
        for parameter, rate in zip(
            self.model.parameters(), self.alpha_params.values(), strict=True
        ):
            # A weight keeps its order in memory only beside a rate in the same order.
            rate.data = torch.empty_like(parameter).copy_(rate.data)

    def _before_inner_updates(self, **kwargs: Any) -> None:
        count = len(self.mb_y)
        self.n_inner_updates = next(
            n for n in range(self.wanted, 0, -1) if n == 1 or count - (n - 1) * -(-count // n) >= 2
        )
        super()._before_inner_updates(**kwargs)

    def state(self) -> State:
        """The memory, and the rate of every weight."""
        tensors, meta = memory_state(self.buffer.storage_policy)
        return tensors | self.running(), meta

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        restore_memory(self.buffer.storage_policy, tensors, meta, self.resident)
        rates = {
            name.removeprefix("rate."): tensor.to(self.device)
            for name, tensor in tensors.items()
            if name.startswith("rate.")
        }
        for name in (name.replace(".", "_") for name, _ in self.model.named_parameters()):
            self.alpha_params[name] = nn.Parameter(rates[name])
        self.alpha_params_initialized = True

    def running(self) -> dict[str, Tensor]:
        """The rate of every weight."""
        return {f"rate.{name}": rate.detach() for name, rate in self.alpha_params.items()}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`running` returned."""
        for name, rate in self.alpha_params.items():
            rate.data.copy_(tensors[f"rate.{name}"])
