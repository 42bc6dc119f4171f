"""Inherit: a learngene and fresh layers become a descendant (paper 4.3; SPEC 1, 3)."""

from __future__ import annotations

import torch

from evolve.learngene import Learngene
from evolve.networks.plan import Plan, places
from evolve.networks.vgg import VGG, initialise


def inherit(plan: Plan, learngene: Learngene | None, classes: int, seed: int, descendant: int) -> VGG:
    """A descendant of ``plan``: every layer drawn at random, then the learngene's copied in where the plan inherits.

    The draw depends on (seed, descendant, the layer's place, its shape) alone, so descendant n has the same random layers with
    every method, and equal architectures are equal networks; ``learngene`` None leaves all of them random (from scratch). The tensors are copies:
    training the descendant touches neither learngene nor ancestor nor a sibling. BN running statistics travel along.
    Raises ValueError for a learngene that lacks a layer of the plan or holds it in another shape.
    """
    model = VGG(plan, classes)
    initialise(model, seed, "descendant", descendant, names=places(plan))
    if learngene is not None:
        _copy(model, plan, learngene)
    return model


@torch.no_grad()
def _copy(model: VGG, plan: Plan, learngene: Learngene) -> None:
    own = model.state_dict()
    for spec in (spec for block in plan for spec in block if spec.inherits is not None):
        given = learngene.layers.get(str(spec.inherits))
        if given is None:
            raise ValueError(f"{spec.name} inherits {spec.inherits}, but the learngene holds {', '.join(learngene.layers) or 'nothing'}")
        for part, tensor in given.items():
            target = own[f"layers.{spec.name}.{part}"]
            if target.shape != tensor.shape:
                raise ValueError(f"{spec.name}.{part}: the learngene's shape is {tuple(tensor.shape)}, the plan's {tuple(target.shape)}")
            target.copy_(tensor)
