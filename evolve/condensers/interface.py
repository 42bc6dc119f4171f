"""What a condenser is given and what it returns.

A condenser is a function ``Request -> Condensed`` (docs/plugins.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evolve.condensers.batches import draw_images, split_meta
from evolve.condensers.selection import Selection, select_scores
from evolve.core.errors import UserError
from evolve.core.settings import CondenseSettings, DescendSettings, InheritSettings
from evolve.core.spent import Progress
from evolve.data.resident import Resident
from evolve.networks.architecture import Architecture, Groups, holders, owners
from evolve.networks.network import Network, frozen, initialise


@dataclass(frozen=True)
class Trial:
    """How a candidate set did under method "trial".

    Attributes:
        layers: its 0-based layer groups.
        origins: where it comes from, such as "front 7" and "meta-network".
        share: of the ancestor's weights that a descendant inherits, in [0, 1].
        within: whether that is within the budget.
        gains: a task's accuracy with the set inherited less that of the same architecture from
            scratch, both in [0, 1], one number a task.
    """

    layers: tuple[int, ...]
    origins: tuple[str, ...]
    share: float
    within: bool
    gains: tuple[float, ...]

    @property
    def gain(self) -> float:
        """Mean over the tasks, a share: 0.152 is 15.2 points."""
        return math.fsum(self.gains) / len(self.gains)

    @property
    def error(self) -> float:
        """The mean's standard error over the tasks, a share.

        It is 0 for a single task, which says nothing of it.
        """
        n, mean = len(self.gains), self.gain
        return (
            math.sqrt(math.fsum((gain - mean) ** 2 for gain in self.gains) / (n - 1) / n)
            if n > 1
            else 0.0
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a stage's record, ``gain`` and ``error`` among them."""
        held = {
            "layers": list(self.layers),
            "origins": list(self.origins),
            "share": self.share,
            "within": self.within,
        }
        return held | {"gain": self.gain, "error": self.error, "gains": list(self.gains)}


@dataclass(frozen=True)
class Condensed:
    """The outcome of a condensation.

    There are L layer groups of the ancestor and K of the pseudo-descendant; K = 1 for condensers
    that score layers alone.

    Attributes:
        alpha: [L, K], each pair's mean over the meta-data.
        scores: alpha^l [L], float64.
        weights: a~^l [L], float64 (paper, Eq. 9).
        selected: 0-based positions, ascending.
        margin: how far the selection is from another one.
        status: "selected", "tied", "collapsed" or "fixed".
        selected_by: the rule, in words.
        history: curves with a number an epoch, by name.
        repeats: every selection of repeated condensations.
        agreement: the share of ``repeats`` that equals ``selected``.
        choose: the rule that selected by alpha; None stands for the meta-network's.
        effort: numbers on how it was reached, each a list of one a condensation.
        trials: every candidate set of method "trial", by share.
        pool: how repeated condensations become one; None: by ``choose`` on their mean alpha.
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
    trials: tuple[Trial, ...] = ()
    pool: Callable[[Sequence[Condensed]], Condensed] | None = None


@dataclass(frozen=True)
class Split:
    """The condensing images (appendix A.1).

    Indices are int64 into the Resident, labels 0..classes-1.
    """

    train: Tensor
    train_labels: Tensor
    meta: Tensor
    meta_labels: Tensor


@dataclass(frozen=True, eq=False)
class Request:
    """One condensation to do.

    Only method "trial" reads ``descend``, ``inherit`` and ``rivals``.

    Attributes:
        architecture: the ancestor's network.
        state: its state dict.
        ancestor_record: what its training recorded; empty for a network that was not trained here.
        classes: ids of the condensing classes.
        resident: their images.
        c: the settings.
        seed: draws everything random, but for the split of a repeat.
        progress: told how far the work is.
        reference: leave every derivative to autograd.
        split_seed: draws the split of a repeat; None: ``seed`` does.
        wrong_images: a null test; the seed of the permutation by which every image gets another
            one's ancestor features. Methods "meta-network" and "similarity" read it.
        descend, inherit: how trial descendants learn and inherit.
        rivals: 0-based groups that other condensers chose of this ancestor, by their names.
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
    descend: DescendSettings = DescendSettings()
    inherit: InheritSettings = InheritSettings()
    rivals: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def groups(self) -> Groups:
        """The layers that are chosen among, L groups."""
        return self.architecture.integral_layers(self.c.granularity)

    @cached_property
    def fallback(self) -> tuple[int, ...]:
        """The 0-based groups of the fixed set.

        Method "fixed" returns them. They are taken, too, where nothing was decided.
        """
        if self.c.fixed:
            return numbered_groups(self.groups, self.c.fixed)
        return holders(self.groups, self.architecture.named_set(self.c.fixed_set, self.c.top_k))

    @cached_property
    def split(self) -> Split:
        """The condensing images, the same split for every repeat.

        Raises:
            UserError: there are too few images.
        """
        seed = self.seed if self.split_seed is None else self.split_seed
        images = draw_images(
            [self.resident.indices(i, test=False) for i in self.classes],
            [self.resident.own_id(i) for i in self.classes],
            self.c.images_per_class,
            seed,
        )
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
        """Make the same request with other draws, on the same split of the same images."""
        return replace(
            self,
            seed=seed,
            progress=progress,
            split_seed=self.seed if self.split_seed is None else self.split_seed,
        )


def fixed_condensation(request: Request, why: str, status: str = "fixed") -> Condensed:
    """Make a condensation of the fixed set, with an empty alpha [L, 0] and equal weights.

    Args:
        request: the request that names the set.
        why: the rule, in words.
        status: as in :class:`Condensed`.
    """
    layers = len(request.groups)
    zeros = torch.zeros(layers, dtype=torch.float64)
    return Condensed(
        torch.zeros(layers, 0), zeros, zeros + 1 / layers, request.fallback, 0.0, status, why, {}
    )


def scored(
    request: Request, alpha: Tensor, history: dict[str, list[float]], selection: str
) -> Condensed:
    """Make a condensation of scores by :func:`select_scores`.

    Args:
        request: the request that is answered.
        alpha: scores [L, K], the higher the better; alpha^l is the maximum over k.
        history: curves with a number an epoch, by name.
        selection: "threshold" or "top-k".
    """
    top_k = request.c.top_k if selection == "top-k" else 0

    def choose(scores: Tensor) -> Selection:
        return select_scores(scores.max(1).values, selection, top_k, request.fallback)

    return condensed(alpha, history, choose)


def condensed(
    alpha: Tensor, history: dict[str, list[float]], choose: Callable[[Tensor], Selection]
) -> Condensed:
    """Make a condensation of alpha under a rule.

    An alpha that is not finite becomes 0.

    Args:
        alpha: [L, K].
        history: curves with a number an epoch, by name.
        choose: the rule, from alpha to a selection.
    """
    selection = choose(alpha)
    finite = alpha if torch.isfinite(alpha).all() else torch.zeros_like(alpha)
    return Condensed(
        finite,
        selection.scores,
        selection.weights,
        selection.selected,
        selection.margin,
        selection.status,
        selection.selected_by,
        history,
        choose=choose,
    )


def numbered_groups(groups: Groups, fixed: Sequence[int]) -> tuple[int, ...]:
    """The 0-based groups that ``condense.fixed`` means.

    Numbers beyond the groups count single layers, and the groups that hold those are meant: the
    paper's set 1, 11, 12, 13 is stages 1 and 5.

    Args:
        groups: the layer groups.
        fixed: numbers from 1.

    Raises:
        UserError: a number is beyond the layers, too.
    """
    owner = owners(groups)
    if max(fixed) <= len(groups):
        return tuple(sorted({n - 1 for n in fixed}))
    if max(fixed) > len(owner):
        raise UserError(
            f"condense.fixed = {list(fixed)}: the ancestor has layers 1 to {len(owner)}"
        )
    return tuple(sorted({owner[n - 1] for n in fixed}))


def ancestor_diverged(what: str) -> UserError:
    """The error for an ancestor that is not finite on the condensing images.

    Args:
        what: what of it is not, such as "features".
    """
    return UserError(
        f"ancestor.lr: the ancestor diverged, its {what} on the condensing images are not finite; "
        "lower ancestor.lr"
    )
