"""What every network's module offers to the rooms: layers by name, features, an embedding and a
head.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evolve.core.randomness import generator
from evolve.networks.architecture import Architecture


class Network(nn.Module):
    """A network of an :class:`Architecture` for some classes: ancestor, descendant and
    pseudo-descendant alike (paper, 4.1).

    ``layers`` maps the name of every integral layer, in order, and of every extra to its module;
    all weights but the ``head``'s lie in there. ``fused`` asks for the same mathematics by a faster
    way, with other rounding, where the family has one.
    """

    architecture: Architecture
    layers: nn.ModuleDict
    head: nn.Linear
    fused: bool = False

    def forward(self, x: Tensor) -> Any:
        """Images [B, 3, H, W] -> logits [B, classes]."""
        return self.head(self.embed(x))

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> the head's input [B, c]."""

    @abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """Images -> every integral layer's output in order: maps [B, C, h, w] or tokens [B, T, D]."""

    @abstractmethod
    def draw(self, layer: str, seed: int, *purpose: str | int) -> None:
        """Initialise one layer's tensors in place, each from its own generator; see
        :func:`draw_normal`.
        """

    def draw_head(self, seed: int, *purpose: str | int) -> None:
        """Initialise the head: N(0, 0.01), bias 0."""
        draw_normal(self.head.weight, 0.01, seed, *purpose)
        self.head.bias.zero_()


def frozen(
    architecture: Architecture, state: Mapping[str, Tensor], device: torch.device
) -> Network:
    """The network that a state dict holds, whatever classes its head has: in eval mode, nothing of
    it to be trained.
    """
    model = architecture.build(len(state["head.weight"]))
    model.load_state_dict(dict(state))
    return model.to(device).eval().requires_grad_(False)


@torch.no_grad()
def initialise(
    model: Network, seed: int, *purpose: str | int, names: Mapping[str, str] | None = None
) -> None:
    """Draw all weights anew, as the family's reference does.

    Every tensor has its own generator, made from (seed, purpose, layer name, shape): a layer's draw
    depends neither on which other layers there are nor on device or dtype (drawn in float32 on the
    CPU). ``names`` gives layers another name here.
    """
    for name in model.layers:
        model.draw(name, seed, *purpose, names[name] if names else name)
    model.draw_head(seed, *purpose, "head")


def draw_normal(weight: Tensor, std: float, seed: int, *purpose: str | int) -> None:
    """N(0, std) from a generator of its own, drawn in float32 on the CPU."""
    made = generator(seed, *purpose, *weight.shape)
    weight.copy_(torch.empty(weight.shape, dtype=torch.float32).normal_(0.0, std, generator=made))


def draw_kaiming(weight: Tensor, seed: int, *purpose: str | int) -> None:
    """A convolution's kaiming_normal (fan_out, ReLU), as torchvision draws its VGGs and ResNets."""
    fan_out = weight.shape[0] * math.prod(weight.shape[2:])
    draw_normal(weight, math.sqrt(2.0 / fan_out), seed, *purpose)
