"""Condensers: ancestor -> which of its integral layers are the learngene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from evolve.condensers.batches import draw_images, split_meta
from evolve.condensers.meta_network import Condensed, condense, fallback_groups
from evolve.data.resident import Resident
from evolve.networks.plan import PAPER_SET, Plan, integral_layers, stack_plan
from evolve.networks.vgg import VGG, initialise
from evolve.settings import CondenseSettings

__all__ = ["Condensed", "condense", "condense_ancestor", "split_meta"]


def condense_ancestor(
    plan: Plan,
    state: Mapping[str, Tensor],
    classes: Sequence[int],
    resident: Resident,
    c: CondenseSettings,
    seed: int,
    progress: Callable[[float, str], None],
) -> Condensed:
    """Condense the ancestor of ``plan`` and ``state`` (a VGG's state dict) with images of the class ids ``classes``.

    Method "fixed" returns the layers named in ``c.fixed`` with status "fixed", an empty alpha [L, 0] and equal weights.
    Raises UserError where the settings ask for more images or layers than there are.
    """
    groups = integral_layers(plan, c.granularity)
    if c.method == "fixed":
        return _fixed(len(groups), fallback_groups(groups, c.fixed))
    ancestor = VGG(plan, len(state["head.weight"]))
    ancestor.load_state_dict(dict(state))
    pseudo_plan = stack_plan(plan, PAPER_SET)
    pseudo = VGG(pseudo_plan, len(classes))
    initialise(pseudo, seed, "pseudo-descendant")
    images = draw_images([resident.indices(i, test=False) for i in classes], classes, c.images_per_class, seed)
    split = split_meta(images, c.meta_fraction, seed)
    return condense(
        ancestor.to(resident.device),
        pseudo.to(resident.device),
        groups,
        integral_layers(pseudo_plan, c.granularity),
        *split,
        resident,
        c,
        seed,
        progress,
    )


def _fixed(layers: int, selected: tuple[int, ...]) -> Condensed:
    zeros = torch.zeros(layers, dtype=torch.float64)
    return Condensed(torch.zeros(layers, 0), zeros, zeros + 1 / layers, selected, 0.0, "fixed", "fixed set", {})
