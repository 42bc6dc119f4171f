"""Recipes: what each kind of stage reads, which is what its key is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from evolve.condensers import methods as condenser_table
from evolve.core.registry import marked
from evolve.core.settings import InheritSettings, Settings, descend_source
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.engine.store import Stage
from evolve.learngene.inheritors import descendant
from evolve.lineage.world import World, ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json

# Raised by hand when a room's numbers change for the same settings; results of the older version are then simply not found.
VERSIONS = {"accumulate": 3, "condense": 3, "descend": 4, "fewshot": 1}
RAISED = {"baseline++": 1, "deepemd": 1}  # few-shot learners whose numbers alone changed, so often: passes over the support set, not steps
# Strategies whose numbers alone changed, by head: BN's statistics under MAS, and the heads of tasks to come under a penalty.
MENDED = {("mas", "shared"), ("mas", "single"), *((strategy, "per-task") for strategy in ("mas", "ewc", "si"))}
TASKS = ("descendants", "classes_per_task", "shots", "test_per_class")  # [descend]: what chooses the downstream tasks
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
)  # [descend]: how a descendant learns
RIVAL = "rival "  # begins the role of an input of method "trial"


def accumulate(world: World, task: int, previous: Stage | None, strategy: str | None = None) -> Stage:
    """The ancestor after ``task`` tasks. Task 0 is the untrained (or pretrained) ancestor, which no training setting can change."""
    s = world.settings
    stream = _keyed(s.stream, without=("tasks",) if s.ancestor.head != "per-task" else ())
    recipe: dict[str, Any] = {"version": VERSIONS["accumulate"], "task": task, "seed": world.seed}
    recipe["classes"] = list(world.ancestor_classes)
    if task == 0:
        recipe["ancestor"] = {name: getattr(s.ancestor, name) for name in ("network", "width", "head")} | _sized(s)
        recipe["stream"] = {name: stream[name] for name in stream if name != "images_per_class"}
        recipe |= {"checkpoint": world.checkpoint} if world.checkpoint else {}
    else:
        recipe["ancestor"] = _learning(s.ancestor, ("schedule",)) | _sized(s)
        recipe["stream"] = stream
        recipe["data"] = world.data
        recipe["arithmetic"] = world.arithmetic
        if s.ancestor.optimizer == "sgd" and not world.reference:
            recipe["update"] = "compiled"  # SGD's step, which was torch's in older stores
    if strategy and strategy != s.ancestor.strategy:
        recipe["ancestor"] |= {"strategy": strategy, "strategy_args": {}}
    if task > 0 and (recipe["ancestor"]["strategy"], s.ancestor.head) in MENDED:
        recipe["mended"] = 1
    if task > 0:
        recipe |= marked("strategies", recipe["ancestor"]["strategy"])
    if task > 0 and recipe["ancestor"]["strategy"] == "joint":
        previous = accumulate(world, 0, None)  # each joint ancestor is trained afresh on the union of its tasks
    label = f"{'joint ' if strategy else ''}accumulate {task}"
    return _stage("accumulate", label, recipe, {"previous": previous} if previous else {}, priority=0)


def condense(world: World, length: int, ancestor: Stage, of: str = "") -> Stage:
    """Ancestor -> learngene. The pseudo-descendant's draw does not depend on the lineage length: generations are paired."""
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
    if s.condense.repeats > 1 and condenser_table.method(s.condense.method).draws:
        recipe["agreed"] = 2  # as VERSIONS: how repeats are put together
    if condenser_table.method(s.condense.method).computes:
        recipe["arithmetic"] = world.arithmetic
    if s.condense.method == "trial":
        recipe |= _trial(s)
    inputs = {"ancestor": ancestor} | {
        f"{RIVAL}{name}": stage for name, stage in rivals(world, length, ancestor, of).items()
    }
    return _stage("condense", f"{of}condense {length}", recipe, inputs, priority=1)


def rivals(world: World, length: int, ancestor: Stage, of: str = "") -> dict[str, Stage]:
    """The same ancestor's condensations by other methods, by name, whose choices method "trial"
    tries; none under another method. They are the stages of the scenario that names that method, so
    a batch of both computes them once.
    """
    c = world.settings.condense
    if c.method != "trial":
        return {}

    def by(name: str) -> Stage:
        settings = replace(world.settings, condense=replace(c, method=name))
        return condense(replace(world, settings=settings), length, ancestor, of=f"{of}{name} ")

    return {name: by(name) for name in c.rivals}


def descend(world: World, method: str, length: int, source: Stage) -> Stage:
    """Descendants that inherit from ``source``, a learngene or (full-ancestor) the ancestor itself."""
    role = "ancestor" if method == "full-ancestor" else "learngene"
    # "joint" names where the learngene comes from, which its key already says.
    recipe = _descend_recipe(world) | {"method": "inherited" if method == "joint" else method} | _inheriting(world.settings, method)
    return _stage("descend", f"descend {length} {method}", recipe, {role: source}, priority=1)


def distilled(world: World, length: int, learngene: Stage, ancestor: Stage) -> Stage:
    """From-scratch descendants of the learngene's architecture, with the ancestor's features as hints where they would inherit (SPEC 5)."""
    recipe = _descend_recipe(world) | {"method": "distilled"} | _inheriting(world.settings, "distilled")
    recipe["descend"] |= {"distill_weight": world.settings.descend.distill_weight}
    return _stage("descend", f"descend {length} distilled", recipe, {"learngene": learngene, "ancestor": ancestor}, priority=1)


def from_scratch(world: World, plan: Architecture, of: str, draw: int = 0) -> Stage:
    """The same descendants with all layers random. It depends on no ancestor, so equal architectures share one result.

    ``of``: a lineage length, or :data:`PAPERS` or :data:`WHOLE`; ``draw``: 0 is paired with the inherited, layer by layer.
    """
    recipe = _descend_recipe(world) | {"method": "from-scratch", "plan": plan.anonymous().to_json(), "draw": draw}
    return _stage("descend", scratch_label(of, draw), recipe, {}, priority=1)


def scratch_label(of: str, draw: int) -> str:
    """What a from-scratch stage is called."""
    return f"descend {of} from-scratch" + (f" draw {draw + 1}" if draw else "")


def fewshot(world: World, learner: str) -> Stage:
    """A few-shot learner of Table III on the paper's descendant: meta-trained on the ancestor's classes, measured on the descendants' tasks."""
    s = world.settings
    recipe = {
        "version": VERSIONS["fewshot"] + RAISED.get(learner, 0),
        "arithmetic": "fast",  # learners know one path; older stores name it
        "seed": world.seed,
        "data": world.data,
        "ancestor_classes": list(world.ancestor_classes),
        "classes": list(world.descend_classes),
        "plan": paper_descendant(s).anonymous().to_json(),
        "learner": learner,
        "fewshot": {name: value for name, value in _keyed(s.fewshot).items() if name in LEARNERS[learner].reads},
        "tasks": {name: getattr(s.descend, name) for name in TASKS},
    }
    if s.stream.images_per_class:
        recipe["images_per_class"] = s.stream.images_per_class
    return _stage("fewshot", f"few-shot {learner}", recipe | marked("networks", s.ancestor.network), {}, priority=1)


def heir(world: World, chosen: Mapping[str, Any]) -> Architecture:
    """The architecture of the descendants of a condensation's record."""
    return descendant(from_json(chosen["ancestor_plan"]), chosen["layers"], world.settings.inherit)


def network(settings: Settings) -> dict[str, Any]:
    """What names the ancestor's architecture in a recipe."""
    return {"network": settings.ancestor.network, "width": settings.ancestor.width} | _sized(settings)


def _sized(s: Settings) -> dict[str, Any]:
    """The image size, where the network's layers depend on it, and the package that brings the network."""
    sized = {} if s.ancestor.network == "vgg16" else {"size": s.data.size}
    return sized | marked("networks", s.ancestor.network)


def _descend_recipe(world: World) -> dict[str, Any]:
    return {
        "version": VERSIONS["descend"],
        "arithmetic": world.arithmetic,
        "seed": world.seed,
        "data": world.data,
        "classes": list(world.descend_classes),
        "network": network(world.settings),
        "descend": _learning(world.settings.descend, without=("distill_weight",)),
        "draw": 0,
    } | _uneven(world.settings)


def _uneven(s: Settings) -> dict[str, Any]:
    """A mark where tasks may have unequally many test images, which were cut off once; the sources named have as many of every class."""
    return {} if s.descend.test_per_class or descend_source(s.data) in ("glyphs", "cifar100", "tinyimagenet") else {"tests": 2}


def _learning(section: Any, later: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> dict[str, Any]:
    """How a network learns: what is read, and of the settings that came ``later`` (older stores do not know them) those that change something."""
    unread = [name for name in ("optimizer", "warmup", *later) if getattr(section, name) == getattr(type(section)(), name)]
    unread += ["momentum"] if section.optimizer == "adamw" else []
    unread += ["milestones", "gamma"] if section.schedule == "cosine" else []
    return _keyed(section, without=(*unread, *without))


def _condense_settings(s: Settings) -> dict[str, Any]:
    """The condenser's settings, less those that its method does not read."""
    chosen = _keyed(s.condense, without=("fixed_set",)) | {"fixed": _fixed_numbers(s)}
    read = condenser_table.read(s.condense)
    return {name: value for name, value in chosen.items() if name in read}


def _trial(s: Settings) -> dict[str, Any]:
    """What method "trial" reads of other sections: how its descendants learn and inherit. All of it
    is spelled out.
    """
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
    """The fixed set as ``condense.fixed`` numbers it: layers from 1, or groups, where a named set's layers could be taken for groups."""
    layers = fixed_layers(s)
    groups = ancestor_plan(s).integral_layers(s.condense.granularity)
    if s.condense.fixed or max(layers) >= len(groups):
        return [n + 1 for n in layers]
    owner = [number for number, group in enumerate(groups, start=1) for _ in group]
    return sorted({owner[n] for n in layers})


def fixed_layers(s: Settings) -> tuple[int, ...]:
    """The fixed set, 0-based at granularity conv, whichever way the scenario names it."""
    return tuple(sorted({n - 1 for n in s.condense.fixed})) or ancestor_plan(s).named_set(s.condense.fixed_set, s.condense.top_k)


def _inheriting(s: Settings, method: str) -> dict[str, Any]:
    """How the descendants inherit, as far as ``method`` reads it and where it is not the paper's way (older stores know no other)."""
    every = tuple(_keyed(s.inherit))
    read = {"full-ancestor": ("lr_scale",), "distilled": ("method",)}.get(method, every)
    chosen = {name: getattr(s.inherit, name) for name in read if getattr(s.inherit, name) != getattr(InheritSettings(), name)}
    return ({"inherit": chosen} if chosen else {}) | (marked("inheritors", s.inherit.method) if "method" in read else {})


def _keyed(section: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    named = [f.name for f in fields(section) if f.metadata.get("key", True) and f.name not in without]
    return {name: _plain(getattr(section, name)) for name in named}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _stage(kind: str, label: str, recipe: dict[str, Any], inputs: Mapping[str, Stage], priority: int) -> Stage:
    keys = {role: stage.key for role, stage in inputs.items()}
    return Stage(kind, label, recipe | {"inputs": keys}, keys, priority)
