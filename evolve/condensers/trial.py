"""Trial: sets of layers are inherited by a few descendants that learn few-shot tasks of condensing
classes; the set that helps most wins.

Ours (docs/condensers.md): the other condensers ask a proxy, this one the question itself, on
classes that no downstream task shows. The descendants inherit and learn as the lineage's do
(``Request.descend``, ``Request.inherit``).
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
from evolve.descendants.descendants import DownstreamTask, downstream_tasks, train_together
from evolve.learngene.inheritance import inherit
from evolve.learngene.learngene import Learngene, extract
from evolve.networks.architecture import Architecture

SAME = 1e-9  # gains that differ by less are equal: what summing shares of images rounds
# What from-scratch descendants reached, by all that decides it: it depends on no ancestor, so this
# process trains them once for all generations.
_SCRATCH: WeakKeyDictionary[Resident, dict[Hashable, list[float]]] = WeakKeyDictionary()


def trial(request: Request) -> Condensed:
    """The set within ``condense.budget`` whose descendants gain most over from-scratch ones.

    Every candidate's descendants have the same tasks, images, batches and fresh weights, so the
    gains of two sets are paired. Raises UserError for a budget that no set is within, settings that
    ask for more images or classes than there are, and an ancestor that diverged.
    """
    choice = Choice(request.architecture, request.c.granularity, request.inherit, request.c.budget)
    return concluded(request, tried(request, candidates(choice, request.rivals)))


def tried(request: Request, sets: Sequence[Candidate]) -> list[Trial]:
    """What the descendants of each of these sets gain over from-scratch ones, on the request's
    ``trial_tasks`` tasks of its condensing classes.

    Raises UserError for settings that ask for more images or classes than there are, and an
    ancestor that diverged.
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
        """Share of the test images that descendants of ``plan`` get right at the end, one a task. A
        plan that inherits nothing is from scratch.
        """
        heritage = self._learngene(plan)
        if heritage is not None:
            return self._train(plan, heritage, progress)
        known = _SCRATCH.setdefault(self.request.resident, {})
        key = (plan, self.d, self.seed, tuple(self.request.classes), self.request.reference)
        if key not in known:
            known[key] = self._train(plan, None, progress)
        return known[key]

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
            self.tasks,
            resident,
            self.d,
            self.seed,
            numbers,
            progress,
            self.request.reference,
            scale,
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
    """Of those within the budget the one with the best gain; of equal gains the smallest share.
    ValueError where none is within.
    """
    allowed = [trial for trial in trials if trial.within]
    best = max(trial.gain for trial in allowed)
    return min(
        (trial for trial in allowed if trial.gain >= best - SAME), key=lambda trial: trial.share
    )


def concluded(request: Request, trials: Sequence[Trial]) -> Condensed:
    """The condensation of these trials. alpha [L, 1]: :func:`layer_gains`; margin: the best gain
    less the runner-up's within the budget (nothing inherited, 0, where there is no other).
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
    """[layers], float64: the best gain of a set within the budget that holds the layer; 0, what
    inheriting nothing gains, where none does.
    """
    gains = torch.zeros(layers, dtype=torch.float64)
    for layer in range(layers):
        held = [trial.gain for trial in trials if trial.within and layer in trial.layers]
        gains[layer] = max(held, default=0.0)
    return gains


def pooled(request: Request, runs: Sequence[Condensed]) -> Condensed:
    """Repeats as one condensation on all their tasks; they tried the same sets."""
    trials = [
        replace(same[0], gains=tuple(g for t in same for g in t.gains))
        for same in zip(*(run.trials for run in runs), strict=True)
    ]
    found = concluded(request, trials)
    return replace(found, selected_by=f"{found.selected_by}, {len(runs)} condensations")
