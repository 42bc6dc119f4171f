"""One network in training by fast passes, all its parameters in one flat tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from evolve.networks.fast.cross_entropy import cross_entropy
from evolve.networks.fast.fused import Training
from evolve.networks.fast.shape import Statistics, flat_zeros
from evolve.networks.network import Network

if TYPE_CHECKING:
    from evolve.networks.vgg import VGG


class Flat:
    """Copies of a network's parameters and BN statistics, and SGD with momentum over them.

    They lie on the CPU, in the network's dtype.

    Args:
        network: what learns.
        size: pixels of an image's side.
        optimizer: "sgd"; it has no other.
        momentum, decay: SGD's.

    Raises:
        ValueError: the network's architecture has no fast passes.
    """

    def __init__(
        self, network: Network, size: int, optimizer: str, momentum: float, decay: float
    ) -> None:
        fused = network.architecture.fast(size)
        if fused is None:
            raise ValueError(
                f"a network of family {network.architecture.family} has no fast passes"
            )
        self.model = cast("VGG", network)
        head = self.model.head.weight
        self.fused, self.momentum, self.decay = fused, momentum, decay
        self.parameters, self.weights = flat_zeros(fused.layers, len(head), head.dtype)
        self.moved, self._moved_views = flat_zeros(fused.layers, len(head), head.dtype)
        # Numbers of the convolutions' weights, which come first.
        self._convolutions = sum(weight.numel() for weight in self.weights.conv)
        names = ("running_mean", "running_var")
        self.statistics = Statistics(
            *([getattr(unit.bn, name).clone() for unit in self.model.units] for name in names)
        )
        self._rates = torch.tensor([0.0, momentum, decay], dtype=head.dtype)
        self._steps = 0
        self._training: dict[int, Training] = {}
        with torch.no_grad():
            for own, given in self._pairs():
                own.copy_(given)
        # The momentum already holds the next step's decay, so that a gradient only has to be added
        # (see _update).
        self.moved.add_(self.parameters, alpha=decay)

    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """Take one step of the optimizer.

        Args:
            images: [B, 3, S, S].
            labels: [B].
            rate: the learning rate.

        Returns:
            The mean loss before the step, float64.
        """
        training = self._trained(len(images))
        loss, gradient = cross_entropy(training.forward(images), labels)
        self._rates[0] = -rate
        training.backward(gradient, self._moved_views)
        self._update(rate)
        self._steps += 1
        return loss

    def _update(self, rate: float) -> None:
        """SGD with momentum m and decay w, as torch.optim.SGD, for all but convolutions' weights.

        b' = m b + g + w p; p' = p - rate b'. The momentum tensor holds m b + w p when the backward
        pass begins to add g, so that it is read and written once for the step just made and the
        next one's decay. The convolutions' weights have made theirs in the backward pass
        (:func:`evolve.networks.fast.compiled.weights.weight_step`).
        """
        p, b = self.parameters[self._convolutions :], self.moved[self._convolutions :]
        p.add_(b, alpha=-rate)
        b.mul_(self.momentum).add_(p, alpha=self.decay)

    def _trained(self, batch: int) -> Training:
        if batch not in self._training:
            self._training[batch] = Training(
                self.fused, self.weights, self.statistics, batch, self._rates
            )
        return self._training[batch]

    def logits(self, images: Tensor) -> Tensor:
        """Classify images in eval mode.

        Args:
            images: [B, 3, S, S].

        Returns:
            [B, classes].
        """
        return self.fused.evaluate(self.weights, self.statistics, images)

    @torch.no_grad()
    def store(self) -> None:
        """Put what was learned into the network."""
        for own, given in self._pairs():
            given.copy_(own)
        for unit in self.model.units:
            unit.bn.num_batches_tracked.add_(self._steps)  # type: ignore[union-attr]

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Every own view with the model's tensor that it stands for."""
        pairs, w, s = [], self.weights, self.statistics
        parts = (w.conv, w.bias, w.gamma, w.beta, s.mean, s.var)
        for unit, *own in zip(self.model.units, *parts, strict=True):
            bn = unit.bn
            learned = (unit.conv.weight, unit.conv.bias, bn.weight, bn.bias)
            pairs += list(zip(own, (*learned, bn.running_mean, bn.running_var), strict=True))
        return [*pairs, (w.head, self.model.head.weight), (w.head_bias, self.model.head.bias)]  # type: ignore[list-item]
