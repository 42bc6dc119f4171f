"""Networks with awake parameters, and these as :class:`evolve.networks.fast.shape.Weights`."""

from __future__ import annotations

import torch

from evolve.networks.fast.shape import Statistics, Weights
from evolve.networks.vgg import VGG, initialise
from evolve.networks.vgg_plan import Plan


def awake(plan: Plan, classes: int, seed: int, dtype: torch.dtype = torch.float64) -> VGG:
    """A VGG in training mode whose parameters are not those of a new network.

    Biases, gammas (some negative) and betas differ.

    Args:
        plan: its plan.
        classes: classes of its head.
        seed: seed of all draws.
        dtype: of its tensors.
    """
    draw = torch.Generator().manual_seed(seed)
    model = VGG(plan, classes)
    initialise(model, seed, "awake")
    with torch.no_grad():
        for unit in model.units:
            for tensor, centre, spread in (
                (unit.conv.bias, 0.0, 0.5),
                (unit.bn.weight, 1.0, 0.6),
                (unit.bn.bias, 0.0, 0.5),
            ):
                tensor.copy_(centre + spread * torch.randn(tensor.shape, generator=draw))
        model.head.weight.mul_(30)
    return model.to(dtype).train()


def weights_of(model: VGG) -> Weights:
    """The model's parameters, as copies."""
    units = model.units
    conv = [unit.conv.weight.detach().clone(memory_format=torch.channels_last) for unit in units]
    vectors = (
        [part.detach().clone() for part in parts]
        for parts in zip(*((u.conv.bias, u.bn.weight, u.bn.bias) for u in units), strict=True)
    )
    return Weights(
        conv, *vectors, model.head.weight.detach().clone(), model.head.bias.detach().clone()
    )


def statistics_of(model: VGG) -> Statistics:
    """The model's running means and variances, as copies."""
    return Statistics(
        *(
            [getattr(unit.bn, name).clone() for unit in model.units]
            for name in ("running_mean", "running_var")
        )
    )
