"""A side of a comparison, and the arithmetic of what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch

from evolve.networks.architecture import Architecture
from evolve.networks.resnet_plan import ResNetPlan
from evolve.networks.vgg_plan import VggPlan
from evolve.networks.vit_plan import ViTPlan


class Side(Protocol):
    """One side, ready to run. ``info`` is JSON-able: choices that were made by measuring."""

    info: dict[str, Any]

    def prepare(self) -> None:
        """Fresh weights and folders; not timed."""
        ...

    def run(self, amount: int) -> int:
        """Train for ``amount`` units (epochs or iterations); how many training images that was."""
        ...


def train_flops(plan: Architecture, size: int) -> float:
    """Nominal operations to train one image of ``size`` pixels a side.

    There are two a multiply-add of the layers' forward pass, weight gradient and (but for the first
    one) data gradient. Nothing else counts: normalisation, pooling, optimizer, testing.
    """
    return 2e9 * (3 * plan.macs(size) - _first(plan).macs(size))


def _first(plan: Architecture) -> Architecture:
    """The network's first layer."""
    if isinstance(plan, VggPlan):
        return VggPlan(((plan[0][0],),))
    if isinstance(plan, ResNetPlan):
        block = plan.blocks[0]
        return ResNetPlan((replace(block, convs=block.convs[:1], shortcut=None),))
    assert isinstance(plan, ViTPlan)
    return replace(plan, blocks=())


def barrier(device: torch.device) -> Callable[[], None]:
    """What to call before reading a clock."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
