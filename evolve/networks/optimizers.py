"""The optimizers that ancestor and descendants may learn by, from their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from evolve.networks.fast.sgd import CompiledSGD


def make_optimizer(
    parameters: Iterable[Any],
    kind: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    *,
    fused: bool = False,
    foreach: bool | None = None,
) -> torch.optim.Optimizer:
    """An optimizer of one of the kinds that settings name.

    "sgd" has momentum and L2 decay; "adamw" has betas 0.9 and 0.999 and decoupled decay, as ViTs
    are trained. "sgd" with ``fused`` is :class:`evolve.networks.fast.sgd.CompiledSGD` on a CPU.

    Args:
        parameters: or groups of them, dicts whose other entries it keeps.
        kind: of ``evolve.core.settings.OPTIMIZERS``.
        lr: the learning rate.
        momentum: unread by "adamw".
        weight_decay: the decay.
        fused, foreach: the way of computing the step, not what it computes.
    """
    if kind == "adamw":
        return torch.optim.AdamW(
            parameters, lr=lr, weight_decay=weight_decay, fused=fused, foreach=foreach
        )
    groups = list(parameters)
    first = groups[0]["params"][0] if isinstance(groups[0], dict) else groups[0]
    sgd = CompiledSGD if fused and first.is_cpu else torch.optim.SGD
    return sgd(
        groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused, foreach=foreach
    )


def state_of(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the optimizer remembers of its steps.

    Args:
        optimizer: any of :func:`make_optimizer`'s.
        parameters: by name.

    Returns:
        "<what>/<parameter's name>": momentum, or AdamW's two averages and its count of steps.
    """
    held = {name: optimizer.state.get(parameter, {}) for name, parameter in parameters.items()}
    return {
        f"{what}/{name}": value
        for name, state in held.items()
        for what, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> None:
    """Take up what :func:`state_of` returned.

    A parameter's state gets the parameter's own memory order, which a step's kernel may rely on.

    Args:
        optimizer: of the same kind.
        parameters: by name.
        tensors: on the CPU.
    """
    for key, tensor in tensors.items():
        what, _, name = key.partition("/")
        parameter = parameters[name]
        if (
            what == "step"
        ):  # a number; torch wants it on the device for fused steps, and on the CPU for others
            optimizer.state[parameter][what] = (
                tensor.to(parameter.device) if optimizer.defaults.get("fused") else tensor.clone()
            )
        else:
            optimizer.state[parameter][what] = torch.empty_like(parameter).detach().copy_(tensor)
