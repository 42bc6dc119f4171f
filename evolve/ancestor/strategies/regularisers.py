"""Strategies that hold weights near the last task's ancestor: EWC and Synaptic Intelligence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import EWCPlugin, SynapticIntelligencePlugin
from avalanche.training.utils import ParamData
from torch import Tensor, nn

from evolve.ancestor.strategies.template import ResidentStrategy, State, Stored


class EWC(Stored, EWCPlugin):
    """Avalanche's EWC, with its penalty in closed form.

    Avalanche sums F_i (theta - theta_i)^2 over all earlier tasks i, so its steps, memory and state
    grow with the lineage. That sum is a parabola A d^2 - 2 B d + C in d = theta - theta_last; a new
    task only moves its centre and adds F to A. In mode "online" A is the decayed sum, B and C are
    zero. F (``compute_importances``) is Avalanche's.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.curvature: dict[str, Tensor] = {}  # A, flat, by parameter
        self.shift: dict[str, Tensor] = {}  # B
        self.centre: dict[str, Tensor] = {}  # theta_last
        self.constant = torch.zeros(())  # C

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add ewc_lambda times the parabola of every weight to the loss."""
        if self.curvature:
            penalty = self.constant.to(strategy.device)
            for name, parameter in strategy.model.named_parameters():
                penalty = penalty + self._parabola(name, parameter.flatten() - self.centre[name])
            strategy.loss += self.ewc_lambda * penalty

    def _parabola(self, name: str, moved: Tensor) -> Tensor:
        return torch.dot(self.curvature[name] * moved - 2 * self.shift[name], moved)

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add the task's importances to the parabola, and move its centre to the weights as they
        are now.
        """
        with torch.enable_grad():
            measured = self.compute_importances(
                strategy.model,
                strategy._criterion,
                strategy.optimizer,
                strategy.experience.dataset,
                strategy.device,
                strategy.train_mb_size,
            )
        for name, parameter in strategy.model.named_parameters():
            here, new = parameter.flatten().clone(), measured[name].data.flatten()
            old, shift = self.curvature.get(name), torch.zeros_like(here)
            if old is not None and self.mode == "online":
                new = self.decay_factor * old + new
            elif old is not None:
                moved = here - self.centre[name]
                self.constant = self.constant.to(here.device) + self._parabola(name, moved)
                new, shift = old + new, self.shift[name] - old * moved
            self.curvature[name], self.shift[name], self.centre[name] = new, shift, here

    def state(self) -> State:
        """The parabola. Its centre is the model itself at the task's end, so it is not stored
        again.
        """
        kept = {"curvature": self.curvature, "shift": self.shift}
        tensors = {
            f"{role}.{name}": value
            for role, values in kept.items()
            for name, value in values.items()
        }
        return tensors | {"constant": self.constant}, {}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        self.constant = tensors["constant"].to(strategy.device)
        for name, parameter in strategy.model.named_parameters():
            self.curvature[name] = tensors[f"curvature.{name}"].to(strategy.device)
            self.shift[name] = tensors[f"shift.{name}"].to(strategy.device)
            self.centre[name] = parameter.detach().flatten().clone()


class SI(Stored, SynapticIntelligencePlugin):
    """Avalanche's Synaptic Intelligence, mended.

    On a CPU, Avalanche 0.6 keeps views of contiguous parameters where it means to keep their
    earlier values: every path length and every penalty is then zero. It also needs a gradient for
    every parameter, which unused heads do not have, and looks up the parameters' names by pattern
    four times an iteration, which takes longer than the step itself.
    """

    _names: list[str] | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Note where the weights start."""
        super().before_training_exp(strategy, **kwargs)
        self._names = [
            name for name, _ in self.allowed_parameters(strategy.model, self.excluded_parameters)
        ]
        _unalias(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Note the weights before the step."""
        for name, parameter in self._parameters(strategy):
            self.syn_data["old_theta"][name].data = parameter.detach().cpu().flatten().clone()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add lambda / 2 sum(importance (theta - start)^2) to the loss."""
        task = min(strategy.clock.train_exp_counter, len(self.si_lambda) - 1)
        half = self.si_lambda[task] / 2
        penalty = torch.zeros((), device=strategy.device)
        for name, parameter in self._parameters(strategy):
            start, importance = (data[name].data.to(strategy.device) for data in self.ewc_data)
            penalty = penalty + torch.dot(importance, (parameter.flatten() - start) ** 2) * half
        strategy.loss += penalty

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Add gradient times movement to the path of every weight."""
        for name, parameter in self._parameters(strategy):
            if parameter.grad is not None:
                moved = parameter.detach().cpu().flatten() - self.syn_data["old_theta"][name].data
                self.syn_data["trajectory"][name].data += (
                    parameter.grad.detach().cpu().flatten() * moved
                )

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Turn the paths into importances."""
        super().after_training_exp(strategy, **kwargs)
        _unalias(self.ewc_data[0])

    def _parameters(self, strategy: Any) -> list[tuple[str, nn.Parameter]]:
        parameters = dict(strategy.model.named_parameters())
        assert self._names is not None
        return [(name, parameters[name]) for name in self._names]

    def state(self) -> State:
        """What outlasts a task: the summed importances.

        The values they hold on to are the model's own at the task's end.
        """
        kept = {"importance": self.ewc_data[1], "path": self.syn_data["cum_trajectory"]}
        return {
            f"{role}.{name}": value.data
            for role, values in kept.items()
            for name, value in values.items()
        }, {}

    def restore(
        self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], strategy: ResidentStrategy
    ) -> None:
        """Take up what :meth:`state` returned, see :meth:`Stored.restore`."""
        self.create_syn_data(strategy.model, self.ewc_data, self.syn_data, self.excluded_parameters)
        for full, tensor in tensors.items():
            role, name = full.split(".", 1)
            (self.ewc_data[1] if role == "importance" else self.syn_data["cum_trajectory"])[
                name
            ].data = tensor.clone()

    def running(self) -> dict[str, Tensor]:
        """The paths of the weights since the task's start."""
        return {name: value.data for name, value in self.syn_data["trajectory"].items()}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`running` returned."""
        for name, tensor in tensors.items():
            self.syn_data["trajectory"][name].data = tensor.clone()


def _unalias(values: Mapping[str, ParamData]) -> None:
    for value in values.values():
        value.data = value.data.clone()
