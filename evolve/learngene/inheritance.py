"""Inherit: a learngene and fresh layers become a descendant (paper, 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from evolve.learngene.channels import misfit, narrowed
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
    a sibling. BN running statistics travel along. Where the plan is narrower than the learngene,
    its strongest channels are kept (:mod:`evolve.learngene.channels`).

    Args:
        plan: the descendant's architecture, and what inherits what.
        learngene: the layers; None leaves all random (from scratch).
        classes: outputs of the head.
        seed: the lineage's.
        descendant: the descendant's number.

    Raises:
        ValueError: the learngene lacks a layer of the plan, or holds it in a shape that does not
            fit.
    """
    model = plan.build(classes)
    initialise(model, seed, "descendant", descendant, names=plan.places())
    if learngene is not None:
        _copy(model, plan, learngene)
    return model


@torch.no_grad()
def _copy(model: Network, plan: Architecture, learngene: Learngene) -> None:
    own = model.state_dict()
    given = {
        layer: _mixtures(plan, layer, mixture, learngene)
        for layer, mixture in plan.inherits().items()
    }
    if any(
        tensor.shape != own[f"layers.{layer}.{part}"].shape
        for layer, parts in given.items()
        for part, tensor in parts.items()
    ):
        given = dict(narrowed(plan, given))
    for layer, parts in given.items():
        for part, tensor in parts.items():
            own[f"layers.{layer}.{part}"].copy_(tensor)


def _mixtures(
    plan: Architecture, layer: str, mixture: Mixture, learngene: Learngene
) -> Mapping[str, Tensor]:
    """What one layer receives, as wide as the learngene holds it."""
    for name in mixture:
        if name not in learngene.layers:
            raise ValueError(
                f"{layer} inherits {name}, but the learngene holds "
                f"{', '.join(learngene.layers) or 'nothing'}"
            )
    for part, shape in plan.shapes(layer).items():
        held = [learngene.layers[name][part].shape for name in mixture]
        # Layers of other shapes cannot be mixed, even where torch would broadcast them.
        if len(set(held)) > 1:
            raise misfit(f"{layer}.{part}", min(held, key=prod), shape)
    return {part: _mixed(learngene, mixture, part) for part in plan.shapes(layer)}


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
