"""Condensers: ancestor -> which of its integral layers are the learngene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evolve.condensers.batches import draw_images, split_meta
from evolve.condensers.meta_network import Condensed, condense, fallback_groups
from evolve.condensers.selection import select
from evolve.data.resident import Resident
from evolve.networks.plan import PAPER_SET, Plan, integral_layers, stack_plan
from evolve.networks.vgg import VGG, initialise
from evolve.randomness import derive_seed
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
    reference: bool = False,
) -> Condensed:
    """Condense the ancestor of ``plan`` and ``state`` (a VGG's state dict) with images of the class ids ``classes``.

    ``reference`` differentiates by autograd throughout. Method "fixed" returns the layers named in ``c.fixed`` with status "fixed", an empty alpha [L, 0] and equal weights.
    Raises UserError where the settings ask for more images or layers than there are.
    """
    groups = integral_layers(plan, c.granularity)
    if c.method == "fixed":
        return _fixed(len(groups), fallback_groups(groups, c.fixed))
    images = draw_images([resident.indices(i, test=False) for i in classes], classes, c.images_per_class, seed)
    split = split_meta(images, c.meta_fraction, seed)
    runs = []
    for number in range(c.repeats):

        def part(fraction: float, text: str, number: int = number) -> None:
            which = f"repeat {number + 1} of {c.repeats}, " if c.repeats > 1 else ""
            progress((number + fraction) / c.repeats, which + text)

        runs.append(_once(plan, state, len(classes), split, resident, c, derive_seed(seed, "repeat", number) if number else seed, part, reference))
    return runs[0] if len(runs) == 1 else agreed(runs, c, fallback_groups(groups, c.fixed))


def _once(
    plan: Plan,
    state: Mapping[str, Tensor],
    classes: int,
    split: tuple[Tensor, Tensor, Tensor, Tensor],
    resident: Resident,
    c: CondenseSettings,
    seed: int,
    progress: Callable[[float, str], None],
    reference: bool,
) -> Condensed:
    """One condensation; ``seed`` draws the pseudo-descendant, the alignment and the batches."""
    ancestor = VGG(plan, len(state["head.weight"]))
    ancestor.load_state_dict(dict(state))
    pseudo_plan = stack_plan(plan, PAPER_SET)
    pseudo = VGG(pseudo_plan, classes)
    initialise(pseudo, seed, "pseudo-descendant")
    return condense(
        ancestor.to(resident.device),
        pseudo.to(resident.device),
        integral_layers(plan, c.granularity),
        integral_layers(pseudo_plan, c.granularity),
        *split,
        resident,
        c,
        seed,
        progress,
        reference,
    )


def agreed(runs: Sequence[Condensed], c: CondenseSettings, fallback: tuple[int, ...]) -> Condensed:
    """Several condensations as one: the selection from their mean alpha, and the share of them that chose just these layers.

    (The paper claims 10 of 10.) Condensations that collapsed or diverged count in the agreement and not in the mean.
    """
    good = [run for run in runs if run.status == "selected"]
    if not good:
        return replace(runs[0], repeats=tuple(run.selected for run in runs), agreement=1.0)
    alpha = torch.stack([run.alpha for run in good]).mean(0)
    chosen = select(alpha, c.selection, c.top_k, fallback, c.objective)
    repeats = tuple(run.selected for run in runs)
    return Condensed(
        alpha,
        chosen.scores,
        chosen.weights,
        chosen.selected,
        chosen.margin,
        chosen.status,
        f"{chosen.selected_by}, mean alpha of {len(good)} condensations",
        runs[0].history,
        repeats,
        sum(one == chosen.selected for one in repeats) / len(repeats),
    )


def _fixed(layers: int, selected: tuple[int, ...]) -> Condensed:
    zeros = torch.zeros(layers, dtype=torch.float64)
    return Condensed(torch.zeros(layers, 0), zeros, zeros + 1 / layers, selected, 0.0, "fixed", "fixed set", {})
