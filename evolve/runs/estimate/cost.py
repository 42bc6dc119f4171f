"""What a stage costs on one core, in seconds, from its settings alone.

A training step of B images takes

    B * (3 * macs / speed + features * feature) + layers * layer + parameters * parameter

with macs the multiply-adds of a forward pass (the gradients of input and weights cost as much each), features the numbers that all layers
put out (BN, ReLU and pooling pass over them in memory), layers the calls that cost time whatever their size, and the update's sweep over the
parameters. The constants were fitted once to the table of docs/performance.md (`evolve bench --growth` prints it for any machine and sets the formula
beside it); `evolve plan` times a few steps and scales each kind of stage by measured over estimated. No number of a lineage depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evolve.condensers.candidates import Choice, candidates, trial_settings
from evolve.core.fewshot_settings import READ
from evolve.core.settings import Settings, descend_source
from evolve.learngene.inheritors import descendant
from evolve.lineage.schedule import measured
from evolve.lineage.world import ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json


@dataclass(frozen=True)
class Rates:
    """What one core with AVX-512 does. ``speed``: giga multiply-adds a second in large layers; seconds: ``feature`` for a number that passes through BN,
    ReLU and pool, forward and back, ``layer`` for a layer's calls in a training step, ``parameter`` for the update of one. ``matching``: an
    image's matching of all pairs of layers, beside a training image of the pseudo-descendant.
    """

    speed: float
    feature: float
    layer: float
    parameter: float
    matching: float


COMPILED = Rates(58.0, 7e-10, 6e-5, 0.0, 4.1)  # VGGs; SGD's step is part of the weight gradient
LIBRARY = Rates(55.0, 7e-9, 4e-4, 1.6e-9, 1.85)
EVAL_SHARE = 0.3  # of a training image's time: forward only, larger batches
FISHER_IMAGES = 512  # at most so many meta images enter evolve.condensers.fisher
ATTEMPTS = 2  # condensations, mostly, where alpha is to move a certain way
CURVATURE = 2.2  # a Hessian product, beside a forward and backward pass
TRANSPORT_SECONDS = 6e-5  # one optimal transport between few places


def rates_of(plan: Architecture) -> Rates:
    """By who computes it."""
    return COMPILED if plan.family == "vgg" else LIBRARY


@dataclass(frozen=True)
class Work:
    """Images that are trained on and tested, and optimizer steps, of a network of ``plan`` at ``size`` pixels."""

    plan: Architecture
    size: int
    images: float
    steps: float
    tested: float = 0.0

    def seconds(self) -> float:
        """On one core of the machine the constants were fitted on."""
        rates = rates_of(self.plan)
        image = 3 * self.plan.macs(self.size) / rates.speed + self.plan.numbers_out(self.size) * rates.feature
        step = len(self.plan.layer_names) * rates.layer + self.plan.parameters * rates.parameter
        return self.images * image + self.steps * step + self.tested * EVAL_SHARE * image


HELD = {"cifar100": (500, 100), "tinyimagenet": (500, 50), "imagenet": (1281, 50), "miniimagenet": (500, 100)}


def images_per_class(settings: Settings, role: str) -> tuple[int, int]:
    """Training and test images a class that the role's source holds, after the hold-out."""
    data = settings.data
    source = data.source if role == "ancestor" else descend_source(data)
    train, test = HELD.get(source, (data.glyph_train, data.glyph_test))
    if source in ("imagenet", "miniimagenet"):
        train = min(train, data.images_per_class or train)
    return max(1, train - data.holdout), test + data.holdout


def _seen_per_class(settings: Settings) -> int:
    """Training images a class that the ancestor, and with it a few-shot learner, may see."""
    train, _ = images_per_class(settings, "ancestor")
    return min(train, settings.stream.images_per_class or train)


def seconds(settings: Settings, kind: str, recipe: Mapping[str, Any]) -> float:
    """One stage on one core."""
    ancestor = ancestor_plan(settings)
    if kind == "accumulate":
        return _accumulate_seconds(settings, ancestor, recipe)
    if kind == "condense":
        method = recipe["condense"]["method"] if "condense" in recipe else settings.condense.method
        return _condense_seconds(
            replace(settings, condense=replace(settings.condense, method=method)), ancestor
        )
    if kind == "fewshot":
        return _fewshot_seconds(settings, paper_descendant(settings), recipe["learner"])
    if recipe["method"] == "full-ancestor":
        return _descend_seconds(settings, ancestor)
    one = _descend_seconds(settings, from_json(recipe["plan"]) if "plan" in recipe else _expected(settings, ancestor))
    return one + _hints_seconds(settings, ancestor) if recipe["method"] == "distilled" else one


def _accumulate_seconds(s: Settings, plan: Architecture, recipe: Mapping[str, Any]) -> float:
    task = recipe["task"]
    if task == 0:
        return 0.1
    train, test = _seen_per_class(s), images_per_class(s, "ancestor")[1]
    share = task if recipe["ancestor"]["strategy"] in ("joint", "cumulative") else 1
    images = train * s.stream.classes_per_task * share * s.ancestor.epochs
    return Work(plan, s.data.size, images, images / s.ancestor.batch, test * s.stream.classes_per_task * task).seconds()


def _condense_seconds(s: Settings, ancestor: Architecture) -> float:
    """One iteration under Eq. 16 trains on a batch once, which passes the ancestor, too, and looks at a
    meta batch. Bilevel, it trains on a batch twice and on a meta batch 2 + T times; of its T + 1
    look-ahead steps all but the first need a Hessian product. The other condensers train on a batch
    once, and match (similarity) or not (CKA). A plug-in's is taken for a meta-network.
    """
    c = s.condense
    if c.method in ("fixed", "gradient", "random"):
        return 0.1
    if c.method == "trial":
        return c.repeats * _trial_seconds(s, ancestor)
    train, _ = images_per_class(s, "condense")
    classes = len(s.data.condense_classes) or s.data.split[1]
    images = classes * min(train, c.images_per_class or train)
    if c.method == "fisher":
        single = min(FISHER_IMAGES, images * c.meta_fraction)  # one gradient an image
        return c.repeats * Work(ancestor, s.data.size, single, single).seconds()
    iterations = c.repeats * c.epochs * max(1, images * (1 - c.meta_fraction) // c.batch)
    if c.method in ("similarity", "cka"):
        matched = c.meta_batch if c.method == "similarity" else 0
        work = Work(ancestor.paper_descendant(), s.data.size, c.batch + rates_of(ancestor).matching * matched * 2, 1 + (matched > 0))
        return iterations * work.seconds() + Work(ancestor, s.data.size, 0, 0, images * c.meta_fraction).seconds()
    ahead = c.lookahead if c.objective == "bilevel" else 0
    own = 2.0 * c.batch + (2 + ahead) * c.meta_batch if ahead else float(c.batch)
    own += CURVATURE * (c.batch + (ahead - 1) * c.meta_batch) if ahead else 0
    matched = (1 + 2 * ahead) * c.meta_batch if ahead else c.batch + c.meta_batch
    passes = 4 + 3 * ahead if ahead else 3
    if c.objective == "eq16":
        seen = images * (1 - c.meta_fraction)  # passes the ancestor: once, or in every epoch anew
        images_seen = images * c.meta_fraction + (seen * c.repeats * c.epochs if c.augment else seen)
        attempts = ATTEMPTS if c.meta_reach and c.meta_optimizer == "sgd" else 1
    else:
        images_seen, attempts = images * c.meta_fraction, 1
    work = Work(ancestor.paper_descendant(), s.data.size, own + rates_of(ancestor).matching * matched * 2, passes)
    return attempts * iterations * work.seconds() + Work(ancestor, s.data.size, 0, 0, images_seen).seconds()


def _trial_seconds(s: Settings, ancestor: Architecture) -> float:
    """The descendants of every candidate, and this generation's part of those from scratch, which a
    process trains once for all measured lengths. What rivals choose is taken for one of them.
    """
    c = s.condense
    tried = candidates(Choice(ancestor, c.granularity, s.inherit, c.budget), {})
    learning = replace(s, descend=trial_settings(s.descend, c.trial_tasks))
    heirs = sum(_descend_seconds(learning, plan) for plan in {one.plan for one in tried})
    fresh = sum(_descend_seconds(learning, plan) for plan in {one.plan.anonymous() for one in tried})
    return heirs + fresh / len(measured(s))


def _expected(s: Settings, ancestor: Architecture) -> Architecture:
    """The descendant, as if the paper's set had been selected."""
    return descendant(ancestor, [ancestor.layer_names[place] for place in ancestor.named_set("paper", 0)], s.inherit)


def _hints_seconds(s: Settings, ancestor: Architecture) -> float:
    """The ancestor's forward pass of every training image."""
    train, _ = images_per_class(s, "descend")
    images = s.descend.descendants * s.descend.classes_per_task * min(train, s.descend.shots) * s.descend.epochs
    return Work(ancestor, s.data.size, 0, 0, images).seconds()


def _descend_seconds(s: Settings, plan: Architecture) -> float:
    train, test = images_per_class(s, "descend")
    d = s.descend
    images = d.descendants * d.classes_per_task * min(train, d.shots) * d.epochs
    tests = 1 + (-(-d.epochs // d.test_every) if d.test_every else 1)  # the newborn's is one
    tested = d.descendants * d.classes_per_task * min(test, d.test_per_class or test) * tests
    return Work(plan, s.data.size, images, images / d.batch, tested).seconds()


def _fewshot_seconds(s: Settings, plan: Architecture, learner: str) -> float:
    """Episodes, the pre-training of those that have one, and the adapting to every downstream task; a second-order inner step counts as a
    gradient and two Hessian products (timed).
    """
    f, d, (train, test) = s.fewshot, s.descend, images_per_class(s, "descend")
    seen = _seen_per_class(s)
    ways, read = d.classes_per_task, READ[learner]
    support, tested = ways * min(train, d.shots), ways * min(test, d.test_per_class or test)
    second = learner in ("maml", "protomaml", "boil") and (learner == "maml" or f.order == 2)
    inner = f.inner_steps * (1 + 2 * CURVATURE * second) if "inner_steps" in read else 0.0
    adapting = f.test_steps * support if "test_steps" in read else 0.0
    images = f.episodes * ways * ((1 + inner) * f.shots + f.queries) if "episodes" in read else 0.0
    steps = f.episodes * (1 + inner) if "episodes" in read else 0.0
    if learner == "reptile":
        images, adapting = float(f.episodes * f.reptile_steps * f.reptile_batch), float(f.reptile_test_steps * f.reptile_batch)
        steps = float(f.episodes * f.reptile_steps)
    if "pretrain_epochs" in read:
        classes = len(s.data.ancestor_classes) or s.data.split[0]
        images, steps = images + f.pretrain_epochs * classes * seen, steps + f.pretrain_epochs * classes * seen / f.pretrain_batch
    pairs = f.episodes * ways * f.queries + d.descendants * (f.emd_steps * support + tested) if learner == "deepemd" else 0
    work = Work(plan, s.data.size, images + d.descendants * adapting, steps, d.descendants * (support + tested))
    return work.seconds() + pairs * ways * TRANSPORT_SECONDS


def estimate(settings: Settings, workers: int = 2) -> float:
    """Seconds for a whole lineage from an empty store: the serial chain or the shared rest, whichever is longer."""
    c, tasks = settings.controls, settings.stream.tasks
    recipe = {"ancestor": {"strategy": settings.ancestor.strategy}}
    trained_at = measured(settings) if settings.ancestor.strategy == "joint" else range(tasks + 1)
    chain = sum(seconds(settings, "accumulate", recipe | {"task": t}) for t in trained_at)
    one = seconds(settings, "descend", {"method": "inherited"})
    generations = len(measured(settings))
    trained = generations - (c.untrained and tasks > 0)
    descents = generations * (1 + c.from_scratch * c.draws) + sum(trained // every for every in (c.shuffled, c.joint, c.distilled) if every)
    rest = descents * one + generations * seconds(settings, "condense", {})
    others = settings.condense.rivals if settings.condense.method == "trial" else ()
    rest += generations * sum(seconds(settings, "condense", {"condense": {"method": name}}) for name in others)
    rest += (trained // c.full_ancestor + c.from_scratch * c.draws if c.full_ancestor else 0) * seconds(settings, "descend", {"method": "full-ancestor"})
    rest += (trained // c.distilled if c.distilled else 0) * _hints_seconds(settings, ancestor_plan(settings))
    rest += sum(seconds(settings, "fewshot", {"learner": learner}) for learner in set(settings.fewshot.learners))
    return max(chain, (chain + rest) / workers)
