"""What a stage costs, in work units (billions of multiply-adds), from its settings alone; and how long that takes here.

Used for estimates and progress bars only; no number of a lineage depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evolve.networks.plan import PAPER_SET, Plan, plan_from_json, stack_plan, vgg16_plan
from evolve.settings import Settings

# Work units (giga multiply-adds) a second and core that the quick profiles reach on the machine of docs/results.md.
NOMINAL_SPEED = 25.0
TRAIN_FACTOR = 3.0  # forward, gradient of the input, gradient of the weights
STEP_SECONDS = 2.5e-3  # what a step costs beside its arithmetic


def images_per_class(settings: Settings) -> tuple[int, int]:
    """Training and test images a class that the source holds, after the hold-out."""
    train, test = {"cifar100": (500, 100), "tinyimagenet": (500, 50)}.get(settings.data.source, (settings.data.glyph_train, settings.data.glyph_test))
    return max(1, train - settings.data.holdout), test + settings.data.holdout


def macs(plan: Plan, size: int) -> float:
    """Multiply-adds of one image's forward pass through the convolutions, in billions."""
    total, side = 0.0, size
    for block in plan:
        total += sum(spec.c_in * spec.c_out * 9 * side * side for spec in block)
        side = max(1, side // 2)
    return total / 1e9


def stage_cost(settings: Settings, kind: str, recipe: Mapping[str, Any]) -> tuple[float, int]:
    """(work units, optimizer steps) of one stage."""
    ancestor = vgg16_plan(settings.ancestor.width)
    if kind == "accumulate":
        return _accumulate_cost(settings, ancestor, recipe)
    if kind == "condense":
        return _condense_cost(settings, ancestor)
    plan = plan_from_json(recipe["plan"]) if "plan" in recipe else stack_plan(ancestor, PAPER_SET)
    return _descend_cost(settings, ancestor if recipe["method"] == "full-ancestor" else plan)


def seconds(settings: Settings, kind: str, recipe: Mapping[str, Any], speed: float = NOMINAL_SPEED) -> float:
    """One stage on one core at ``speed`` work units a second."""
    work, steps = stage_cost(settings, kind, recipe)
    return work / speed + steps * STEP_SECONDS


def _accumulate_cost(s: Settings, plan: Plan, recipe: Mapping[str, Any]) -> tuple[float, int]:
    task = recipe["task"]
    if task == 0:
        return 0.0, 1
    train, test = images_per_class(s)
    train = min(train, s.stream.images_per_class or train)
    share = task if recipe["ancestor"]["strategy"] in ("joint", "cumulative") else 1
    images = train * s.stream.classes_per_task * share * s.ancestor.epochs
    tested = test * s.stream.classes_per_task * task
    return (images * TRAIN_FACTOR + tested) * macs(plan, s.data.size), images // s.ancestor.batch


def _condense_cost(s: Settings, ancestor: Plan) -> tuple[float, int]:
    if s.condense.method == "fixed":
        return 0.0, 1
    train, _ = images_per_class(s)
    classes = len(s.data.condense_classes) or s.data.split[1]
    images = classes * min(train, s.condense.images_per_class or train)
    iterations = s.condense.epochs * math.ceil(images * (1 - s.condense.meta_fraction) / s.condense.batch)
    passes = 3 * s.condense.batch + (1 if s.condense.objective == "eq16" else 1 + 3 * s.condense.lookahead) * 2 * s.condense.meta_batch
    pseudo = macs(stack_plan(ancestor, PAPER_SET), s.data.size)
    # The matching products of all layer pairs cost about twice the pseudo-descendant's own (measured, docs/results.md).
    return iterations * passes * TRAIN_FACTOR * pseudo + images * macs(ancestor, s.data.size), iterations * 12


def _descend_cost(s: Settings, plan: Plan) -> tuple[float, int]:
    train, test = images_per_class(s)
    d = s.descend
    images = d.descendants * d.classes_per_task * min(train, d.shots) * d.epochs
    tested = d.descendants * d.classes_per_task * min(test, d.test_per_class or test) * d.epochs
    return (images * TRAIN_FACTOR + tested) * macs(plan, s.data.size), images // d.batch


def estimate(settings: Settings, workers: int = 2, speed: float = NOMINAL_SPEED) -> float:
    """Seconds for a whole lineage from an empty store: the serial chain or the shared rest, whichever is longer."""
    c, tasks = settings.controls, settings.stream.tasks
    recipe = {"ancestor": {"strategy": settings.ancestor.strategy}}
    chain = sum(seconds(settings, "accumulate", recipe | {"task": t}, speed) for t in range(tasks + 1))
    one = seconds(settings, "descend", {"method": "inherited"}, speed)
    generations = tasks + c.untrained
    descents = generations * (1 + c.from_scratch) + sum(tasks // every for every in (c.shuffled, c.joint, c.full_ancestor) if every)
    rest = descents * one + generations * seconds(settings, "condense", {}, speed)
    return max(chain, (chain + rest) / workers)


def human(duration: float) -> str:
    """Seconds as a person says them: "4 min", "3.2 h", "12 days"."""
    if duration < 90:
        return f"{max(1, round(duration))} s"
    if duration < 5400:
        return f"{duration / 60:.0f} min"
    return f"{duration / 3600:.1f} h" if duration < 48 * 3600 else f"{duration / 86400:.0f} days"
