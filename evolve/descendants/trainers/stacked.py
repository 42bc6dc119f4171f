"""Several VGGs of one plan as one network over tensors [K, ...], one slice a member.

A GPU trains descendants by it. A small network at a batch of 16 keeps a GPU busy for microseconds a
kernel, and K of them have K times as many kernels. Stacked they have as many as one: convolutions
are batched matrix products over unfolded maps, and everything else knows channels only. No number
of a member hangs on another's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable

from evolve.networks.vgg import VGG

Tensors = Mapping[str, Tensor]


class Stack:
    """Copies of the members' tensors, [K, ...] each, by their names in a member's state dict.

    Args:
        models: the members', of one plan.

    Attributes:
        parameters, buffers: the copies.
    """

    def __init__(self, models: Sequence[VGG]) -> None:
        self.models, self.plan = list(models), models[0].plan
        self.parameters = _stacked([dict(model.named_parameters()) for model in models])
        self.buffers = _stacked([dict(model.named_buffers()) for model in models])

    @torch.no_grad()
    def unstack(self) -> None:
        """Put what was learned into the models."""
        for number, model in enumerate(self.models):
            for name, tensor in model.state_dict().items():
                tensor.copy_(
                    (self.parameters if name in self.parameters else self.buffers)[name][number]
                )

    def logits(self, images: Tensor, parameters: Tensors, training: bool) -> Tensor:
        """Classify each member's own images. In training BN's statistics move.

        Args:
            images: [K, B, 3, S, S].
            parameters: as :attr:`parameters`.
            training: whether BN uses the batches' statistics.

        Returns:
            [K, B, classes].
        """
        x = images.transpose(1, 2)  # channels before images, here and below: [K, C, B, S, S]
        for block in self.plan:
            for spec in block:
                x = self._unit(spec.name, x, parameters, training)
            x = _pool(x)
        head, bias = parameters["head.weight"], parameters["head.bias"]
        return torch.baddbmm(bias[:, None], x.mean((3, 4)).transpose(1, 2), head.transpose(1, 2))

    def _unit(self, layer: str, x: Tensor, parameters: Tensors, training: bool) -> Tensor:
        """Convolution, BN and ReLU.

        BN takes the convolution's bias out again, so only the running mean has to hear of it.
        """
        conv, bn = f"layers.{layer}.conv.", f"layers.{layer}.bn."
        c = Convolution.apply(x, parameters[conv + "weight"])  # type: ignore[no-untyped-call]
        members, channels, _, _, side = c.shape
        bias, mean = (
            parameters[conv + "bias"].detach().view(-1),
            self.buffers[bn + "running_mean"].view(-1),
        )
        without = mean - bias
        module: Any = self.models[0].layers[layer]
        z = F.batch_norm(
            c.view(1, members * channels, -1, side),
            without,
            self.buffers[bn + "running_var"].view(-1),
            parameters[bn + "weight"].view(-1),
            parameters[bn + "bias"].view(-1),
            training,
            module.bn.momentum,
            module.bn.eps,
        )
        if training:
            torch.add(without, bias, out=mean)
            self.buffers[bn + "num_batches_tracked"] += 1
        return F.relu(z, inplace=True).view(c.shape)


class Convolution(torch.autograd.Function):
    """3x3, padding 1, no bias: x [K, C, B, S, S], weight [K, D, C, 3, 3] -> [K, D, B, S, S].

    Every sum has a fixed order.
    """

    @staticmethod
    @custom_fwd(device_type="cuda", cast_inputs=torch.bfloat16)  # under autocast, that is
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        columns, kernel = unfolded(x), weight.flatten(2)
        ctx.save_for_backward(columns, weight)
        return torch.bmm(kernel, columns).view(*weight.shape[:2], *x.shape[2:])

    @staticmethod
    @custom_bwd(device_type="cuda")
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor]:
        columns, weight = ctx.saved_tensors
        g = g.contiguous()
        g_weight = torch.bmm(g.flatten(2), columns.transpose(1, 2)).view_as(weight)
        if not ctx.needs_input_grad[0]:
            return None, g_weight
        turned = weight.flip(3, 4).transpose(1, 2).flatten(2)
        return torch.bmm(turned, unfolded(g)).view(
            len(weight), weight.shape[2], *g.shape[2:]
        ), g_weight


def unfolded(x: Tensor) -> Tensor:
    """For each pixel the 3x3 around it, zeros beyond the border.

    Args:
        x: [K, C, B, S, S].

    Returns:
        [K, C * 9, B * S * S].
    """
    members, channels, images, side, _ = x.shape
    padded = F.pad(x, (1, 1, 1, 1))
    k, c, b, line, pixel = padded.stride()
    windows = padded.as_strided(
        (members, channels, 3, 3, images, side, side), (k, c, line, pixel, b, line, pixel)
    )
    return windows.reshape(members, channels * 9, images * side * side)


def _pool(x: Tensor) -> Tensor:
    """As a VGG pools, [K, C, B, S, S]."""
    if x.shape[-1] == 1:
        return x
    return F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def _stacked(parts: Sequence[Tensors]) -> dict[str, Tensor]:
    return {
        name: torch.stack([part[name].detach().contiguous() for part in parts]) for name in parts[0]
    }
