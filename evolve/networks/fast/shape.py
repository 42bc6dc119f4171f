"""The shapes and buffers that fast passes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evolve.networks.fast.kernels import (
    Convolution,
    Norm,
    as_maps,
    as_rows,
    channels_last,
    rectified,
)
from evolve.networks.vgg_plan import Plan


@dataclass(frozen=True)
class Weights:
    """A network's parameters, layer by layer.

    A gradient has the same shapes; its ``bias`` stays zero.

    Attributes:
        conv: [c_out, c_in, 3, 3], in channels_last memory.
        bias, gamma, beta: [c_out].
        head: [classes, c].
        head_bias: [classes].
    """

    conv: Sequence[Tensor]
    bias: Sequence[Tensor]
    gamma: Sequence[Tensor]
    beta: Sequence[Tensor]
    head: Tensor
    head_bias: Tensor


def zeros_like(w: Weights) -> Weights:
    """A gradient to add to.

    Args:
        w: the weights that it is of.
    """
    conv, bias, gamma, beta = (
        [torch.zeros_like(p) for p in part] for part in (w.conv, w.bias, w.gamma, w.beta)
    )
    return Weights(conv, bias, gamma, beta, torch.zeros_like(w.head), torch.zeros_like(w.head_bias))


def flat_zeros(
    layers: Sequence[tuple[int, int]], classes: int, dtype: torch.dtype
) -> tuple[Tensor, Weights]:
    """Zeros for a network's parameters, all in one tensor, the convolutions' weights first.

    Args:
        layers: (c_in, c_out) of each convolution.
        classes: outputs of the head.
        dtype: of the numbers.

    Returns:
        The tensor, and views into it.
    """
    n, outs, last = len(layers), [c_out for _, c_out in layers], layers[-1][1]
    sizes = [9 * c_in * c_out for c_in, c_out in layers]
    values = torch.zeros(sum(sizes) + 3 * sum(outs) + classes * (last + 1), dtype=dtype)
    conv, at = [], 0
    for (c_in, c_out), size in zip(
        layers, sizes, strict=True
    ):  # a view in one call: this is done at every step of an ancestor
        conv.append(values.as_strided((c_out, c_in, 3, 3), (9 * c_in, 1, 3 * c_in, c_in), at))
        at += size
    *vectors, head, head_bias = values[at:].split_with_sizes(
        [*outs, *outs, *outs, classes * last, classes]
    )
    return values, Weights(
        conv, vectors[:n], vectors[n : 2 * n], vectors[2 * n :], head.view(classes, last), head_bias
    )


@dataclass(frozen=True)
class Statistics:
    """BN's running means and variances, [c_out] a layer; updated in place by training passes."""

    mean: Sequence[Tensor]
    var: Sequence[Tensor]


@dataclass(frozen=True)
class Step:
    """One layer of the plan: its convolution, and whether its block's pool follows."""

    convolution: Convolution
    pool: bool


class Fused:
    """Passes of a network. It holds shapes, no parameters.

    Args:
        plan: the blocks.
        size: pixels of an image's side. A map that is one pixel wide is not pooled further.
    """

    def __init__(self, plan: Plan, size: int) -> None:
        self.steps: list[Step] = []
        side = size
        for block in plan:
            for spec in block:
                self.steps.append(
                    Step(Convolution(side, spec.c_in, spec.c_out), side > 1 and spec is block[-1])
                )
            side = max(1, side // 2)
        self.layers = [(step.convolution.c_in, step.convolution.c_out) for step in self.steps]
        self.side = side  # of the maps that the head averages over

    def average(self, maps: Tensor) -> Tensor:
        """The head's input: the mean over the pixels that are left.

        Args:
            maps: behind the last pool, [B, c, side, side].

        Returns:
            [B, c].
        """
        rows = as_rows(maps)
        return rows.view(len(maps), self.side**2, -1).mean(1) if self.side > 1 else rows

    def spread(self, g: Tensor) -> Tensor:
        """The gradient of :meth:`average`.

        Args:
            g: that of its output, [B, c].

        Returns:
            [B, c, side, side].
        """
        pixels = self.side**2
        rows = (
            g
            if pixels == 1
            else (g / pixels).unsqueeze(1).expand(-1, pixels, -1).reshape(len(g) * pixels, -1)
        )
        return as_maps(rows.contiguous(), len(g), self.side)

    def eval_forward(
        self, conv: Sequence[Tensor], norms: Sequence[Sequence[Tensor]], x: Tensor
    ) -> Tensor:
        """Embed images in eval mode.

        Args:
            conv: the convolutions' weights.
            norms: for every layer what :meth:`Norm.in_eval` takes.
            x: images [B, 3, size, size].

        Returns:
            The head's input [B, c].
        """
        maps = channels_last(x)
        for step, weight, norm in zip(self.steps, conv, norms, strict=True):
            maps = rectified(step.convolution.forward(maps, weight), Norm.in_eval(*norm), step.pool)
        return self.average(maps)

    def features(
        self, conv: Sequence[Tensor], norms: Sequence[Sequence[Tensor]], x: Tensor
    ) -> list[Tensor]:
        """Every layer's maps in eval mode, each before its block's pool.

        Args:
            conv, norms, x: as :meth:`eval_forward`'s.

        Returns:
            [B, c, h, w] a layer.
        """
        features: list[Tensor] = []
        maps = channels_last(x)
        for step, weight, norm in zip(self.steps, conv, norms, strict=True):
            features.append(
                rectified(step.convolution.forward(maps, weight), Norm.in_eval(*norm), False)
            )
            maps = F.max_pool2d(features[-1], 2) if step.pool else features[-1]
        return features

    def evaluate(self, w: Weights, statistics: Statistics, x: Tensor) -> Tensor:
        """Classify images in eval mode.

        Args:
            w: the weights.
            statistics: BN's.
            x: images [B, 3, size, size].

        Returns:
            Logits [B, classes].
        """
        norms = list(zip(w.gamma, w.beta, w.bias, statistics.mean, statistics.var, strict=True))
        return torch.addmm(w.head_bias, self.eval_forward(w.conv, norms, x), w.head.t())
