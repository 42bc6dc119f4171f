"""The compiled kernels on tensors: convolutions, BN, ReLU and pooling of one network on a CPU.

*Maps* are [B, C, S, S] in channels_last memory, float32 or float64; what is given otherwise is
copied first. No operation here is known to autograd. The kernels are those of
:mod:`evolve.networks.fast.compiled`. tests/networks/test_kernels.py holds all to torch's own and
its autograd in float64, over shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evolve.networks.fast.compiled import convolution, tangents, units, weights

EPS = units.EPS


def channels_last(maps: Tensor) -> Tensor:
    """Maps in channels_last memory; no copy where they are.

    Args:
        maps: or a weight [c_out, c_in, 3, 3].
    """
    return maps.contiguous(memory_format=torch.channels_last)


def as_rows(maps: Tensor) -> Tensor:
    """Maps as rows [n * h * w, C]; no copy where they lie as channels_last does.

    Args:
        maps: [n, C, h, w].
    """
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def as_maps(rows: Tensor, images: int, side: int) -> Tensor:
    """Rows as maps [images, C, side, side]; no copy.

    Args:
        rows: [images * side * side, C].
        images: how many.
        side: pixels of a map's side.
    """
    return rows.view(images, side, side, rows.shape[1]).permute(0, 3, 1, 2)


def _check(dtype: torch.dtype, *tensors: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raise ValueError unless all tensors are on the CPU and have their shape and dtype.

    A kernel trusts its addresses.
    """
    for tensor, shape in tensors:
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
            raise ValueError(
                f"a {dtype} CPU tensor of shape {list(shape)} is needed, "
                f"not {tensor.dtype} {tensor.device} {list(tensor.shape)}"
            )


def _maps(like: Tensor, channels: int, side: int) -> Tensor:
    return like.new_empty(len(like), side, side, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Convolution:
    """3x3, padding 1, no bias, between maps of ``side`` x ``side``.

    Weights are [c_out, c_in, 3, 3] in channels_last memory.
    """

    side: int
    c_in: int
    c_out: int

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution.

        Args:
            x: maps with c_in channels.
            weight: the weight.

        Returns:
            Maps with c_out channels.
        """
        return self._run(convolution.convolution, x, weight, self.c_in, self.c_out)

    def data_gradient(self, g: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the input.

        Args:
            g: that of the output.
            weight: the weight.
        """
        return self._run(convolution.data_gradient, g, weight, self.c_out, self.c_in)

    def _run(self, kernel: Any, maps: Tensor, weight: Tensor, inputs: int, outputs: int) -> Tensor:
        maps, weight, dtype = channels_last(maps), channels_last(weight), maps.dtype
        _check(
            dtype,
            (maps, (len(maps), inputs, self.side, self.side)),
            (weight, (self.c_out, self.c_in, 3, 3)),
        )
        out = _maps(maps, outputs, self.side)
        room = self._room(maps)
        run = kernel(self.side, self.c_in, self.c_out, dtype)
        run(out.data_ptr(), maps.data_ptr(), weight.data_ptr(), room.data_ptr(), len(maps))
        return out

    def weight_gradient(self, g: Tensor, x: Tensor, into: Tensor) -> None:
        """Add up the weight's gradient.

        Args:
            g: that of the output.
            x: the input.
            into: what is added to, a tensor like the weight.

        Raises:
            ValueError: ``into`` does not lie in channels_last memory.
        """
        if not into.is_contiguous(memory_format=torch.channels_last):
            raise ValueError("a weight's gradient must lie in channels_last memory")
        g, x, maps = channels_last(g), channels_last(x), (len(x), self.side, self.side)
        _check(
            x.dtype,
            (x, (maps[0], self.c_in, *maps[1:])),
            (g, (maps[0], self.c_out, *maps[1:])),
            (into, (self.c_out, self.c_in, 3, 3)),
        )
        run = weights.weight_gradient(self.side, self.c_in, self.c_out, x.dtype)
        room = self._room(x)
        run(into.data_ptr(), g.data_ptr(), x.data_ptr(), room.data_ptr(), len(x))

    def _room(self, maps: Tensor) -> Tensor:
        return maps.new_empty(convolution.room_for(self.side, self.c_in, self.c_out, maps.dtype))


@dataclass(frozen=True)
class Norm:
    """BN of one layer's maps c: ^c = (c - mean) * invstd, output = scale * c + shift.

    [C] each; in eval mode ``mean`` and ``invstd`` are not those of a batch.
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    invstd: Tensor

    @staticmethod
    def of_batch(
        c: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor, running: tuple[Tensor, Tensor] | None
    ) -> Norm:
        """BN by the batch's own statistics.

        Args:
            c: the maps.
            gamma, beta: BN's weight and bias [C].
            bias: the convolution's, which BN takes out again.
            running: mean and variance, which move as those of c + bias; None: none.
        """
        c, channels = channels_last(c), c.shape[1]
        vectors = c.new_empty(4, channels)
        scale, shift, mean, invstd = vectors.unbind()
        moved = running or (mean, mean)
        _check(c.dtype, *((part, (channels,)) for part in (gamma, beta, bias, *moved)))
        kernel = units.statistics(channels, c.dtype)
        given = [
            part.data_ptr() for part in (gamma, beta, bias, mean, invstd, scale, shift, *moved)
        ]
        kernel(c.data_ptr(), c.numel() // channels, *given, int(running is not None))
        return Norm(scale, shift, mean, invstd)

    @staticmethod
    def in_eval(gamma: Tensor, beta: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Norm:
        """BN by running statistics.

        Args:
            gamma, beta: its weight and bias [C].
            bias: the convolution's, which joins the shift.
            mean, var: the statistics.
        """
        scale = gamma * (var + EPS).rsqrt_()
        return Norm(scale, torch.addcmul(beta, bias - mean, scale), mean, var)


def rectified(c: Tensor, norm: Norm, pool: bool) -> Tensor:
    """ReLU(BN(c)).

    Args:
        c: maps.
        norm: their BN.
        pool: take the 2x2 max pool of it.
    """
    c = channels_last(c)
    images, channels, side = c.shape[:3]
    _check(
        c.dtype,
        (c, (images, channels, side, side)),
        (norm.scale, (channels,)),
        (norm.shift, (channels,)),
    )
    out = _maps(c, channels, side // 2 if pool else side)
    kernel = units.pooled(channels, side, c.dtype) if pool else units.rectified(channels, c.dtype)
    kernel(
        out.data_ptr(),
        c.data_ptr(),
        norm.scale.data_ptr(),
        norm.shift.data_ptr(),
        images if pool else images * side * side,
    )
    return out


def joined(c: Tensor, norm: Norm, past: Tensor, past_norm: Norm) -> Tensor:
    """A residual block's output, ReLU(BN(c) + BN(past)).

    Args:
        c, norm: the maps of its last convolution, and their BN.
        past, past_norm: those of what it adds.
    """
    c, past, channels = channels_last(c), channels_last(past), c.shape[1]
    vectors = (norm.scale, norm.shift, past_norm.scale, past_norm.shift)
    _check(c.dtype, (past, tuple(c.shape)), *((part, (channels,)) for part in vectors))
    out = torch.empty_like(c)
    given = (out, c, *vectors[:2], past, *vectors[2:])
    run = units.joined(channels, c.dtype)
    run(*(part.data_ptr() for part in given), c.numel() // channels)
    return out


def rectified_gradient(
    g: Tensor, c: Tensor, norm: Norm, pool: bool, g_gamma: Tensor, g_beta: Tensor
) -> Tensor:
    """The gradient of c, given that of :func:`rectified` with BN in training mode.

    Args:
        g: that of the output.
        c, norm, pool: what :func:`rectified` was given.
        g_gamma, g_beta: those of gamma and beta are added to these.
    """
    c, g = channels_last(c), channels_last(g)
    images, channels, side = c.shape[:3]
    after = side // 2 if pool else side
    vectors = (
        (part, (channels,))
        for part in (norm.scale, norm.shift, norm.mean, norm.invstd, g_gamma, g_beta)
    )
    _check(
        c.dtype,
        (c, (images, channels, side, side)),
        (g, (images, channels, after, after)),
        *vectors,
    )
    g_c = torch.empty_like(c)
    kernel = (
        units.pooled_gradient(channels, side, c.dtype)
        if pool
        else units.rectified_gradient(channels, c.dtype)
    )
    given = [
        part.data_ptr()
        for part in (g_c, g, c, norm.scale, norm.shift, norm.mean, norm.invstd, g_gamma, g_beta)
    ]
    kernel(*given, images if pool else images * side * side)
    return g_c


@dataclass(frozen=True)
class Tangent:
    """How one layer's c changes along a direction of the parameters.

    Attributes:
        c, norm, gamma: the layer's.
        d_c: the change of c.
        v_gamma: gamma's part of the direction.
        even, growth: the change's mean and the growth of c's deviation, [C].
    """

    c: Tensor
    d_c: Tensor
    norm: Norm
    gamma: Tensor
    v_gamma: Tensor
    even: Tensor
    growth: Tensor

    @staticmethod
    def pushed(
        d_c: Tensor, c: Tensor, norm: Norm, gamma: Tensor, v_gamma: Tensor, v_beta: Tensor
    ) -> tuple[Tensor, Tangent]:
        """The derivative of z = ReLU(BN(c)).

        Args:
            d_c: that of c.
            c, norm, gamma: the layer's.
            v_gamma, v_beta: the direction's parts.

        Returns:
            (the derivative, what the way back needs).
        """
        d_c, c = channels_last(d_c), channels_last(c)
        channels = c.shape[1]
        _check(
            c.dtype,
            (d_c, tuple(c.shape)),
            *((part, (channels,)) for part in (gamma, v_gamma, v_beta, norm.scale)),
        )
        tangent, d_z = (
            Tangent(c, d_c, norm, gamma, v_gamma, *c.new_empty(2, channels).unbind()),
            torch.empty_like(c),
        )
        run = tangents.pushed(channels, c.dtype)
        given = (
            d_z,
            d_c,
            c,
            norm.scale,
            norm.shift,
            norm.mean,
            norm.invstd,
            gamma,
            v_gamma,
            v_beta,
            tangent.even,
            tangent.growth,
        )
        run(*(part.data_ptr() for part in given), c.numel() // channels)
        return d_z, tangent

    def pulled(
        self,
        g_z: Tensor,
        d_z: Tensor | None,
        g_c: Tensor,
        g: tuple[Tensor, Tensor],
        into: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The derivative of c's gradient.

        Args:
            g_z: the gradient of ReLU(BN(c)).
            d_z: its derivative; None: 0.
            g_c: c's gradient.
            g: gradients of gamma and beta.
            into: their derivatives are written to these.
        """
        g_z, g_c, shape, channels = (
            channels_last(g_z),
            channels_last(g_c),
            tuple(self.c.shape),
            self.c.shape[1],
        )
        d_z = None if d_z is None else channels_last(d_z)
        maps = [(part, shape) for part in (g_z, g_c, d_z) if part is not None]
        _check(self.c.dtype, *maps, *((part, (channels,)) for part in (*g, *into)))
        norm, d_g = self.norm, torch.empty_like(self.c)
        first = (
            d_g,
            g_z,
            g_z if d_z is None else d_z,
            g_c,
            self.d_c,
            self.c,
            norm.scale,
            norm.shift,
            norm.mean,
            norm.invstd,
        )
        rest = (self.even, self.growth, self.gamma, self.v_gamma, *g, *into)
        run = tangents.pulled(channels, d_z is not None, self.c.dtype)
        run(*(part.data_ptr() for part in (*first, *rest)), self.c.numel() // channels)
        return d_g
