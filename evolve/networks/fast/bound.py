"""Training passes of one network and one batch size, over tensors that stay where they are.

All maps are kept from pass to pass and every address is known before the first one, so that a pass
is a list of calls: in a network of an eighth of the width, asking for shapes and memory took as
much time as the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolve.networks.fast.compiled import convolution, units, weights
from evolve.networks.fast.kernels import as_maps, channels_last

if TYPE_CHECKING:
    from evolve.networks.fast.shape import Fused, Statistics, Step, Weights

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Bound:
    """Passes of a network. A pass overwrites what the last one kept.

    Args:
        fused: the network's shapes.
        w: its weights.
        statistics: BN's, which the passes move; None: none.
        batch: images of a batch.
        rates: minus the learning rate, momentum, decay; [3], read at every pass. With them a
            backward pass is also SGD's step of the convolutions' weights.

    Raises:
        ValueError: the weights do not lie in channels_last memory.
    """

    def __init__(
        self,
        fused: Fused,
        w: Weights,
        statistics: Statistics | None,
        batch: int,
        rates: Tensor | None = None,
    ) -> None:
        if not all(conv.is_contiguous(memory_format=torch.channels_last) for conv in w.conv):
            raise ValueError("weights must lie in channels_last memory")
        self.fused, self.batch, self.dtype = fused, batch, w.conv[0].dtype
        self._rates = rates
        self._kept: list[Any] = [w, statistics]  # alive as long as their addresses are in use
        self._x: Tensor | None = None
        self._forward: list[Call] = []
        self._backward: list[tuple[Call, Call | None, Call]] = []
        shapes = [step.convolution for step in fused.steps]
        most = max(
            batch * s.side**2 * max(s.c_out, s.c_in if n else 0) for n, s in enumerate(shapes)
        )
        self._room = self._take(
            max(convolution.room_for(s.side, s.c_in, s.c_out, self.dtype) for s in shapes)
        ).data_ptr()
        self._g, g_c = self._take(most), self._take(most).data_ptr()
        x = 0  # the images' address comes with them
        for number, step in enumerate(fused.steps):
            out = self._bind(number, step, w, statistics, x, g_c)
            x = out.data_ptr()
        self._out, self._g_out = (
            as_maps(flat.view(-1, shapes[-1].c_out), batch, fused.side)
            for flat in (out, self._g[: len(out)])
        )

    def _take(self, numbers: int) -> Tensor:
        self._kept.append(torch.empty(numbers, dtype=self.dtype))
        taken: Tensor = self._kept[-1]
        return taken

    def _bind(
        self, number: int, step: Step, w: Weights, statistics: Statistics | None, x: int, g_c: int
    ) -> Tensor:
        """One layer's calls, forward and back; the map that it puts out."""
        side, c_in, c_out = step.convolution.side, step.convolution.c_in, step.convolution.c_out
        shape, pixels = (side, c_in, c_out, self.dtype), self.batch * side**2
        kind, count = (
            ((c_out, side, self.dtype), self.batch) if step.pool else ((c_out, self.dtype), pixels)
        )
        behind, before = (
            (units.pooled, units.pooled_gradient)
            if step.pool
            else (units.rectified, units.rectified_gradient)
        )
        maps = self._take(self.batch * (side // 2 if step.pool else side) ** 2 * c_out)
        out, c, g = maps.data_ptr(), self._take(pixels * c_out).data_ptr(), self._g.data_ptr()
        mean, invstd, scale, shift = (self._take(c_out).data_ptr() for _ in range(4))
        moved = (
            (0, 0, 0)
            if statistics is None
            else (statistics.mean[number].data_ptr(), statistics.var[number].data_ptr(), 1)
        )
        gamma, beta, bias, weight = (
            part[number].data_ptr() for part in (w.gamma, w.beta, w.bias, w.conv)
        )
        self._forward += [
            (convolution.convolution(*shape), (c, x, weight, self._room, self.batch)),
            (
                units.statistics(c_out, self.dtype),
                (c, pixels, gamma, beta, bias, mean, invstd, scale, shift, *moved),
            ),
            (behind(*kind), (out, c, scale, shift, count)),
        ]
        unit = before(*kind), (g_c, g, c, scale, shift, mean, invstd, count)
        back = (
            (convolution.data_gradient(*shape), (g, g_c, weight, self._room, self.batch))
            if number
            else None
        )
        weigh: Call = weights.weight_gradient(*shape), (g_c, x)
        if self._rates is not None:
            weigh = weights.weight_step(*shape), (weight, self._rates.data_ptr(), g_c, x)
        self._backward.append((unit, back, weigh))
        return maps

    def embed(self, x: Tensor) -> Tensor:
        """Embed images in training mode.

        Args:
            x: [B, 3, size, size].

        Returns:
            The head's input [B, c].
        """
        self._x = channels_last(x)
        (convolve, (c, _, *rest)), *others = self._forward
        convolve(c, self._x.data_ptr(), *rest)
        for call, arguments in others:
            call(*arguments)
        return self.fused.average(self._out).clone()

    def embed_backward(self, g_embedded: Tensor, into: Weights) -> None:
        """Add up the parameters' gradients.

        Args:
            g_embedded: that of the last :meth:`embed`'s output, [B, c].
            into: what is added to. With rates it is the momentum, which must hold the step's decay
                already, and is left with the next one's.
        """
        assert self._x is not None
        self._g_out.copy_(self.fused.spread(g_embedded))
        gradients = [
            tuple(part.data_ptr() for part in parts)
            for parts in zip(into.conv, into.gamma, into.beta, strict=True)
        ]
        for ((unit, given), back, (weigh, (*rest, x))), (conv, gamma, beta) in zip(
            self._backward[::-1], gradients[::-1], strict=True
        ):
            unit(*given[:-1], gamma, beta, given[-1])
            if back is not None:
                back[0](*back[1])  # before a step moves the weights
            weigh(conv, *rest, x or self._x.data_ptr(), self._room, self.batch)
