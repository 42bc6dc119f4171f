"""The network of a plan: conv + BN + ReLU units, a max pool after each block, global average pooling, one FC."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evolve.networks.fused import Embedding, Statistics, passes
from evolve.networks.plan import Plan
from evolve.randomness import generator


class Unit(nn.Module):
    """One integral layer: 3x3 convolution (padding 1, with bias, as in torchvision's vgg16_bn), BN, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        # skip_init: the usual constructor would draw from the global random state.
        self.conv = nn.utils.skip_init(nn.Conv2d, c_in, c_out, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class VGG(nn.Module):
    """The network of ``plan`` for ``classes`` classes; ancestor, descendant and pseudo-descendant alike (SPEC 3).

    ``layers`` maps each layer's name to its :class:`Unit`, ``head`` is the FC. A new network is initialised from seed 0;
    call :func:`initialise` for a draw of your own. Weights lie in channels_last, the faster layout on CPUs. A map that is
    one pixel wide is not pooled further, so images may be smaller than 32 pixels. ``fused`` trains by :class:`evolve.networks.fused.Embedding`
    on a CPU: the same mathematics, faster, with other rounding.
    """

    layers: nn.ModuleDict
    head: nn.Linear
    fused: bool = False

    def __init__(self, plan: Plan, classes: int) -> None:
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleDict({spec.name: Unit(spec.c_in, spec.c_out) for block in plan for spec in block})
        self.head = nn.utils.skip_init(nn.Linear, plan[-1][-1].c_out, classes)
        self.to(memory_format=torch.channels_last)
        initialise(self, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> logits [B, classes]."""
        return self.head(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> the head's input [B, c]: the last block's pooled maps, averaged over their pixels."""
        if self.fused and self.training and x.device.type == "cpu":
            return self._embed_fused(x)
        for block in self.plan:
            for spec in block:
                x = self.layers[spec.name](x)
            x = _pool(x)
        return x.mean((2, 3))

    @property
    def units(self) -> list[Unit]:
        """The integral layers, from input to output."""
        return list(self.layers.values())  # type: ignore[arg-type]

    def _embed_fused(self, x: Tensor) -> Tensor:
        convs, bns = [unit.conv for unit in self.units], [unit.bn for unit in self.units]
        statistics = Statistics([_known(bn.running_mean) for bn in bns], [_known(bn.running_var) for bn in bns])
        parameters = [conv.weight for conv in convs], [_known(conv.bias) for conv in convs], [bn.weight for bn in bns], [bn.bias for bn in bns]
        torch._foreach_add_([_known(bn.num_batches_tracked) for bn in bns], 1)
        fused = passes(self.plan, x.shape[-1], len(x))
        found: Tensor = Embedding.apply(fused, statistics, x, *(p for part in parameters for p in part))  # type: ignore[no-untyped-call]
        return found

    def features(self, x: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> every unit's output [B, c, h, w] in order, each before its block's pooling."""
        found = []
        for block in self.plan:
            for spec in block:
                x = self.layers[spec.name](x)
                found.append(x)
            x = _pool(x)
        return found


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2) if min(x.shape[-2:]) > 1 else x


@torch.no_grad()
def initialise(model: VGG, seed: int, *purpose: str | int, names: Mapping[str, str] | None = None) -> None:
    """Draw all weights anew, as torchvision does for VGG: conv kaiming_normal (fan_out, ReLU), linear N(0, 0.01), biases 0;
    BN is the identity and forgets its statistics.

    Every tensor has its own generator, made from (seed, purpose, layer name, shape): a layer's draw depends neither on
    which other layers there are nor on device or dtype (drawn in float32 on the CPU). ``names`` gives layers another name here.
    """
    for name, unit in model.layers.items():
        assert isinstance(unit, Unit)
        weight = unit.conv.weight
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        _normal(weight, math.sqrt(2.0 / fan_out), seed, *purpose, names[name] if names else name)
        if unit.conv.bias is not None:
            unit.conv.bias.zero_()
        unit.bn.reset_parameters()
    _normal(model.head.weight, 0.01, seed, *purpose, "head")
    model.head.bias.zero_()


def _normal(weight: Tensor, std: float, seed: int, *purpose: str | int) -> None:
    draw = generator(seed, *purpose, *weight.shape)
    weight.copy_(torch.empty(weight.shape, dtype=torch.float32).normal_(0.0, std, generator=draw))
