"""A network's fast pass at one point of its parameters: what comes out, and its derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from evolve.networks.fast.hessian import Pass
from evolve.networks.fast.kernels import as_maps, channels_last
from evolve.networks.fast.shape import Fused, Weights

Tensors = tuple[Tensor, ...]


class Point:
    """One forward pass in training mode, and what can be asked of it.

    Parameters and directions are tuples in the order of the module's parameters: conv.weight,
    conv.bias, bn.weight, bn.bias a unit, then the head's. Call ``backward``, then ``push``, then
    ``pull``: each needs what the one before kept.

    Args:
        fused: the passes, as an architecture's ``fast`` gives them.
        parameters: as above; what stands behind them in the sequence is not looked at.
        images: [B, 3, S, S].

    Attributes:
        logits: [B, classes].
        features: every unit's output [B, c, h, w], before its block's pool.
    """

    def __init__(self, fused: Fused, parameters: Sequence[Tensor], images: Tensor) -> None:
        self._units = len(fused.layers)
        self._pass = Pass(fused, self._weights(parameters), images)
        self.logits, self.features = self._pass.logits, self._pass.features

    def backward(
        self, g_logits: Tensor | None, g_features: Mapping[int, Tensor] | None = None
    ) -> Tensors:
        """The parameters' gradient.

        Args:
            g_logits: gradient of the logits [B, classes]; None where they count for nothing.
            g_features: by unit, gradient of its output as rows [B, h * w, c] or [B * h * w, c].
        """
        return _flat(self._pass.backward(g_logits, self._maps(g_features)))

    def push(self, direction: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """How logits and features change along a direction of the parameters.

        Args:
            direction: in the order of the parameters.

        Returns:
            The changes, each in the shape of what changes.
        """
        self._along = self._weights(direction)
        return self._pass.push(self._along)

    def pull(
        self,
        g_logits: Tensor | None,
        t_logits: Tensor | None,
        t_features: Mapping[int, Tensor] | None = None,
    ) -> Tensors:
        """How the gradient changes along the direction last pushed.

        Args:
            g_logits: gradient of the logits; ``t_logits``: how it changes along the direction.
            t_features: by unit, how its output's gradient changes, as in :meth:`backward`.
        """
        maps = self._maps(t_features)
        return _flat(self._pass.pull(self._along, g_logits, t_logits, maps))

    def _weights(self, parameters: Sequence[Tensor]) -> Weights:
        end = 4 * self._units
        conv = [channels_last(weight) for weight in parameters[0:end:4]]
        bias, gamma, beta = (parameters[first:end:4] for first in (1, 2, 3))
        return Weights(conv, bias, gamma, beta, parameters[end], parameters[end + 1])

    def _maps(self, rows: Mapping[int, Tensor] | None) -> list[Tensor | None] | None:
        if rows is None:
            return None
        maps: list[Tensor | None] = [None] * self._units
        for unit, tensor in rows.items():
            batch, channels, side, _ = self.features[unit].shape
            maps[unit] = as_maps(tensor.reshape(-1, channels), batch, side)
        return maps


def _flat(w: Weights) -> Tensors:
    units = zip(w.conv, w.bias, w.gamma, w.beta, strict=True)
    return (*(part for unit in units for part in unit), w.head, w.head_bias)
