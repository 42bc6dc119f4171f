"""Networks with awake parameters, and their parameters as :class:`evolve.networks.fused.Weights`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evolve.networks.fused import Statistics, Weights
from evolve.networks.plan import Plan
from evolve.networks.vgg import VGG, initialise


def awake(plan: Plan, classes: int, seed: int, dtype: torch.dtype = torch.float64) -> VGG:
    """A VGG in training mode whose biases, gammas (some negative) and betas are not those of a new network."""
    draw = torch.Generator().manual_seed(seed)
    model = VGG(plan, classes)
    initialise(model, seed, "awake")
    with torch.no_grad():
        for unit in model.units:
            for tensor, centre, spread in ((unit.conv.bias, 0.0, 0.5), (unit.bn.weight, 1.0, 0.6), (unit.bn.bias, 0.0, 0.5)):
                tensor.copy_(centre + spread * torch.randn(tensor.shape, generator=draw))
        model.head.weight.mul_(30)
    return model.to(dtype).train()


def weights_of(models: Sequence[VGG]) -> Weights:
    """The models' parameters side by side, as copies."""

    def joined(name: str, part: str) -> list[Tensor]:
        layers = zip(*(model.units for model in models), strict=True)
        return [torch.cat([getattr(getattr(unit, name), part).detach() for unit in units]) for units in layers]

    conv = [w.contiguous(memory_format=torch.channels_last) for w in joined("conv", "weight")]
    head, bias = (torch.stack([getattr(model.head, part).detach() for model in models]) for part in ("weight", "bias"))
    return Weights(conv, joined("conv", "bias"), joined("bn", "weight"), joined("bn", "bias"), head, bias)


def statistics_of(models: Sequence[VGG]) -> Statistics:
    """The models' running means and variances side by side, as copies."""
    layers = list(zip(*(model.units for model in models), strict=True))
    means, variances = ([torch.cat([getattr(u.bn, name) for u in units]) for units in layers] for name in ("running_mean", "running_var"))
    return Statistics(means, variances)
