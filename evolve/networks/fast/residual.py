"""A ResNet's learner: its training passes are bound, its tests ask kernel by kernel.

Convolutions of 3x3 without a stride, BN, ReLU and a block's sum are compiled kernels. A shortcut is
a matrix product over pixels, and the few other convolutions (with a stride, or 7x7) are torch's.
All maps are [B, C, S, S] in channels_last memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evolve.networks.fast.kernels import (
    Convolution,
    Norm,
    channels_last,
    joined,
    rectified,
)
from evolve.networks.fast.residual_bound import Passes, window
from evolve.networks.fast.written import Trunk, Written
from evolve.networks.resnet_plan import Block, Conv, ResNetPlan

max_pool = torch.ops.aten.max_pool2d_with_indices.default


class ResNetTrunk(Trunk):
    """A :class:`evolve.networks.fast.written.Trunk` for ResNets."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The network's."""
        assert isinstance(self.plan, ResNetPlan)
        return self.plan.blocks

    def bind(self, batch: int) -> Passes:
        """See :class:`evolve.networks.fast.written.Trunk`."""
        maps = self.blocks, self.size, batch, self.shared
        return Passes(*maps, self.w, self.g, self.buffers)

    def judged(self, images: Tensor) -> Tensor:
        """See :class:`evolve.networks.fast.written.Trunk`."""
        x = channels_last(images)
        for block in self.blocks:
            x = self._block(block, x)
            if block.pool:
                x, _ = max_pool(x, *window(block.pool))
        return x.mean((2, 3))

    def _block(self, block: Block, x: Tensor) -> Tensor:
        past = self._unit(block.shortcut, x) if block.shortcut else (x, _identity(x))
        out = x
        for conv in block.convs:
            own = self._unit(conv, out)
            end = conv is block.convs[-1] and block.residual
            out = joined(*own, *past) if end else rectified(*own, pool=False)
        return out

    def _unit(self, conv: Conv, x: Tensor) -> tuple[Tensor, Norm]:
        """A convolution's output, and its BN by running statistics."""
        name = f"layers.{conv.name}"
        weight, bn = self.w[f"{name}.conv.weight"], f"{name}.bn"
        if conv.kernel == 3 and conv.stride == 1:
            c = Convolution(x.shape[-1], conv.c_in, conv.c_out).forward(x, weight)
        elif conv.kernel == 1:
            c = torch.conv2d(x[:, :, :: conv.stride, :: conv.stride], weight)
        else:
            c = torch.conv2d(x, weight, None, conv.stride, conv.kernel // 2)
        moved = self.buffers[f"{bn}.running_mean"], self.buffers[f"{bn}.running_var"]
        gamma, beta = self.w[f"{bn}.weight"], self.w[f"{bn}.bias"]
        return c, Norm.in_eval(gamma, beta, torch.zeros_like(beta), *moved)


class WrittenResNet(Written):
    """A :class:`evolve.networks.fast.written.Written` for ResNets."""

    kind = ResNetTrunk


def _identity(x: Tensor) -> Norm:
    """What leaves maps as they are."""
    ones, zeros = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    return Norm(ones, zeros, zeros, ones)
