"""A network's gradient and the product of its Hessian with a vector, written out.

The product is Pearlmutter's R-operator ("Fast exact multiplication by the Hessian", Neural
Computation 6, 1994): every quantity of the forward and backward pass is differentiated along one
direction of the parameters, ``push`` through the forward pass and ``pull`` through the backward
pass. Autograd would build a graph of the backward pass instead, in which the backward pass of BN
alone takes a third of the time.

One network, in training mode, BN by batch statistics only. tests/networks/test_hessian.py holds all
to autograd's double backward in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolve.networks.fast.kernels import (
    Convolution,
    Norm,
    Tangent,
    as_maps,
    rectified,
    rectified_gradient,
)
from evolve.networks.fast.shape import Fused, Step, Weights, zeros_like

Maybe = Tensor | None
max_pool = torch.ops.aten.max_pool2d_with_indices.default
max_unpool = torch.ops.aten.max_pool2d_with_indices_backward.default


@dataclass
class Layer:
    """What the passes keep of one unit.

    ``t_``: the derivative along the direction; the rest is named as in the formulas of BN.
    """

    kernel: Convolution
    x: Tensor
    c: Tensor
    norm: Norm
    z: Tensor
    choices: Maybe = None
    g_z: Maybe = None  # gradient of z
    g_c: Maybe = None  # gradient of the convolution's output
    d_gamma: Maybe = None
    d_beta: Maybe = None
    t_x: Maybe = None
    tangent: Tangent | None = None


class Pass:
    """One forward pass, and what can be asked of it.

    Call :meth:`backward`, then :meth:`push`, then :meth:`pull`: each needs what the one before
    kept.

    Args:
        fused: the network's shapes.
        w: its weights.
        x: images [B, 3, S, S].

    Attributes:
        features: every unit's output [B, c, h, w], before its block's pool.
        logits: [B, classes].
    """

    def __init__(self, fused: Fused, w: Weights, x: Tensor) -> None:
        self.fused, self.w = fused, w
        self.layers: list[Layer] = []
        for step in fused.steps:
            x = self._pool(step, self._unit(step.convolution, x))
        self.embedded = fused.average(x)
        self.logits = torch.addmm(w.head_bias, self.embedded, w.head.t())
        self.features = [layer.z for layer in self.layers]

    def _unit(self, kernel: Convolution, x: Tensor) -> Tensor:
        number = len(self.layers)
        c = kernel.forward(x, self.w.conv[number])
        norm = Norm.of_batch(
            c, self.w.gamma[number], self.w.beta[number], self.w.bias[number], None
        )
        z = rectified(c, norm, pool=False)
        self.layers.append(Layer(kernel, x, c, norm, z))
        return z

    def _pool(self, step: Step, x: Tensor) -> Tensor:
        if not step.pool:
            return x
        pooled, self.layers[-1].choices = max_pool(x, [2, 2], [2, 2])
        return pooled

    def backward(
        self, g_logits: Maybe = None, g_features: Sequence[Maybe] | None = None
    ) -> Weights:
        """The parameters' gradient.

        Args:
            g_logits: that of the logits [B, classes]; None where they count for nothing.
            g_features: that of each unit's output, in the same sense.
        """
        into = zeros_like(self.w)
        g: Maybe = None
        if g_logits is not None:
            into.head.copy_(g_logits.t() @ self.embedded)
            into.head_bias.copy_(g_logits.sum(0))
            g = self.fused.spread(g_logits @ self.w.head)
        for number, layer in self._backwards():
            g = _sum(
                self._unpooled(layer, g), g_features[number] if g_features is not None else None
            )
            layer.g_z = layer.g_c = None
            if g is not None:
                g = self._unit_backward(number, layer, g, into)
        return into

    def _unit_backward(self, number: int, layer: Layer, g: Tensor, into: Weights) -> Maybe:
        layer.g_z, layer.d_gamma, layer.d_beta = g, into.gamma[number], into.beta[number]
        layer.g_c = rectified_gradient(g, layer.c, layer.norm, False, layer.d_gamma, layer.d_beta)
        layer.kernel.weight_gradient(layer.g_c, layer.x, into.conv[number])
        return layer.kernel.data_gradient(layer.g_c, self.w.conv[number]) if number else None

    def push(self, v: Weights) -> tuple[Tensor, list[Tensor]]:
        """How logits and features change along a direction.

        Args:
            v: a direction of the parameters.

        Returns:
            The changes, each in the shape of what changes.
        """
        t: Maybe = None
        features = []
        for number, layer in enumerate(self.layers):
            layer.t_x = t
            t_c = layer.kernel.forward(layer.x, v.conv[number])
            if t is not None:
                t_c += layer.kernel.forward(t, self.w.conv[number])
            gammas = self.w.gamma[number], v.gamma[number]
            t_z, layer.tangent = Tangent.pushed(t_c, layer.c, layer.norm, *gammas, v.beta[number])
            features.append(t_z)
            t = t_z if layer.choices is None else _picked(t_z, layer.choices)
        assert t is not None
        self._t_embedded = self.fused.average(t)
        t_logits = torch.addmm(v.head_bias, self.embedded, v.head.t()).addmm_(
            self._t_embedded, self.w.head.t()
        )
        return t_logits, features

    def pull(
        self,
        v: Weights,
        g_logits: Maybe,
        t_logits: Maybe,
        t_features: Sequence[Maybe] | None = None,
    ) -> Weights:
        """How :meth:`backward`'s gradient changes along a direction: the Hessian's product with it.

        Args:
            v: the direction last pushed.
            g_logits: what :meth:`backward` was given.
            t_logits, t_features: how the gradients that it was given change.
        """
        into = zeros_like(self.w)
        t: Maybe = None
        if g_logits is not None and t_logits is not None:
            into.head.copy_(
                torch.addmm(t_logits.t() @ self.embedded, g_logits.t(), self._t_embedded)
            )
            into.head_bias.copy_(t_logits.sum(0))
            t = self.fused.spread(torch.addmm(t_logits @ self.w.head, g_logits, v.head))
        for number, layer in self._backwards():
            t = _sum(
                self._unpooled(layer, t), t_features[number] if t_features is not None else None
            )
            if layer.g_c is not None:
                t = self._unit_pull(number, layer, t, v, into)
        return into

    def _unit_pull(self, number: int, layer: Layer, t: Maybe, v: Weights, into: Weights) -> Maybe:
        assert layer.g_z is not None and layer.g_c is not None and layer.tangent is not None
        assert layer.d_gamma is not None and layer.d_beta is not None
        affine = (layer.d_gamma, layer.d_beta), (into.gamma[number], into.beta[number])
        t_g = layer.tangent.pulled(layer.g_z, t, layer.g_c, *affine)
        layer.kernel.weight_gradient(t_g, layer.x, into.conv[number])
        if layer.t_x is None:
            return None
        layer.kernel.weight_gradient(layer.g_c, layer.t_x, into.conv[number])
        return layer.kernel.data_gradient(t_g, self.w.conv[number]) + layer.kernel.data_gradient(
            layer.g_c, v.conv[number]
        )

    def _unpooled(self, layer: Layer, g: Maybe) -> Maybe:
        if g is None or layer.choices is None:
            return g
        maps: Tensor = max_unpool(g, layer.z, [2, 2], [2, 2], [0, 0], [1, 1], False, layer.choices)
        return maps

    def _backwards(self) -> list[tuple[int, Layer]]:
        return list(enumerate(self.layers))[::-1]


def _picked(maps: Tensor, choices: Tensor) -> Tensor:
    """What a pool that chose ``choices`` takes of other maps."""
    batch, channels, side, _ = choices.shape
    rows = maps.permute(0, 2, 3, 1).reshape(batch, -1, channels)
    taken = rows.gather(1, choices.permute(0, 2, 3, 1).reshape(batch, -1, channels))
    return as_maps(taken.view(-1, channels), batch, side)


def _sum(a: Maybe, b: Maybe) -> Maybe:
    if a is None or b is None:
        return b if a is None else a
    return a + b
