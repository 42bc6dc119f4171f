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
from evolve.core.settings import Settings, descend_source
from evolve.data.methods import PLUGGED, SOURCES
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.learngene.inheritors import cut_down, descendant
from evolve.lineage.schedule import measured
from evolve.lineage.world import ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture
from evolve.networks.cost import CURVATURE, GAINED, Work
from evolve.networks.family import from_json

TRANSPORT_SECONDS = 6e-5  # one optimal transport between few places


def images_per_class(settings: Settings, role: str) -> tuple[int, int]:
    """Images a class that a role's source holds, after the hold-out.

    Args:
        settings: the run's.
        role: "ancestor", "condense" or "descend".

    Returns:
        Training images and test images.
    """
    data = settings.data
    source = data.source if role == "ancestor" else descend_source(data)
    source_record = SOURCES.get(source, PLUGGED)
    train, test = source_record.held or (data.glyph_train, data.glyph_test)
    if source_record.capped:
        train = min(train, data.images_per_class or train)
    return max(1, train - data.holdout), test + data.holdout


def _seen_per_class(settings: Settings) -> int:
    """Training images a class that the ancestor, and with it a few-shot learner, may see."""
    train, _ = images_per_class(settings, "ancestor")
    return min(train, settings.stream.images_per_class or train)


def seconds(settings: Settings, kind: str, recipe: Mapping[str, Any]) -> float:
    """Seconds of one stage on one core.

    Args:
        settings: the run's.
        kind: the stage's.
        recipe: what the stage reads, as its key holds it.
    """
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
        return _descend_seconds(settings, cut_down(ancestor, settings.inherit))
    descent = _descend_seconds(
        settings, from_json(recipe["plan"]) if "plan" in recipe else _expected(settings, ancestor)
    )
    return (
        descent + _hints_seconds(settings, ancestor) if recipe["method"] == "distilled" else descent
    )


def _accumulate_seconds(s: Settings, plan: Architecture, recipe: Mapping[str, Any]) -> float:
    task = recipe["task"]
    if task == 0:
        return 0.1
    train, test = _seen_per_class(s), images_per_class(s, "ancestor")[1]
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


def _condense_seconds(s: Settings, ancestor: Architecture) -> float:
    """By the method's record; a plug-in's is taken for a meta-network."""
    c, (train, _) = s.condense, images_per_class(s, "condense")
    classes = len(s.data.condense_classes) or s.data.split[1]
    images = classes * min(train, c.images_per_class or train)
    asked = Asked(
        c,
        ancestor,
        s.data.size,
        images,
        s.inherit,
        s.descend,
        lambda learning, plan: _descend_seconds(replace(s, descend=learning), plan),
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


def _hints_seconds(s: Settings, ancestor: Architecture) -> float:
    """The ancestor's forward pass of every training image."""
    train, _ = images_per_class(s, "descend")
    images = (
        s.descend.descendants
        * s.descend.classes_per_task
        * min(train, s.descend.shots)
        * s.descend.epochs
    )
    return Work(ancestor, s.data.size, 0, 0, images).seconds()


def _descend_seconds(s: Settings, plan: Architecture) -> float:
    train, test = images_per_class(s, "descend")
    d = s.descend
    images = d.descendants * d.classes_per_task * min(train, d.shots) * d.epochs
    tests = 1 + (-(-d.epochs // d.test_every) if d.test_every else 1)  # the newborn's is one
    tested = d.descendants * d.classes_per_task * min(test, d.test_per_class or test) * tests
    gain = 1.0 if plan.passes or d.optimizer not in plan.learners else GAINED.get(plan.family, 1.0)
    return Work(plan, s.data.size, images, images / d.batch, tested).seconds() / gain


def _fewshot_seconds(s: Settings, plan: Architecture, learner: str) -> float:
    """Episodes, pre-training where there is one, and adaptation to every downstream task.

    A second-order inner step counts as a gradient and two Hessian products (timed).
    """
    f, d, (train, test) = s.fewshot, s.descend, images_per_class(s, "descend")
    seen = _seen_per_class(s)
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
        classes = len(s.data.ancestor_classes) or s.data.split[0]
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


def estimate(settings: Settings, workers: int = 2) -> float:
    """Seconds of a whole lineage from an empty store.

    This is the serial chain or the shared rest, whichever is longer.

    Args:
        settings: the run's.
        workers: worker processes.
    """
    c, tasks = settings.controls, settings.stream.tasks
    recipe = {"ancestor": {"strategy": settings.ancestor.strategy}}
    trained_at = measured(settings) if settings.ancestor.strategy == "joint" else range(tasks + 1)
    chain = sum(seconds(settings, "accumulate", recipe | {"task": t}) for t in trained_at)
    descent = seconds(settings, "descend", {"method": "inherited"})
    generations = len(measured(settings))
    trained = generations - (c.untrained and tasks > 0)
    descents = generations * (1 + c.from_scratch * c.draws) + sum(
        trained // every for every in (c.shuffled, c.joint, c.distilled) if every
    )
    rest = descents * descent + generations * seconds(settings, "condense", {})
    others = settings.condense.rivals if settings.condense.method == "trial" else ()
    rest += generations * sum(
        seconds(settings, "condense", {"condense": {"method": name}}) for name in others
    )
    rest += (
        trained // c.full_ancestor + c.from_scratch * c.draws if c.full_ancestor else 0
    ) * seconds(settings, "descend", {"method": "full-ancestor"})
    rest += (trained // c.distilled if c.distilled else 0) * _hints_seconds(
        settings, ancestor_plan(settings)
    )
    rest += sum(
        seconds(settings, "fewshot", {"learner": learner})
        for learner in set(settings.fewshot.learners)
    )
    return max(chain, (chain + rest) / workers)
