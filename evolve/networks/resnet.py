"""The network of a :class:`ResNetPlan`: residual blocks of conv + BN, average pooling, one FC."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evolve.networks.fast.node import embedded
from evolve.networks.fast.residual import ResNetTrunk
from evolve.networks.network import Network, draw_kaiming, initialise
from evolve.networks.resnet_plan import Block, Conv, ResNetPlan


class Unit(nn.Module):
    """One integral layer: a convolution without bias, its BN and a ReLU.

    At the end of a residual block, the block's sum comes before the ReLU.
    """

    def __init__(self, spec: Conv) -> None:
        super().__init__()
        # skip_init: the usual constructor would draw from the global random state.
        self.conv = nn.utils.skip_init(
            nn.Conv2d,
            spec.c_in,
            spec.c_out,
            kernel_size=spec.kernel,
            stride=spec.stride,
            padding=spec.kernel // 2,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(spec.c_out)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute the layer's output.

        Args:
            x: [B, c_in, H, W].
            residual: at the end of a residual block, what is added: [B, c_out, h, w].

        Returns:
            [B, c_out, h, w].
        """
        normed: Tensor = self.bn(self.conv(x))
        return F.relu(normed if residual is None else normed + residual, inplace=True)


class Shortcut(nn.Module):
    """1x1 convolution without bias and BN.

    It steps over pixels before the convolution, not in it: the backward pass of oneDNN's strided
    1x1 convolution may crash on narrow maps.
    """

    def __init__(self, spec: Conv) -> None:
        super().__init__()
        self.stride = spec.stride
        self.conv = nn.utils.skip_init(nn.Conv2d, spec.c_in, spec.c_out, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(spec.c_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, h, w]."""
        normed: Tensor = self.bn(self.conv(x[:, :, :: self.stride, :: self.stride]))
        return normed


class ResNet(Network):
    """The network of ``plan`` for ``classes`` classes: ResNet18, ResNet12 and what lies between.

    ``layers`` maps the integral layers' names to their :class:`Unit`, the extras' to their
    :class:`Shortcut`. Weights lie in channels_last, the faster layout on CPUs. A new network is
    initialised from seed 0. ``fused`` embeds by :mod:`evolve.networks.fast.node` on a CPU.
    """

    architecture: ResNetPlan

    def __init__(self, plan: ResNetPlan, classes: int) -> None:
        super().__init__()
        self.architecture = plan
        convs = plan.convs
        units = {name: Unit(convs[name]) for name in plan.layer_names}
        self.layers = nn.ModuleDict(
            {**units, **{name: Shortcut(convs[name]) for name in plan.extras}}
        )
        self.head = nn.utils.skip_init(nn.Linear, plan.blocks[-1].convs[-1].c_out, classes)
        self.to(memory_format=torch.channels_last)
        initialise(self, 0)

    def embed(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> the head's input [B, c].

        It is the last block's (pooled) maps, averaged over their pixels.
        """
        if (written := embedded(ResNetTrunk, self, x)) is not None:
            return written
        for block in self.architecture.blocks:
            x = _pool(self._outputs(block, x)[-1], block.pool)
        return x.mean((2, 3))

    def features(self, x: Tensor) -> list[Tensor]:
        """Every integral layer's output of images [B, 3, H, W], after its ReLU and before a pool.

        The last layer of a residual block puts out the block's sum: what comes after it sees
        nothing else of it.

        Returns:
            Maps [B, C, h, w], in order.
        """
        outputs = []
        for block in self.architecture.blocks:
            outputs += self._outputs(block, x)
            x = _pool(outputs[-1], block.pool)
        return outputs

    def _outputs(self, block: Block, x: Tensor) -> list[Tensor]:
        """What the block's convolutions put out."""
        shortcut = self.layers[block.shortcut.name](x) if block.shortcut else x
        outputs = [x]
        for conv in block.convs[:-1]:
            outputs.append(self.layers[conv.name](outputs[-1]))
        outputs.append(
            self.layers[block.convs[-1].name](outputs[-1], shortcut if block.residual else None)
        )
        return outputs[1:]

    def draw(self, layer: str, seed: int, *purpose: str | int) -> None:
        """Draw a layer as torchvision draws its ResNets: conv kaiming_normal (fan_out, ReLU).

        BN is the identity and forgets its statistics. See :meth:`Network.draw`.
        """
        unit = self.layers[layer]
        assert isinstance(unit, (Unit, Shortcut))
        draw_kaiming(unit.conv.weight, seed, *purpose)
        unit.bn.reset_parameters()


def _pool(x: Tensor, size: int) -> Tensor:
    """Max pool of ``size`` pixels with stride 2, to the half rounded up, as a stride of 2 would; 0:
    none.
    """
    return F.max_pool2d(x, size, stride=2, padding=size // 3, ceil_mode=size == 2) if size else x
