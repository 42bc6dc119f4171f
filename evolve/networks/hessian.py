"""A network's gradient and the product of its Hessian with a vector, written out.

The product is Pearlmutter's R-operator ("Fast exact multiplication by the Hessian", Neural Computation 6, 1994): every quantity of the forward
and backward pass is differentiated along one direction of the parameters, ``push`` through the forward pass and ``pull`` through the backward
pass. Autograd would build a graph of the backward pass instead, in which the backward pass of BN alone takes a third of the time.

One network, in training mode, BN by batch statistics only. tests/networks/test_hessian.py holds all to autograd's double backward in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evolve.networks.fused import EPS, Block, Fused, Weights, bn_gradient, max_pool, max_unpool, relu_gradient, zeros_like
from evolve.networks.kernels import Kernel, as_maps, as_rows

Maybe = Tensor | None


@dataclass
class Layer:
    """What the passes keep of one unit. ``t_``: the derivative along the direction; the rest as in the paper-and-pencil formulas of BN."""

    kernel: Kernel
    x: Tensor
    c: Tensor
    mean: Tensor
    invstd: Tensor
    z: Tensor
    choices: Maybe = None
    g_n: Maybe = None  # gradient of BN's output, behind the ReLU's mask
    g_c: Maybe = None  # gradient of the convolution's output
    d_gamma: Maybe = None
    d_beta: Maybe = None
    t_x: Maybe = None
    hat: Maybe = None  # rows of the normalised c
    t_hat: Maybe = None
    growth: Maybe = None  # derivative of the standard deviation over itself


class Pass:
    """One forward pass of the network with weights ``w`` on images x [B, 3, S, S], and what can be asked of it.

    ``features``: every unit's output [B, c, h, w] (before its block's pool); ``logits`` [B, classes]. Call ``backward``, then ``push``,
    then ``pull``: each needs what the one before kept.
    """

    def __init__(self, fused: Fused, w: Weights, x: Tensor) -> None:
        self.fused, self.w = fused, w
        self.layers: list[Layer] = []
        for block in fused.blocks:
            for kernel in block.kernels:
                x = self._unit(kernel, x)
            x = self._pool(block, x)
        self.embedded = fused.average(as_rows(x)).flatten(1)
        self.logits = torch.addmm(w.head_bias[0], self.embedded, w.head[0].t())
        self.features = [layer.z for layer in self.layers]

    def _unit(self, kernel: Kernel, x: Tensor) -> Tensor:
        number = len(self.layers)
        c = kernel.forward(x, self.w.conv[number])
        z, mean, invstd = torch.native_batch_norm(c, self.w.gamma[number], self.w.beta[number], None, None, True, 0.0, EPS)
        self.layers.append(Layer(kernel, x, c, mean, invstd, z.clamp_min_(0)))
        return z

    def _pool(self, block: Block, x: Tensor) -> Tensor:
        if not block.pools:
            return x
        pooled, self.layers[-1].choices = max_pool(x, [2, 2], [2, 2])
        return pooled

    def backward(self, g_logits: Maybe = None, g_features: Sequence[Maybe] | None = None) -> Weights:
        """The parameters' gradient, given those of the logits [B, classes] and of the features; None where one counts for nothing."""
        into = zeros_like(self.w)
        g: Maybe = None
        if g_logits is not None:
            into.head[0].copy_(g_logits.t() @ self.embedded)
            into.head_bias[0].copy_(g_logits.sum(0))
            g = self._from_embedded(g_logits @ self.w.head[0])
        for number, layer in self._backwards():
            g = _sum(self._unpooled(layer, g), g_features[number] if g_features is not None else None)
            layer.g_n = layer.g_c = None
            if g is not None:
                g = self._unit_backward(number, layer, g, into)
        return into

    def _unit_backward(self, number: int, layer: Layer, g: Tensor, into: Weights) -> Maybe:
        layer.g_n = relu_gradient(g, layer.z, 0)
        wanted = [True, True, True]
        layer.g_c, layer.d_gamma, layer.d_beta = bn_gradient(
            layer.g_n, layer.c, self.w.gamma[number], None, None, layer.mean, layer.invstd, True, EPS, wanted
        )
        into.gamma[number].copy_(layer.d_gamma)  # type: ignore[arg-type]
        into.beta[number].copy_(layer.d_beta)  # type: ignore[arg-type]
        layer.kernel.weight_gradient(layer.g_c, layer.x, into.conv[number])
        return layer.kernel.data_gradient(layer.g_c, self.w.conv[number]) if number else None

    def push(self, v: Weights) -> tuple[Tensor, list[Tensor]]:
        """How logits and features change along ``v``, a direction of the parameters."""
        t: Maybe = None
        features = []
        for number, layer in enumerate(self.layers):
            layer.t_x = t
            t_c = layer.kernel.forward(layer.x, v.conv[number])
            if t is not None:
                t_c += layer.kernel.forward(t, self.w.conv[number])
            t_z = self._push_bn(number, layer, t_c, v)
            features.append(t_z)
            t = t_z if layer.choices is None else _picked(t_z, layer.choices)
        assert t is not None
        self._t_embedded = self.fused.average(as_rows(t)).flatten(1)
        t_logits = torch.addmm(v.head_bias[0], self.embedded, v.head[0].t()).addmm_(self._t_embedded, self.w.head[0].t())
        return t_logits, features

    def _push_bn(self, number: int, layer: Layer, t_c: Tensor, v: Weights) -> Tensor:
        """BN and ReLU: with ^c = (c - mean) / std, d^c = (dc - mean dc - ^c mean(^c dc)) / std."""
        rows, invstd = _Wide(t_c), layer.invstd
        hat = _Wide(layer.c).affine(invstd, -layer.mean * invstd)
        dc = rows.flat
        mean, cross = rows.mean(dc), rows.mean(dc * hat)
        layer.growth = cross * invstd
        t_hat = rows.affine(invstd, -mean * invstd, dc)
        t_hat = rows.add_scaled(t_hat, hat, -layer.growth)
        layer.hat, layer.t_hat = hat, t_hat
        t_n = rows.affine(self.w.gamma[number], v.beta[number], t_hat)
        t_n = rows.add_scaled(t_n, hat, v.gamma[number])
        return relu_gradient(rows.maps(t_n), layer.z, 0)

    def pull(self, v: Weights, g_logits: Maybe, t_logits: Maybe, t_features: Sequence[Maybe] | None = None) -> Weights:
        """How the gradient of :meth:`backward` changes along ``v``: the Hessian's product with it.

        ``g_logits``: what backward was given; ``t_logits``, ``t_features``: how the gradients that it was given change.
        """
        into = zeros_like(self.w)
        t: Maybe = None
        if g_logits is not None and t_logits is not None:
            into.head[0].copy_(torch.addmm(t_logits.t() @ self.embedded, g_logits.t(), self._t_embedded))
            into.head_bias[0].copy_(t_logits.sum(0))
            t = self._from_embedded(torch.addmm(t_logits @ self.w.head[0], g_logits, v.head[0]))
        for number, layer in self._backwards():
            t = _sum(self._unpooled(layer, t), t_features[number] if t_features is not None else None)
            if layer.g_c is not None:
                t = self._unit_pull(number, layer, t, v, into)
        return into

    def _unit_pull(self, number: int, layer: Layer, t: Maybe, v: Weights, into: Weights) -> Maybe:
        t_g = self._pull_bn(number, layer, t, v, into)
        assert layer.g_c is not None
        layer.kernel.weight_gradient(t_g, layer.x, into.conv[number])
        if layer.t_x is None:
            return None
        layer.kernel.weight_gradient(layer.g_c, layer.t_x, into.conv[number])
        return layer.kernel.data_gradient(t_g, self.w.conv[number]) + layer.kernel.data_gradient(layer.g_c, v.conv[number])

    def _pull_bn(self, number: int, layer: Layer, t: Maybe, v: Weights, into: Weights) -> Tensor:
        """ReLU and BN: the derivative of g_c = (^g - mean ^g - ^c mean(^g ^c)) / std, where ^g = gamma g_n."""
        assert layer.g_n is not None and layer.g_c is not None and layer.hat is not None and layer.t_hat is not None
        assert layer.d_gamma is not None and layer.d_beta is not None and layer.growth is not None
        rows, invstd, gamma = _Wide(layer.g_n), layer.invstd, self.w.gamma[number]
        g_n, count = rows.flat, layer.g_n.numel() // layer.g_n.shape[1]
        t_gamma, t_beta = rows.mean(g_n * layer.t_hat) * count, torch.zeros_like(gamma)
        along = rows.affine(v.gamma[number] * invstd, None, g_n)  # d^g / std
        if t is not None:
            t_n = _Wide(relu_gradient(t, layer.z, 0)).flat
            t_gamma, t_beta = t_gamma + rows.mean(t_n * layer.hat) * count, rows.mean(t_n) * count
            along = rows.add_scaled(along, t_n, gamma * invstd)
        into.gamma[number].copy_(t_gamma)
        into.beta[number].copy_(t_beta)
        mean = (v.gamma[number] * layer.d_beta + gamma * t_beta) / count
        cross = (v.gamma[number] * layer.d_gamma + gamma * t_gamma) / count
        along = rows.add_scaled(along, layer.hat, -cross * invstd)
        along = rows.add_scaled(along, layer.t_hat, -gamma * layer.d_gamma / count * invstd)
        along = rows.add_scaled(along, _Wide(layer.g_c).flat, -layer.growth)
        return rows.maps(along + rows.spread(-mean * invstd))

    def _from_embedded(self, g: Tensor) -> Tensor:
        """The head's input's gradient [B, c] as maps behind the last pool."""
        side = round(self.fused.pixels**0.5)
        return as_maps(self.fused.spread(g), self.fused.batch, side)

    def _unpooled(self, layer: Layer, g: Maybe) -> Maybe:
        if g is None or layer.choices is None:
            return g
        return max_unpool(g, layer.z, [2, 2], [2, 2], [0, 0], [1, 1], False, layer.choices)  # type: ignore[no-any-return]

    def _backwards(self) -> list[tuple[int, Layer]]:
        return list(enumerate(self.layers))[::-1]


class _Wide:
    """Maps [B, C, S, S] as rows of S pixels, [B * S, S * C]: what is one number a channel is then repeated along long rows, not short ones."""

    def __init__(self, maps: Tensor) -> None:
        self.shape = maps.shape
        batch, channels, side, _ = maps.shape
        self.flat = maps.permute(0, 2, 3, 1).reshape(batch * side, side * channels)

    def spread(self, channel: Tensor) -> Tensor:
        """[C] -> [S * C]."""
        return channel.repeat(self.shape[2])

    def affine(self, scale: Tensor, shift: Maybe, flat: Maybe = None) -> Tensor:
        """flat * scale + shift, [C] each."""
        rows = self.flat if flat is None else flat
        return rows * self.spread(scale) if shift is None else torch.addcmul(self.spread(shift), rows, self.spread(scale))

    def add_scaled(self, flat: Tensor, other: Tensor, scale: Tensor) -> Tensor:
        """flat + other * scale, in place."""
        return flat.addcmul_(other, self.spread(scale))

    def mean(self, flat: Tensor) -> Tensor:
        """Over all pixels of all images: [C]."""
        rows = flat.view(-1, self.shape[1])
        return torch.mm(rows.new_full((1, len(rows)), 1 / len(rows)), rows)[0]

    def maps(self, flat: Tensor) -> Tensor:
        return as_maps(flat.view(-1, self.shape[1]), self.shape[0], self.shape[2])


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
