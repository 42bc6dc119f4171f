"""The network of a plan: units of conv, BN and ReLU, pools, one FC.

A max pool follows each block, global average pooling the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evolve.networks.fast.fused import Embedding, passes
from evolve.networks.fast.shape import Fused, Statistics
from evolve.networks.network import Network, draw_kaiming, initialise
from evolve.networks.vgg_plan import Plan, VggPlan

__all__ = ["VGG", "Unit", "initialise"]


class Unit(nn.Module):
    """One integral layer: convolution, BN, ReLU.

    It is 3x3, padding 1, with bias, as in torchvision's vgg16_bn.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        # skip_init: the usual constructor would draw from the global random state.
        self.conv = nn.utils.skip_init(nn.Conv2d, c_in, c_out, kernel_size=3, padding=1)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, H, W]."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class VGG(Network):
    """The network of a plan; ancestor, descendant and pseudo-descendant alike (paper, 4.1).

    ``layers`` maps each layer's name to its :class:`Unit`, ``head`` is the FC. A new network is
    initialised from seed 0; call :func:`initialise` for a draw of your own. Weights lie in
    channels_last, the faster layout on CPUs. A map that is one pixel wide is not pooled further, so
    images may be smaller than 32 pixels. ``fused`` trains by
    :class:`evolve.networks.fast.fused.Embedding` on a CPU: the same mathematics, faster, with other
    rounding.

    Args:
        plan: the blocks.
        classes: outputs of the head.
    """

    def __init__(self, plan: Plan, classes: int) -> None:
        super().__init__()
        self.plan = self.architecture = VggPlan(plan)
        self.layers = nn.ModuleDict(
            {spec.name: Unit(spec.c_in, spec.c_out) for block in plan for spec in block}
        )
        self.head = nn.utils.skip_init(nn.Linear, plan[-1][-1].c_out, classes)
        self._passes: dict[int, Fused] = {}
        self.to(memory_format=torch.channels_last)
        initialise(self, 0)

    def embed(self, x: Tensor) -> Tensor:
        """Embed images: the last block's pooled maps, averaged over their pixels.

        Args:
            x: [B, 3, H, W].

        Returns:
            The head's input [B, c].
        """
        if self.fused and x.device.type == "cpu":
            if self.training:
                return self._embed_fused(x)
            if not torch.is_grad_enabled():
                return self._embed_judged(x)
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
        # From the modules' own dictionaries, whose tensors a plugin may replace at any step: asking
        # the modules takes longer than a small layer.
        convs, bns = [], []
        for unit in self.layers._modules.values():
            assert unit is not None
            convs.append(unit._modules["conv"]._parameters)  # type: ignore[union-attr]
            bns.append(unit._modules["bn"])
        learned, kept = [bn._parameters for bn in bns], [bn._buffers for bn in bns]  # type: ignore[union-attr]
        statistics = Statistics([b["running_mean"] for b in kept], [b["running_var"] for b in kept])  # type: ignore[misc]
        parameters = [
            part[name]
            for parts in (convs, learned)
            for name in ("weight", "bias")
            for part in parts
        ]
        torch._foreach_add_([b["num_batches_tracked"] for b in kept], 1)  # type: ignore[arg-type, misc]
        embedding: Tensor = Embedding.apply(
            self._passes_for(x.shape[-1]), statistics, x, *parameters
        )  # type: ignore[no-untyped-call]
        return embedding

    def _passes_for(self, size: int) -> Fused:
        """:func:`passes` of this plan: a plan's hash goes through all its layers."""
        if size not in self._passes:
            self._passes[size] = passes(self.plan, size)
        return self._passes[size]

    def _embed_judged(self, x: Tensor) -> Tensor:
        """In eval mode, where nobody asks for a gradient."""
        return self._passes_for(x.shape[-1]).eval_forward(*self._in_eval(), x)

    def _in_eval(self) -> tuple[list[Tensor], list[Sequence[Tensor]]]:
        """Every unit's weight and what BN does by its running statistics, as
        :meth:`Fused.eval_forward` takes them.
        """
        units = self.units
        norms: list[Sequence[Tensor]] = [
            (
                u.bn.weight,
                u.bn.bias,
                _known(u.conv.bias),
                _known(u.bn.running_mean),
                _known(u.bn.running_var),
            )
            for u in units
        ]
        return [unit.conv.weight for unit in units], norms

    def features(self, x: Tensor) -> list[Tensor]:
        """Every unit's output in order, each before its block's pooling.

        Args:
            x: images [B, 3, H, W].

        Returns:
            [B, c, h, w] each.
        """
        if (
            self.fused
            and x.device.type == "cpu"
            and not self.training
            and not torch.is_grad_enabled()
        ):
            return self._passes_for(x.shape[-1]).features(*self._in_eval(), x)
        features = []
        for block in self.plan:
            for spec in block:
                x = self.layers[spec.name](x)
                features.append(x)
            x = _pool(x)
        return features

    def draw(self, layer: str, seed: int, *purpose: str | int) -> None:
        """Draw a layer as torchvision draws VGGs: conv kaiming_normal (fan_out, ReLU) and bias 0.

        BN is the identity and forgets its statistics.

        Args:
            layer: its name.
            seed, purpose: name the draw.
        """
        unit = self.layers[layer]
        assert isinstance(unit, Unit)
        draw_kaiming(unit.conv.weight, seed, *purpose)
        _known(unit.conv.bias).zero_()
        unit.bn.reset_parameters()


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2) if min(x.shape[-2:]) > 1 else x
