"""Trial: sets of layers are inherited by a few descendants, and the set that helps most wins.

The descendants learn few-shot tasks of condensing classes. The method is ours (docs/condensers.md):
the other condensers ask a proxy, this one asks the question itself, on classes that no downstream
task shows. The descendants inherit and learn as the lineage's do (``Request.descend``,
``Request.inherit``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from evolve.condensers.candidates import Candidate, Choice, candidates, trial_settings
from evolve.condensers.interface import Condensed, Request, Trial, ancestor_diverged
from evolve.condensers.selection import standardised
from evolve.core.randomness import derive_seed
from evolve.data.resident import Resident
from evolve.descendants.descendants import DownstreamTask, Group, downstream_tasks, train_together
from evolve.learngene.inheritance import inherit
from evolve.learngene.learngene import Learngene, extract
from evolve.networks.architecture import Architecture

SAME = 1e-9  # gains that differ by less are equal: what summing shares of images rounds
# What from-scratch descendants reached, by all that decides it: it depends on no ancestor, so this
# process trains them once for all generations.
_SCRATCH: WeakKeyDictionary[Resident, dict[Hashable, list[float]]] = WeakKeyDictionary()


def trial(request: Request) -> Condensed:
    """Choose the set within ``condense.budget`` whose descendants gain most over from-scratch ones.

    The descendants of every candidate have the same tasks, images, batches and fresh weights, so
    the gains of two sets are paired.

    Args:
        request: the condensation to do.

    Raises:
        UserError: no set is within the budget, the settings ask for more images or classes than
            there are, or the ancestor diverged.
    """
    choice = Choice(request.architecture, request.c.granularity, request.inherit, request.c.budget)
    return concluded(request, tried(request, candidates(choice, request.rivals)))


def tried(request: Request, sets: Sequence[Candidate]) -> list[Trial]:
    """Measure what the descendants of each set gain over from-scratch ones.

    The tasks are the request's ``trial_tasks`` tasks of its condensing classes.

    Args:
        request: images, settings and seed.
        sets: the sets to try.

    Raises:
        UserError: the settings ask for more images or classes than there are, or the ancestor
            diverged.
    """
    course = Course(request)
    plans = list(dict.fromkeys(plan for c in sets for plan in (c.plan, c.plan.anonymous())))

    def part(number: int, fraction: float, text: str) -> None:
        request.progress(
            (number + fraction) / len(plans),
            f"trial descendants {number + 1} of {len(plans)}, {text}",
        )

    accuracy = {
        plan: course.accuracies(plan, partial(part, number)) for number, plan in enumerate(plans)
    }
    return [_judged(candidate, accuracy) for candidate in sets]


def _judged(c: Candidate, accuracy: dict[Architecture, list[float]]) -> Trial:
    pairs = zip(accuracy[c.plan], accuracy[c.plan.anonymous()], strict=True)
    return Trial(
        c.groups, c.origins, c.share, c.within, tuple(heir - fresh for heir, fresh in pairs)
    )


class Course:
    """The tasks of one condensation, and any descendant's accuracy in them."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.seed = derive_seed(request.seed, "trial")
        self.d = trial_settings(request.descend, request.c.trial_tasks)
        self.tasks: list[DownstreamTask] = downstream_tasks(
            self.d, request.classes, request.resident, self.seed, "condensing"
        )
        self._check_ancestor()

    def accuracies(self, plan: Architecture, progress: Callable[[float, str], None]) -> list[float]:
        """The accuracy that descendants of a plan reach at the end, in [0, 1], a number a task.

        Args:
            plan: the descendant; one that inherits nothing is from scratch.
            progress: told the fraction done and what is being done.
        """
        heritage = self._learngene(plan)
        if heritage is not None:
            return self._train(plan, heritage, progress)
        scratch = _SCRATCH.setdefault(self.request.resident, {})
        key = (plan, self.d, self.seed, tuple(self.request.classes), self.request.reference)
        if key not in scratch:
            scratch[key] = self._train(plan, None, progress)
        return scratch[key]

    def _train(
        self, plan: Architecture, heritage: Learngene | None, progress: Callable[[float, str], None]
    ) -> list[float]:
        resident, numbers = self.request.resident, range(len(self.tasks))
        models = [
            inherit(plan, heritage, self.d.classes_per_task, self.seed, n).to(resident.device)
            for n in numbers
        ]
        scale = self.request.inherit.lr_scale if heritage else 1.0
        trained = train_together(
            models,
            Group(self.tasks, numbers, resident, self.d, self.seed, scale),
            progress,
            reference=self.request.reference,
            newborns=False,
        )
        return [descendant.last for descendant in trained]

    def _learngene(self, plan: Architecture) -> Learngene | None:
        given = {name for mixture in plan.inherits().values() for name in mixture}
        return extract(self.request.state, self.request.architecture, given) if given else None

    @torch.no_grad()
    def _check_ancestor(self) -> None:
        images = self.request.resident.batch(self.tasks[0].train)
        if not torch.isfinite(self.request.ancestor().embed(images)).all():
            raise ancestor_diverged("features")


def chosen(trials: Sequence[Trial]) -> Trial:
    """The set within the budget with the best gain; of equal gains the smallest share.

    Args:
        trials: every set's result.

    Raises:
        ValueError: no set is within the budget.
    """
    allowed = [trial for trial in trials if trial.within]
    best = max(trial.gain for trial in allowed)
    return min(
        (trial for trial in allowed if trial.gain >= best - SAME), key=lambda trial: trial.share
    )


def concluded(request: Request, trials: Sequence[Trial]) -> Condensed:
    """Make a condensation of trials.

    Its alpha [L, 1] is :func:`layer_gains`. Its margin is the best gain less the runner-up's within
    the budget; where there is no other set, less 0, which inheriting nothing gains.

    Args:
        request: the request that is answered.
        trials: every set's result, at least one within the budget.
    """
    best = chosen(trials)
    others = [trial.gain for trial in trials if trial.within and trial is not best]
    alpha = layer_gains(trials, len(request.groups))
    points, percent = f"{100 * best.gain:+.1f} points", f"{100 * best.share:.3g} %"
    words = f"trial: {best.origins[0]}, {points} on condensing classes, {percent} of the weights"
    return Condensed(
        alpha=alpha[:, None],
        scores=alpha,
        weights=torch.softmax(standardised(alpha), dim=0),
        selected=best.layers,
        margin=best.gain - max(others, default=0.0),
        status="selected",
        selected_by=words,
        history={},
        trials=tuple(trials),
        pool=partial(pooled, request),
    )


def layer_gains(trials: Sequence[Trial], layers: int) -> Tensor:
    """The best gain of a set within the budget that holds the layer.

    Args:
        trials: every set's result.
        layers: L, the number of layer groups.

    Returns:
        [L], float64; 0, which inheriting nothing gains, where no such set holds the layer.
    """
    gains = torch.zeros(layers, dtype=torch.float64)
    for layer in range(layers):
        held = [trial.gain for trial in trials if trial.within and layer in trial.layers]
        gains[layer] = max(held, default=0.0)
    return gains


def pooled(request: Request, runs: Sequence[Condensed]) -> Condensed:
    """Make one condensation of repeats, on all their tasks; they tried the same sets.

    Args:
        request: the request that they answer.
        runs: the repeats.
    """
    trials = [
        replace(same[0], gains=tuple(g for t in same for g in t.gains))
        for same in zip(*(run.trials for run in runs), strict=True)
    ]
    condensation = concluded(request, trials)
    return replace(
        condensation, selected_by=f"{condensation.selected_by}, {len(runs)} condensations"
    )
