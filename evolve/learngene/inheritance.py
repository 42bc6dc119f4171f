"""Inherit: a learngene and fresh layers become a descendant (paper, 4.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from evolve.learngene.learngene import Learngene
from evolve.networks.architecture import Architecture, Mixture
from evolve.networks.network import Network, initialise


def inherit(
    plan: Architecture, learngene: Learngene | None, classes: int, seed: int, descendant: int
) -> Network:
    """Build a descendant: every layer drawn at random, then the learngene's copied in (paper, 4.3).

    The draw depends on (seed, descendant, the layer's place, its shape) alone. So descendant n has
    the same random layers with every method, and equal architectures are equal networks. The
    inherited tensors are copies: to train the descendant touches neither learngene nor ancestor nor
    a sibling. BN running statistics travel along.

    Args:
        plan: the descendant's architecture, and what inherits what.
        learngene: the layers; None leaves all random (from scratch).
        classes: outputs of the head.
        seed: the lineage's.
        descendant: the descendant's number.

    Raises:
        ValueError: the learngene lacks a layer of the plan, or holds it in another shape.
    """
    model = plan.build(classes)
    initialise(model, seed, "descendant", descendant, names=plan.places())
    if learngene is not None:
        _copy(model, plan, learngene)
    return model


@torch.no_grad()
def _copy(model: Network, plan: Architecture, learngene: Learngene) -> None:
    own = model.state_dict()
    for layer, mixture in plan.inherits().items():
        for given in mixture:
            if given not in learngene.layers:
                raise ValueError(
                    f"{layer} inherits {given}, but the learngene holds "
                    f"{', '.join(learngene.layers) or 'nothing'}"
                )
        for part in plan.shapes(layer):
            target = own[f"layers.{layer}.{part}"]
            for given in mixture:
                if target.shape != (held := learngene.layers[given][part]).shape:
                    raise ValueError(
                        f"{layer}.{part}: the learngene's shape is {tuple(held.shape)}, the plan's "
                        f"{tuple(target.shape)}"
                    )
            target.copy_(_mixed(learngene, mixture, part))


def _mixed(learngene: Learngene, mixture: Mixture, part: str) -> Tensor:
    """The layers' tensors summed with their coefficients, in float64; one layer alone as it is."""
    tensors = [learngene.layers[name][part] for name in mixture]
    if len(tensors) == 1 and next(iter(mixture.values())) == 1.0:
        return tensors[0]
    if not tensors[0].is_floating_point():  # a count of batches
        return torch.stack(tensors).amax(0)
    total = sum(
        share * tensor.double() for share, tensor in zip(mixture.values(), tensors, strict=True)
    )
    assert isinstance(total, Tensor)
    # An extrapolated variance may fall below 0.
    return total.clamp_min(0) if part.endswith("running_var") else total
