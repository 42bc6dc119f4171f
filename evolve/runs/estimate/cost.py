"""What a stage costs on one core, in seconds, from its settings alone.

The costs of training steps (`evolve.networks.cost`) were fitted once to the table of
docs/performance.md. `evolve bench --growth` prints that table for any machine and sets the formula
beside it. `evolve plan` times a few steps and scales each kind of stage by measured over estimated.
What differs from method to method stands in the methods' records. No number of a lineage depends on
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evolve.condensers import methods as condensers
from evolve.condensers.cost import Asked
from evolve.core.registry import records
from evolve.core.settings import Settings
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.learngene.inheritors import cut_down, descendant
from evolve.lineage.schedule import measured
from evolve.lineage.world import ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture
from evolve.networks.cost import CURVATURE, GAINED, Work
from evolve.networks.family import from_json
from evolve.runs.estimate.counts import Counts, published

TRANSPORT_SECONDS = 6e-5  # one optimal transport between few places


def _seen_per_class(settings: Settings, counts: Counts) -> int:
    """Training images a class that the ancestor, and with it a few-shot learner, may see."""
    train = counts["ancestor"].train
    return min(train, settings.stream.images_per_class or train)


def seconds(
    settings: Settings, kind: str, recipe: Mapping[str, Any], counts: Counts | None = None
) -> float:
    """Seconds of one stage on one core.

    Args:
        settings: the run's.
        kind: the stage's.
        recipe: what the stage reads, as its key holds it.
        counts: classes and images of its roles; None: the published ones.
    """
    counts = counts or published(settings)
    ancestor = ancestor_plan(settings)
    if kind == "accumulate":
        return _accumulate_seconds(settings, counts, ancestor, recipe)
    if kind == "condense":
        method = recipe["condense"]["method"] if "condense" in recipe else settings.condense.method
        return _condense_seconds(
            replace(settings, condense=replace(settings.condense, method=method)), counts, ancestor
        )
    if kind == "fewshot":
        return _fewshot_seconds(settings, counts, paper_descendant(settings), recipe["learner"])
    if recipe["method"] == "full-ancestor":
        return _descend_seconds(settings, counts, cut_down(ancestor, settings.inherit))
    plan = from_json(recipe["plan"]) if "plan" in recipe else _expected(settings, ancestor)
    descent = _descend_seconds(settings, counts, plan)
    if recipe["method"] == "distilled":
        descent += _hints_seconds(settings, counts, ancestor)
    return descent


def _accumulate_seconds(
    s: Settings, counts: Counts, plan: Architecture, recipe: Mapping[str, Any]
) -> float:
    task = recipe["task"]
    if task == 0:
        return 0.1
    train, test = _seen_per_class(s, counts), counts["ancestor"].test
    strategy = records("strategies").get(recipe["ancestor"]["strategy"])
    share = task if strategy and strategy.whole else 1
    images = train * s.stream.classes_per_task * share * s.ancestor.epochs
    return Work(
        plan,
        s.data.size,
        images,
        images / s.ancestor.batch,
        test * s.stream.classes_per_task * task,
    ).seconds()


def _condense_seconds(s: Settings, counts: Counts, ancestor: Architecture) -> float:
    """By the method's record; a plug-in's is taken for a meta-network."""
    c, held = s.condense, counts["condense"]
    images = held.classes * min(held.train, c.images_per_class or held.train)
    asked = Asked(
        c,
        ancestor,
        s.data.size,
        images,
        s.inherit,
        s.descend,
        lambda learning, plan: _descend_seconds(replace(s, descend=learning), counts, plan),
        len(measured(s)),
    )
    return condensers.method(c.method).cost(asked)


def _expected(s: Settings, ancestor: Architecture) -> Architecture:
    """The descendant, as if the paper's set had been selected."""
    return descendant(
        ancestor,
        [ancestor.layer_names[place] for place in ancestor.named_set("paper", 0)],
        s.inherit,
    )


def _hints_seconds(s: Settings, counts: Counts, ancestor: Architecture) -> float:
    """The ancestor's forward pass of every training image."""
    images = (
        s.descend.descendants
        * s.descend.classes_per_task
        * min(counts["descend"].train, s.descend.shots)
        * s.descend.epochs
    )
    return Work(ancestor, s.data.size, 0, 0, images).seconds()


def _descend_seconds(s: Settings, counts: Counts, plan: Architecture) -> float:
    train, test, d = counts["descend"].train, counts["descend"].test, s.descend
    images = d.descendants * d.classes_per_task * min(train, d.shots) * d.epochs
    tests = 1 + (-(-d.epochs // d.test_every) if d.test_every else 1)  # the newborn's is one
    tested = d.descendants * d.classes_per_task * min(test, d.test_per_class or test) * tests
    gain = 1.0 if plan.passes or d.optimizer not in plan.learners else GAINED.get(plan.family, 1.0)
    return Work(plan, s.data.size, images, images / d.batch, tested).seconds() / gain


def _fewshot_seconds(s: Settings, counts: Counts, plan: Architecture, learner: str) -> float:
    """Episodes, pre-training where there is one, and adaptation to every downstream task.

    A second-order inner step counts as a gradient and two Hessian products (timed).
    """
    f, d, seen = s.fewshot, s.descend, _seen_per_class(s, counts)
    train, test = counts["descend"].train, counts["descend"].test
    ways, read = d.classes_per_task, LEARNERS[learner].reads
    support, tested = ways * min(train, d.shots), ways * min(test, d.test_per_class or test)
    second = f.order == 2 if "order" in read else LEARNERS[learner].second_order
    inner = f.inner_steps * (1 + 2 * CURVATURE * second) if "inner_steps" in read else 0.0
    adapting = f.test_steps * support if "test_steps" in read else 0.0
    images = f.episodes * ways * ((1 + inner) * f.shots + f.queries) if "episodes" in read else 0.0
    steps = f.episodes * (1 + inner) if "episodes" in read else 0.0
    if "reptile_steps" in read:
        images, adapting = (
            float(f.episodes * f.reptile_steps * f.reptile_batch),
            float(f.reptile_test_steps * f.reptile_batch),
        )
        steps = float(f.episodes * f.reptile_steps)
    if "pretrain_epochs" in read:
        classes = counts["ancestor"].classes
        images, steps = (
            images + f.pretrain_epochs * classes * seen,
            steps + f.pretrain_epochs * classes * seen / f.pretrain_batch,
        )
    pairs = (
        f.episodes * ways * f.queries + d.descendants * (f.emd_steps * support + tested)
        if "emd_steps" in read
        else 0
    )
    work = Work(
        plan,
        s.data.size,
        images + d.descendants * adapting,
        steps,
        d.descendants * (support + tested),
    )
    return work.seconds() + pairs * ways * TRANSPORT_SECONDS


def estimate(settings: Settings, workers: int = 2, counts: Counts | None = None) -> float:
    """Seconds of a whole lineage from an empty store.

    This is the serial chain or the shared rest, whichever is longer.

    Args:
        settings: the run's.
        workers: worker processes.
        counts: as of :func:`seconds`.
    """
    counts = counts or published(settings)
    c, tasks = settings.controls, settings.stream.tasks
    recipe = {"ancestor": {"strategy": settings.ancestor.strategy}}
    trained_at = measured(settings) if settings.ancestor.strategy == "joint" else range(tasks + 1)
    chain = sum(seconds(settings, "accumulate", recipe | {"task": t}, counts) for t in trained_at)
    descent = seconds(settings, "descend", {"method": "inherited"}, counts)
    generations = len(measured(settings))
    trained = generations - (c.untrained and tasks > 0)
    descents = generations * (1 + c.from_scratch * c.draws) + sum(
        trained // every for every in (c.shuffled, c.joint, c.distilled) if every
    )
    rest = descents * descent + generations * seconds(settings, "condense", {}, counts)
    others = settings.condense.rivals if settings.condense.method == "trial" else ()
    rest += generations * sum(
        seconds(settings, "condense", {"condense": {"method": name}}, counts) for name in others
    )
    rest += (
        trained // c.full_ancestor + c.from_scratch * c.draws if c.full_ancestor else 0
    ) * seconds(settings, "descend", {"method": "full-ancestor"}, counts)
    rest += (trained // c.distilled if c.distilled else 0) * _hints_seconds(
        settings, counts, ancestor_plan(settings)
    )
    rest += sum(
        seconds(settings, "fewshot", {"learner": learner}, counts)
        for learner in set(settings.fewshot.learners)
    )
    return max(chain, (chain + rest) / workers)
