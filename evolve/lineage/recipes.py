"""Recipes: what each kind of stage reads, which is what its key is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from evolve.condensers import methods as condenser_table
from evolve.core.registry import marked
from evolve.core.settings import Settings
from evolve.descendants.fewshot.methods import LEARNERS
from evolve.engine.store import Stage
from evolve.learngene.inheritors import descendant
from evolve.lineage.world import World, ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json

# Raised by hand when a kind's numbers change for the same settings; results of the older version
# are then simply not found.
VERSIONS = {"accumulate": 1, "condense": 1, "descend": 1, "fewshot": 1}
TASKS = (
    "descendants",
    "classes_per_task",
    "shots",
    "test_per_class",
)  # [descend]: what chooses the downstream tasks
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


def accumulate(
    world: World, task: int, previous: Stage | None, strategy: str | None = None
) -> Stage:
    """The ancestor after ``task`` tasks.

    Task 0 is the untrained (or pretrained) ancestor, which no training setting can change.
    """
    s = world.settings
    stream = _keyed(s.stream, without=("tasks",) if s.ancestor.head != "per-task" else ())
    recipe: dict[str, Any] = {"version": VERSIONS["accumulate"], "task": task, "seed": world.seed}
    recipe["classes"] = list(world.ancestor_classes)
    if task == 0:
        recipe["ancestor"] = {"head": s.ancestor.head} | network(s)
        recipe["stream"] = {name: stream[name] for name in stream if name != "images_per_class"}
        recipe["checkpoint"] = world.checkpoint
    else:
        ancestor = (
            replace(s.ancestor, strategy=strategy, strategy_args={}) if strategy else s.ancestor
        )
        recipe["ancestor"] = _learning(ancestor) | network(s)
        recipe |= {"stream": stream, "data": world.data, "arithmetic": world.arithmetic}
        recipe |= marked("strategies", ancestor.strategy)
        if ancestor.strategy == "joint":
            previous = accumulate(
                world, 0, None
            )  # each joint ancestor is trained afresh on the union of its tasks
    of = strategy or ""
    inputs = {"previous": previous} if previous else {}
    return _stage(
        "accumulate",
        f"{of} accumulate {task}".strip(),
        recipe,
        inputs,
        priority=0,
        of=of,
        length=task,
    )


def condense(world: World, length: int, ancestor: Stage, of: str = "") -> Stage:
    """Ancestor -> learngene.

    The pseudo-descendant's draw does not depend on the lineage length: generations are paired.
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
        recipe |= _trial(s)
    inputs = {"ancestor": ancestor} | {
        f"{RIVAL}{name}": stage for name, stage in rivals(world, length, ancestor, of).items()
    }
    return _stage(
        "condense", f"{of} condense {length}".strip(), recipe, inputs, of=of, length=length
    )


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
        return condense(
            replace(world, settings=settings), length, ancestor, of=f"{of} {name}".strip()
        )

    return {name: by(name) for name in c.rivals}


def descend(world: World, method: str, length: int, source: Stage) -> Stage:
    """Descendants that inherit from ``source``, a learngene or (full-ancestor) the ancestor itself."""
    role = "ancestor" if method == "full-ancestor" else "learngene"
    # "joint" names where the learngene comes from, which its key already says.
    recipe = (
        _descend_recipe(world)
        | {"method": "inherited" if method == "joint" else method}
        | _inheriting(world.settings, method)
    )
    return _stage(
        "descend",
        f"descend {length} {method}",
        recipe,
        {role: source},
        method=method,
        length=length,
    )


def distilled(world: World, length: int, learngene: Stage, ancestor: Stage) -> Stage:
    """From-scratch descendants of the learngene's architecture, with the ancestor's features as
    hints where they would inherit (paper, Table II).
    """
    recipe = (
        _descend_recipe(world) | {"method": "distilled"} | _inheriting(world.settings, "distilled")
    )
    recipe["descend"] |= {"distill_weight": world.settings.descend.distill_weight}
    inputs = {"learngene": learngene, "ancestor": ancestor}
    return _stage(
        "descend", f"descend {length} distilled", recipe, inputs, method="distilled", length=length
    )


def from_scratch(world: World, plan: Architecture, of: int | str, draw: int = 0) -> Stage:
    """The same descendants with all layers random.

    It depends on no ancestor, so equal architectures share one result.

    ``of``: a lineage length, or :data:`PAPERS` or :data:`WHOLE`; ``draw``: 0 is paired with the
    inherited, layer by layer.
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
    """A few-shot learner of Table III on the paper's descendant: meta-trained on the ancestor's
    classes, measured on the descendants' tasks.
    """
    s = world.settings
    recipe = {
        "version": VERSIONS["fewshot"],
        "seed": world.seed,
        "data": world.data,
        "ancestor_classes": list(world.ancestor_classes),
        "classes": list(world.descend_classes),
        "plan": paper_descendant(s).anonymous().to_json(),
        "learner": learner,
        "fewshot": {
            name: value
            for name, value in _keyed(s.fewshot).items()
            if name in LEARNERS[learner].reads
        },
        "tasks": {name: getattr(s.descend, name) for name in TASKS},
        "images_per_class": s.stream.images_per_class,
    }
    return _stage(
        "fewshot",
        f"few-shot {learner}",
        recipe | marked("networks", s.ancestor.network),
        {},
        method=learner,
    )


def heir(world: World, chosen: Mapping[str, Any]) -> Architecture:
    """The architecture of the descendants of a condensation's record."""
    return descendant(from_json(chosen["ancestor_plan"]), chosen["layers"], world.settings.inherit)


def network(settings: Settings) -> dict[str, Any]:
    """What names the ancestor's architecture in a recipe: the image size, where its layers depend
    on it, and the package that brings it.
    """
    a = settings.ancestor
    sized = {} if a.network == "vgg16" else {"size": settings.data.size}
    return {"network": a.network, "width": a.width} | sized | marked("networks", a.network)


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
    """The fixed set as ``condense.fixed`` numbers it: layers from 1, or groups, where a named set's
    layers could be taken for groups.
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
    read = {"full-ancestor": ("lr_scale",), "distilled": ("method",)}.get(method, tuple(every))
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
