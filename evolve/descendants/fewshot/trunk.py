"""A backbone seen as its embedding, and the batch normalisation of learners that adapt its weights.

No query may change another query's prediction. So batch statistics are those of the support images
(Bronskill et al. 2020, "TaskNorm": conventional BN over the context set), or the running
statistics. They are never those of the queries, as in MAML's own code, whose accuracies are
transductive (Nichol et al. 2018, section 6.1).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from evolve.core.randomness import generator
from evolve.networks.network import Network

Parameters = dict[str, Tensor]
HEAD = ("head.weight", "head.bias")


class SupportNorm(nn.Module):
    """BN by the statistics of the first ``rows`` images of a batch, without running statistics.

    ``weight`` and ``bias`` [C] are those of the BN that it replaces.
    """

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = bn.weight, bn.bias, bn.eps
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same; the statistics are differentiated through."""
        if self.rows >= len(x):
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        support = x[: self.rows]
        variance, mean = torch.var_mean(support, (0, 2, 3), correction=0)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return x * scale.view(1, -1, 1, 1) + (self.bias - mean * scale).view(1, -1, 1, 1)


class Functional(nn.Module):
    """A copy of a network, without its head, whose weights are an argument.

    ``support_norm`` puts :class:`SupportNorm` in the place of every BN; otherwise BNs use their
    running statistics.
    """

    def __init__(self, network: Network, support_norm: bool) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.network.fused = False  # the fused path has gradients of first order only
        if support_norm:
            _replace(self.network)
        self._norms = tuple(m for m in self.network.modules() if isinstance(m, SupportNorm))

    def forward(self, x: Tensor, support: int) -> Tensor:
        """Embed images.

        Args:
            x: images [B, 3, H, W].
            support: how many of the first ones are the support set.

        Returns:
            [B, c].
        """
        for norm in self._norms:
            norm.rows = support
        return self.network.embed(x)

    def weights(self) -> Parameters:
        """Copies of all weights but the head's, which require gradients."""
        copies = {
            name: p.detach().clone()
            for name, p in self.named_parameters()
            if not name.startswith("network.head.")
        }
        return {name: p.requires_grad_() for name, p in copies.items()}

    def embed(self, weights: Parameters, x: Tensor, support: int) -> Tensor:
        """:meth:`forward` with other weights in the place of its own.

        Args:
            weights: those of :meth:`weights`; the head's are left out.
            x: images [B, 3, H, W].
            support: how many of the first ones are the support set.

        Returns:
            [B, c].
        """
        own = {name: p for name, p in weights.items() if name not in HEAD}
        return functional_call(self, own, (x, support))  # type: ignore[no-any-return]


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SupportNorm(child))
        else:
            _replace(child)


def width(network: Network) -> int:
    """Numbers of an embedding.

    Args:
        network: any.
    """
    return network.head.in_features


def fresh_head(
    ways: int, features: int, device: torch.device, seed: int, *purpose: str | int
) -> tuple[Tensor, Tensor]:
    """Draw a linear head as torch draws a Linear: weights from U(-1, 1) / sqrt(features), bias 0.

    Args:
        ways: classes.
        features: numbers of an embedding.
        device: where it lies.
        seed: seed of the draw.
        purpose: further names of the draw.

    Returns:
        Weight [ways, features] and bias [ways]; both require gradients.
    """
    weight = (
        2 * torch.rand(ways, features, generator=generator(seed, "fewshot", "head", *purpose)) - 1
    ) / features**0.5
    return weight.to(device).requires_grad_(), torch.zeros(ways, device=device, requires_grad=True)


def as_head(weight: Tensor, bias: Tensor) -> Parameters:
    """A linear head by its tensors' names in a network.

    Args:
        weight: [ways, c].
        bias: [ways].
    """
    return dict(zip(HEAD, (weight, bias), strict=True))


def linear(weights: Parameters, embedding: Tensor) -> Tensor:
    """A head's logits.

    Args:
        weights: the head's among them, by name.
        embedding: [B, c].

    Returns:
        [B, ways].
    """
    return F.linear(embedding, *(weights[name] for name in HEAD))
