"""Recipes: what each kind of stage reads. Its key is the hash of exactly that.

Every recipe has a version, the lineage's seed and the keys of the inputs. Besides it holds:

    accumulate   task, ancestor's classes, network, [ancestor], [stream], images, arithmetic
                 task 0: network, head and the pretrained weights instead of what training reads
                 inputs: the ancestor before (none for task 0)
    condense     condensing classes, network, [condense], images, arithmetic if the method trains
                 method "trial": how its descendants learn and inherit
                 inputs: the ancestor; for "trial" also the other methods' choices
    descend      descendants' classes, network, [descend], images, arithmetic, method, draw
                 from-scratch: its architecture; the others: [inherit]
                 inputs: the learngene or the ancestor, both when distilled, none from scratch
    fewshot      ancestor's and descendants' classes, architecture, learner, [fewshot], images,
                 the tasks of [descend]
                 inputs: none

A bracket is a section of the scenario. It stands there with every value, defaults too, less what
cannot change a number: settings with ``key=False``, and those that the chosen optimizer, schedule
or method does not read. A plug-in adds its name, package and version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from evolve.condensers import methods as condenser_table
from evolve.core.registry import marked
from evolve.core.settings import AncestorSettings, Settings
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.engine.store import Stage
from evolve.learngene.inheritors import cut_down, descendant
from evolve.lineage.world import World, ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json

# Raise a kind's version by hand when its numbers change for the same settings. Results of the older
# version are then not found.
VERSIONS = {"accumulate": 1, "condense": 1, "descend": 1, "fewshot": 1}
# [descend]: what chooses the downstream tasks
TASKS = ("descendants", "classes_per_task", "shots", "test_per_class")
# [descend]: how a descendant learns
LEARNING = (
    "epochs",
    "batch",
    "optimizer",
    "lr",
    "momentum",
    "weight_decay",
    "warmup",
    "schedule",
    "augment",
)
RIVAL = "rival "  # begins the role of an input of method "trial"


def accumulate(
    world: World, task: int, previous: Stage | None, strategy: str | None = None
) -> Stage:
    """Name the ancestor after ``task`` tasks.

    Args:
        world: the lineage.
        task: how many tasks it has learned; 0: the untrained or pretrained ancestor, which no
            training setting can change.
        previous: the ancestor after one task less; None for task 0.
        strategy: instead of the scenario's: "joint", for that control.
    """
    recipe = {
        "version": VERSIONS["accumulate"],
        "task": task,
        "seed": world.seed,
        "classes": list(world.ancestor_classes),
    }
    a = world.settings.ancestor
    if strategy:
        a = replace(a, strategy=strategy, strategy_args={})
    recipe |= _beginning(world) if task == 0 else _training(world, a)
    if task > 0 and a.strategy == "joint":
        previous = accumulate(world, 0, None)  # trained afresh on the union of the tasks so far
    of, inputs = strategy or "", {"previous": previous} if previous else {}
    label = f"{of} accumulate {task}".strip()
    return _stage("accumulate", label, recipe, inputs, priority=0, of=of, length=task)


def _beginning(world: World) -> dict[str, Any]:
    """What the ancestor of task 0 reads: the shape of network and head, and pretrained weights."""
    s, stream = world.settings, _stream(world.settings)
    return {
        "ancestor": {"head": s.ancestor.head} | network(s),
        "stream": {name: stream[name] for name in stream if name != "images_per_class"},
        "checkpoint": world.checkpoint,
    }


def _training(world: World, a: AncestorSettings) -> dict[str, Any]:
    """What an ancestor that learns a task by the settings ``a`` reads."""
    return {
        "ancestor": _learning(a) | network(world.settings),
        "stream": _stream(world.settings),
        "data": world.data,
        "arithmetic": world.computed(a.precision),
    } | marked("strategies", a.strategy)


def _stream(s: Settings) -> dict[str, Any]:
    """The stream's settings; the number of tasks only where every task has a head of its own."""
    return _keyed(s.stream, without=() if s.ancestor.head == "per-task" else ("tasks",))


def condense(world: World, length: int, ancestor: Stage, of: str = "") -> Stage:
    """Name the learngene of an ancestor.

    The pseudo-descendant's draw does not depend on the lineage length, so generations are paired.

    Args:
        world: the lineage.
        length: the lineage length.
        ancestor: the ancestor of that length.
        of: whose learngene, for the label; "": the lineage's own.
    """
    s = world.settings
    recipe = {
        "version": VERSIONS["condense"],
        "seed": world.seed,
        "data": world.data,
        "classes": list(world.condense_classes),
        "network": network(s),
        "condense": _condense_settings(s),
    }
    recipe |= marked("condensers", s.condense.method)
    if condenser_table.method(s.condense.method).computes:
        recipe["arithmetic"] = world.arithmetic
    if s.condense.method == "trial":
        recipe |= _trial(s) | {"arithmetic": world.arithmetic}
    inputs = {"ancestor": ancestor} | {
        f"{RIVAL}{name}": stage for name, stage in rivals(world, length, ancestor, of).items()
    }
    return _stage(
        "condense", f"{of} condense {length}".strip(), recipe, inputs, of=of, length=length
    )


def rivals(world: World, length: int, ancestor: Stage, of: str = "") -> dict[str, Stage]:
    """Name the same ancestor's condensations by other methods, which method "trial" tries too.

    They are the stages of a scenario that names that method itself, so a batch of both computes
    them once.

    Args:
        world: the lineage.
        length: the lineage length.
        ancestor: the ancestor of that length.
        of: whose ancestor, for the labels; "": the lineage's own.

    Returns:
        The stages by method; none unless the lineage's own method is "trial".
    """
    c = world.settings.condense
    if c.method != "trial":
        return {}

    def by(name: str) -> Stage:
        settings = replace(world.settings, condense=replace(c, method=name))
        return condense(
            replace(world, settings=settings), length, ancestor, of=f"{of} {name}".strip()
        )

    return {name: by(name) for name in c.rivals}


def descend(world: World, method: str, length: int, source: Stage) -> Stage:
    """Name descendants that inherit.

    Args:
        world: the lineage.
        method: "inherited", "shuffled", "full-ancestor" or "joint".
        length: the lineage length.
        source: what they inherit from: a learngene or, for "full-ancestor", the ancestor itself.
    """
    role = "ancestor" if method == "full-ancestor" else "learngene"
    # "joint" names where the learngene comes from, which its key already says.
    named = {"method": "inherited" if method == "joint" else method}
    recipe = _descend_recipe(world) | named | _inheriting(world.settings, method)
    label, inputs = f"descend {length} {method}", {role: source}
    return _stage("descend", label, recipe, inputs, method=method, length=length)


def distilled(world: World, length: int, learngene: Stage, ancestor: Stage) -> Stage:
    """Name from-scratch descendants that learn from hints (paper, Table II).

    They have the learngene's architecture. The ancestor's features are their hints where they would
    inherit.

    Args:
        world: the lineage.
        length: the lineage length.
        learngene: whose architecture they have.
        ancestor: whose features are the hints.
    """
    method, recipe = "distilled", _descend_recipe(world)
    recipe |= {"method": method} | _inheriting(world.settings, method)
    recipe["descend"] |= {"distill_weight": world.settings.descend.distill_weight}
    label, inputs = f"descend {length} {method}", {"learngene": learngene, "ancestor": ancestor}
    return _stage("descend", label, recipe, inputs, method=method, length=length)


def from_scratch(world: World, plan: Architecture, of: int | str, draw: int = 0) -> Stage:
    """Name the same descendants with all layers random.

    They depend on no ancestor, so equal architectures share one result.

    Args:
        world: the lineage.
        plan: their architecture.
        of: whose architecture: a lineage length, or :data:`PAPERS` or :data:`WHOLE`.
        draw: the number of the random draw; 0 has the same random layers as the inherited ones.
    """
    recipe = _descend_recipe(world) | {
        "method": "from-scratch",
        "plan": plan.anonymous().to_json(),
        "draw": draw,
    }
    label = f"descend {of} from-scratch" + (f" draw {draw + 1}" if draw else "")
    place: dict[str, Any] = {"length": of} if isinstance(of, int) else {"of": of}
    return _stage("descend", label, recipe, {}, method="from-scratch", draw=draw, **place)


def fewshot(world: World, learner: str) -> Stage:
    """Name a few-shot learner of Table III on the paper's descendant.

    It is meta-trained on the ancestor's classes and measured on the descendants' tasks.

    Args:
        world: the lineage.
        learner: its name, one of fewshot.learners.
    """
    s, read = world.settings, LEARNERS[learner].reads
    recipe = {
        "version": VERSIONS["fewshot"],
        "seed": world.seed,
        "data": world.data,
        "ancestor_classes": list(world.ancestor_classes),
        "classes": list(world.descend_classes),
        "plan": paper_descendant(s).anonymous().to_json(),
        "learner": learner,
        "fewshot": {name: value for name, value in _keyed(s.fewshot).items() if name in read},
        "tasks": {name: getattr(s.descend, name) for name in TASKS},
        "images_per_class": s.stream.images_per_class,
    } | marked("networks", s.ancestor.network)
    return _stage("fewshot", f"few-shot {learner}", recipe, {}, method=learner)


def heir(world: World, chosen: Mapping[str, Any]) -> Architecture:
    """The architecture of the descendants that inherit a condensation's choice.

    Args:
        world: the lineage.
        chosen: the record of a "condense" stage.
    """
    return descendant(from_json(chosen["ancestor_plan"]), chosen["layers"], world.settings.inherit)


def whole(world: World) -> Architecture:
    """The whole ancestor as its own descendant, cut down to the size of ``[inherit]``."""
    return cut_down(ancestor_plan(world.settings), world.settings.inherit)


def network(settings: Settings) -> dict[str, Any]:
    """What names the ancestor's architecture in a recipe.

    The image size is among it where the layers depend on it; so is the package that brings the
    network.
    """
    a = settings.ancestor
    sized = {} if a.network == "vgg16" else {"size": settings.data.size}
    return {"network": a.network, "width": a.width} | sized | marked("networks", a.network)


def _descend_recipe(world: World) -> dict[str, Any]:
    return {
        "version": VERSIONS["descend"],
        "arithmetic": world.computed(world.settings.descend.precision),
        "seed": world.seed,
        "data": world.data,
        "classes": list(world.descend_classes),
        "network": network(world.settings),
        "descend": _learning(world.settings.descend, without=("distill_weight",)),
        "draw": 0,
    }


def _learning(section: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """How a network learns, less what its optimizer and its schedule do not read."""
    unread = ["momentum"] if section.optimizer == "adamw" else []
    unread += ["milestones", "gamma"] if section.schedule == "cosine" else []
    return _keyed(section, without=(*unread, *without))


def _condense_settings(s: Settings) -> dict[str, Any]:
    """The condenser's settings, less those that its method does not read."""
    chosen = _keyed(s.condense, without=("fixed_set",)) | {"fixed": _fixed_numbers(s)}
    read = condenser_table.read(s.condense)
    return {name: value for name, value in chosen.items() if name in read}


def _trial(s: Settings) -> dict[str, Any]:
    """What method "trial" reads of other sections: how its descendants learn and inherit."""
    unread = {"momentum"} if s.descend.optimizer == "adamw" else set()
    learning = {
        name: _plain(getattr(s.descend, name))
        for name in (*TASKS[1:], *LEARNING)
        if name not in unread
    }
    return {
        "trial": {"version": VERSIONS["descend"], "descend": learning, "inherit": _keyed(s.inherit)}
        | marked("inheritors", s.inherit.method)
    }


def _fixed_numbers(s: Settings) -> list[int]:
    """The fixed set as ``condense.fixed`` numbers it, from 1.

    It holds layers, or groups where a named set's layers could be taken for groups.
    """
    layers = fixed_layers(s)
    groups = ancestor_plan(s).integral_layers(s.condense.granularity)
    if s.condense.fixed or max(layers) >= len(groups):
        return [n + 1 for n in layers]
    owner = [number for number, group in enumerate(groups, start=1) for _ in group]
    return sorted({owner[n] for n in layers})


def fixed_layers(s: Settings) -> tuple[int, ...]:
    """The fixed set, 0-based at granularity conv, whichever way the scenario names it."""
    return tuple(sorted({n - 1 for n in s.condense.fixed})) or ancestor_plan(s).named_set(
        s.condense.fixed_set, s.condense.top_k
    )


def _inheriting(s: Settings, method: str) -> dict[str, Any]:
    """How the descendants inherit, as far as ``method`` reads it."""
    every = _keyed(s.inherit)
    size = ("depth", "width")
    # Only at another depth does the whole ancestor inherit by the inheritor's rule.
    rule = ("method",) if s.inherit.depth else ()
    read = {
        "full-ancestor": ("lr_scale", *size, *rule),
        "distilled": ("method", *size),
    }.get(method, tuple(every))
    return {"inherit": {name: every[name] for name in read}} | (
        marked("inheritors", s.inherit.method) if "method" in read else {}
    )


def _keyed(section: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    named = [
        f.name for f in fields(section) if f.metadata.get("key", True) and f.name not in without
    ]
    return {name: _plain(getattr(section, name)) for name in named}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _stage(
    kind: str,
    label: str,
    recipe: dict[str, Any],
    inputs: Mapping[str, Stage],
    priority: int = 1,
    **place: Any,
) -> Stage:
    keys = {role: stage.key for role, stage in inputs.items()}
    return Stage(kind, label, recipe | {"inputs": keys}, keys, priority, **place)
