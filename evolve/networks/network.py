"""What every network's module offers to the rooms.

These are layers by name, features, an embedding and a head.
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
    """A network of an :class:`Architecture` for some classes (paper, 4.1).

    Ancestor, descendant and pseudo-descendant are all of this kind. ``layers`` maps the name of
    every integral layer, in order, and of every extra to its module. They hold all weights but the
    ``head``'s. ``fused`` asks for the same mathematics by a faster way, with other rounding, where
    the family has one.
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
        """Every integral layer's output, in order, of images [B, 3, H, W].

        Returns:
            Maps [B, C, h, w] or tokens [B, T, D].
        """

    @abstractmethod
    def draw(self, layer: str, seed: int, *purpose: str | int) -> None:
        """Initialise one layer's tensors in place, each from its own generator.

        See :func:`draw_normal`.

        Args:
            layer: the layer's name.
            seed: seed of the draws.
            purpose: further names of the draws.
        """

    def draw_head(self, seed: int, *purpose: str | int) -> None:
        """Initialise the head: N(0, 0.01), bias 0."""
        draw_normal(self.head.weight, 0.01, seed, *purpose)
        self.head.bias.zero_()


def frozen(
    architecture: Architecture, state: Mapping[str, Tensor], device: torch.device
) -> Network:
    """The network that a state dict holds, in eval mode, with nothing to be trained.

    Args:
        architecture: its architecture.
        state: the state dict; its head may have any number of classes.
        device: where the network lies.
    """
    model = architecture.build(len(state["head.weight"]))
    model.load_state_dict(dict(state))
    return model.to(device).eval().requires_grad_(False)


@torch.no_grad()
def initialise(
    model: Network, seed: int, *purpose: str | int, names: Mapping[str, str] | None = None
) -> None:
    """Draw all weights anew, as the family's reference does.

    Every tensor has its own generator, made from (seed, purpose, layer name, shape). So a layer's
    draw depends neither on which other layers there are nor on device or dtype: it is drawn in
    float32 on the CPU.

    Args:
        model: the network, changed in place.
        seed: seed of the draws.
        purpose: further names of the draws.
        names: other names that layers have here.
    """
    for name in model.layers:
        model.draw(name, seed, *purpose, names[name] if names else name)
    model.draw_head(seed, *purpose, "head")


def draw_normal(weight: Tensor, std: float, seed: int, *purpose: str | int) -> None:
    """Draw N(0, std) into a tensor, in float32 on the CPU, from a generator of its own.

    Args:
        weight: the tensor, changed in place.
        std: standard deviation.
        seed: seed of the draw.
        purpose: further names of the draw.
    """
    draws = generator(seed, *purpose, *weight.shape)
    weight.copy_(torch.empty(weight.shape, dtype=torch.float32).normal_(0.0, std, generator=draws))


def draw_kaiming(weight: Tensor, seed: int, *purpose: str | int) -> None:
    """Draw a convolution's kaiming_normal (fan_out, ReLU), as torchvision does for VGGs and
    ResNets.

    Args:
        weight: [out, in, height, width], changed in place.
        seed: seed of the draw.
        purpose: further names of the draw.
    """
    fan_out = weight.shape[0] * math.prod(weight.shape[2:])
    draw_normal(weight, math.sqrt(2.0 / fan_out), seed, *purpose)
