"""What a condenser is given and what it finds. A condenser is a function ``Request -> Condensed`` (docs/plugins.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evolve.condensers.batches import draw_images, split_meta
from evolve.condensers.selection import Selection, select_scores
from evolve.data.resident import Resident
from evolve.errors import UserError
from evolve.networks.architecture import Architecture, Groups
from evolve.networks.network import Network, frozen, initialise
from evolve.settings import CondenseSettings

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Condensed:
    """What a condensation found. L ancestor layer groups, K pseudo-descendant layer groups (K = 1 for condensers that score layers alone).

    ``alpha`` [L, K]: each pair's mean over the meta-data; ``scores`` [L] alpha^l and ``weights`` [L] a~^l (Eq. 9), float64;
    ``selected``: 0-based positions; ``status``: "selected", "tied", "collapsed" or "fixed"; ``history``: per epoch. Of repeated
    condensations ``repeats`` holds every selection and ``agreement`` the share that equals ``selected``. ``choose``: the rule that made
    the selection of alpha; None stands for the meta-network's. ``effort``: numbers on how it was reached, a list of one a condensation.
    """

    alpha: Tensor
    scores: Tensor
    weights: Tensor
    selected: tuple[int, ...]
    margin: float
    status: str
    selected_by: str
    history: dict[str, list[float]]
    repeats: tuple[tuple[int, ...], ...] = ()
    agreement: float | None = None
    choose: Callable[[Tensor], Selection] | None = None
    effort: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """The condensing images (appendix A.1): int64 indices into the Resident, labels 0..classes-1."""

    train: Tensor
    train_labels: Tensor
    meta: Tensor
    meta_labels: Tensor


@dataclass(frozen=True, eq=False)
class Request:
    """One condensation to do.

    ``architecture`` and ``state``: the ancestor's network and its state dict; ``ancestor_record``: what its training recorded (empty for a
    network that was not trained here); ``classes``: the condensing classes' ids, whose images ``resident`` holds; ``seed`` draws
    everything random, but for the split of a repeat, which ``split_seed`` draws. ``reference``: leave every derivative to autograd.
    ``wrong_images``: a null test; the seed of the permutation by which every image gets another one's ancestor features (read by
    ``meta-network`` and ``similarity``).
    """

    architecture: Architecture
    state: Mapping[str, Tensor]
    ancestor_record: Mapping[str, Any]
    classes: Sequence[int]
    resident: Resident
    c: CondenseSettings
    seed: int
    progress: Progress
    reference: bool = False
    split_seed: int | None = None
    wrong_images: int | None = None

    @cached_property
    def groups(self) -> Groups:
        """The layers that are chosen among, L groups."""
        return self.architecture.integral_layers(self.c.granularity)

    @cached_property
    def fallback(self) -> tuple[int, ...]:
        """The 0-based groups of the fixed set: what method "fixed" returns, and what is taken where nothing was decided."""
        if self.c.fixed:
            return numbered_groups(self.groups, self.c.fixed)
        chosen = self.architecture.named_set(self.c.fixed_set, self.c.top_k)
        owner = _owners(self.groups)
        return tuple(sorted({owner[place] for place in chosen}))

    @cached_property
    def split(self) -> Split:
        """The condensing images, the same split for every repeat. Raises UserError where there are too few."""
        seed = self.seed if self.split_seed is None else self.split_seed
        images = draw_images([self.resident.indices(i, test=False) for i in self.classes], [self.resident.own_id(i) for i in self.classes], self.c.images_per_class, seed)
        return Split(*split_meta(images, self.c.meta_fraction, seed))

    def ancestor(self) -> Network:
        """The ancestor's network, frozen, in eval mode, on the Resident's device."""
        return frozen(self.architecture, self.state, self.resident.device)

    def pseudo(self) -> Network:
        """A fresh pseudo-descendant: the paper's descendant for the condensing classes."""
        model = self.architecture.paper_descendant().build(len(self.classes))
        initialise(model, self.seed, "pseudo-descendant")
        return model.to(self.resident.device)

    @cached_property
    def pseudo_groups(self) -> Groups:
        """The pseudo-descendant's layers that features are taken of, K groups."""
        return self.architecture.paper_descendant().integral_layers(self.c.granularity)

    def again(self, seed: int, progress: Progress) -> Request:
        """The same with other draws, on the same split of the same images."""
        return replace(self, seed=seed, progress=progress, split_seed=self.seed if self.split_seed is None else self.split_seed)


def fixed_condensation(request: Request, why: str, status: str = "fixed") -> Condensed:
    """The fixed set: an empty alpha [L, 0], equal weights."""
    layers = len(request.groups)
    zeros = torch.zeros(layers, dtype=torch.float64)
    return Condensed(torch.zeros(layers, 0), zeros, zeros + 1 / layers, request.fallback, 0.0, status, why, {})


def scored(request: Request, alpha: Tensor, history: dict[str, list[float]], selection: str) -> Condensed:
    """The condensation of scores ``alpha`` [L, K], the higher the better, alpha^l = max_k, by :func:`select_scores` under ``selection``."""
    top_k = request.c.top_k if selection == "top-k" else 0

    def choose(scores: Tensor) -> Selection:
        return select_scores(scores.max(1).values, selection, top_k, request.fallback)

    return condensed(alpha, history, choose)


def condensed(alpha: Tensor, history: dict[str, list[float]], choose: Callable[[Tensor], Selection]) -> Condensed:
    """The condensation of ``alpha`` [L, K] under the rule ``choose``. An alpha that collapsed because it is not finite becomes 0."""
    found = choose(alpha)
    finite = alpha if torch.isfinite(alpha).all() else torch.zeros_like(alpha)
    return Condensed(
        finite, found.scores, found.weights, found.selected, found.margin, found.status, found.selected_by, history, choose=choose
    )


def numbered_groups(groups: Groups, fixed: Sequence[int]) -> tuple[int, ...]:
    """The 0-based groups that ``fixed`` (1-based) means.

    Where the numbers go beyond the groups they number the single layers, and the groups that hold those are meant:
    the paper's set 1, 11, 12, 13 is stages 1 and 5. Raises UserError for a number beyond both.
    """
    owner = _owners(groups)
    if max(fixed) <= len(groups):
        return tuple(sorted({n - 1 for n in fixed}))
    if max(fixed) > len(owner):
        raise UserError(f"condense.fixed = {list(fixed)}: the ancestor has layers 1 to {len(owner)}")
    return tuple(sorted({owner[n - 1] for n in fixed}))


def _owners(groups: Groups) -> list[int]:
    return [number for number, group in enumerate(groups) for _ in group]
