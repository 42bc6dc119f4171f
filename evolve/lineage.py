"""THE page to read first: a lineage, in the paper's words, as a chain of stages (paper 5.3, Figure 6).

    accumulate(0) -> accumulate(1) -> ... -> accumulate(25)     the ancestor learns task after task
                          |                       |
                      condense(1)    ...      condense(25)      ancestor -> learngene
                          |                       |
                      descend(1)     ...      descend(25)       five descendants inherit it and learn their own tasks

A stage's key is the hash of all that determines its numbers, its inputs' keys among them; its result lies in the store under
that key. So "what is left to do" is always the same question: which of these stages is not in the store yet?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from evolve import condenser_table
from evolve.fewshot.settings import READ
from evolve.inheritors import descendant
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture, from_json
from evolve.registry import marked
from evolve.settings import InheritSettings, Settings, descend_source
from evolve.store import Stage

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

PAPERS, WHOLE = "paper's descendant", "whole ancestor"  # architectures that have a from-scratch control of their own
RIVAL = "rival "  # begins the role of an input of method "trial"
SPARSE = ("shuffled", "joint", "full-ancestor", "distilled")  # controls that need not run at every generation

Peek = Callable[[str], "Mapping[str, Any] | None"]  # a stage's key -> its record, if it is in the store


@dataclass(frozen=True)
class World:
    """What all stages of one lineage share."""

    settings: Settings
    seed: int
    data: str  # fingerprint of the images
    ancestor_classes: tuple[int, ...]
    condense_classes: tuple[int, ...]
    descend_classes: tuple[int, ...]
    reference: bool = False  # the plain path everywhere: the same mathematics, other rounding, so other keys
    checkpoint: str = ""  # content (sha256) of the pretrained weights that the ancestor starts from

    @property
    def arithmetic(self) -> str:
        """What a stage's rounding depends on, for its key: VGGs have compiled kernels (on a CPU), others the library's."""
        if self.reference:
            return "reference"
        return "compiled" if ancestor_plan(self.settings).family == "vgg" else "fast"

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """The split of the classes, by role."""
        return {"ancestor": self.ancestor_classes, "condense": self.condense_classes, "descend": self.descend_classes}


def lineage(world: World, peek: Peek) -> Iterator[Stage]:
    """Every stage of the lineage that can be named now, generation by generation.

    A from-scratch control has the architecture that its generation's condenser chose, so it can be named only once ``peek``
    finds that choice; ask again after each result.
    """
    controls, lengths = world.settings.controls, measured(world.settings)
    if controls.from_scratch:
        yield from draws(world, paper_descendant(world.settings), PAPERS)
        if any(due(world, "full-ancestor", length) for length in lengths):
            yield from draws(world, ancestor_plan(world.settings).whole(), WHOLE)
    ancestor = accumulate(world, 0, None)
    yield ancestor
    for length in range(world.settings.stream.tasks + 1):
        if length > 0:
            ancestor = accumulate(world, length, ancestor)
            if length in lengths or world.settings.ancestor.strategy != "joint":  # a joint ancestor needs none before it
                yield ancestor
        if length in lengths:
            yield from generation(world, length, ancestor, peek)
    for learner in dict.fromkeys(world.settings.fewshot.learners):
        yield fewshot(world, learner)


def generation(world: World, length: int, ancestor: Stage, peek: Peek) -> Iterator[Stage]:
    """Condense, inherit and measure one ancestor, with the controls that hang from it."""
    controls = world.settings.controls
    learngene = condense(world, length, ancestor)
    yield from (*rivals(world, length, ancestor).values(), learngene)
    yield descend(world, "inherited", length, learngene)
    chosen = peek(learngene.key)
    if chosen and controls.from_scratch:
        yield from draws(world, heir(world, chosen), str(length))
    if due(world, "shuffled", length):
        yield descend(world, "shuffled", length, learngene)
    if due(world, "full-ancestor", length):
        yield descend(world, "full-ancestor", length, ancestor)
    if due(world, "distilled", length):
        yield distilled(world, length, learngene, ancestor)
    if due(world, "joint", length):
        joint = accumulate(world, length, ancestor, strategy="joint")
        joint_gene = condense(world, length, joint, of="joint ")
        others = rivals(world, length, joint, of="joint ").values()
        yield from (joint, *others, joint_gene, descend(world, "joint", length, joint_gene))


def measured(settings: Settings) -> tuple[int, ...]:
    """The lineage lengths that are condensed and measured, in order: 0 (an untrained ancestor) where it is a control, those of
    ``stream.measure`` that the stream reaches, and the last one.
    """
    tasks, measure = settings.stream.tasks, settings.stream.measure
    if isinstance(measure, tuple):
        lengths = {length for length in measure if length <= tasks}
    else:
        lengths = set(range(1, tasks + 1) if measure == "all" else range(int(measure), tasks + 1, int(measure)))
    return tuple(sorted(lengths | {tasks} | ({0} if settings.controls.untrained else set())))


def due(world: World, control: str, length: int) -> bool:
    """Whether a control of :data:`SPARSE` runs at this measured length: at every n-th one, counted from the first trained ancestor's, and the last.

    At lineage length 0 none does, unless that is all there is: one pretrained ancestor, which has no tasks that a joint one could learn.
    """
    every: int = getattr(world.settings.controls, control.replace("-", "_"))
    if world.settings.stream.tasks == 0:
        return every > 0 and control != "joint"
    trained = [m for m in measured(world.settings) if m > 0]
    return every > 0 and length in trained and ((trained.index(length) + 1) % every == 0 or length == trained[-1])


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


def draws(world: World, plan: Architecture, of: str) -> Iterator[Stage]:
    """All ``controls.draws`` of a from-scratch control."""
    return (from_scratch(world, plan, of, draw) for draw in range(world.settings.controls.draws))


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
        "fewshot": {name: value for name, value in _keyed(s.fewshot).items() if name in READ[learner]},
        "tasks": {name: getattr(s.descend, name) for name in TASKS},
    }
    if s.stream.images_per_class:
        recipe["images_per_class"] = s.stream.images_per_class
    return _stage("fewshot", f"few-shot {learner}", recipe | marked("networks", s.ancestor.network), {}, priority=1)


def heir(world: World, chosen: Mapping[str, Any]) -> Architecture:
    """The architecture of the descendants of a condensation's record."""
    return descendant(from_json(chosen["ancestor_plan"]), chosen["layers"], world.settings.inherit)


def ancestor_plan(settings: Settings) -> Architecture:
    """The ancestor's architecture."""
    return architecture(settings.ancestor.network, settings.ancestor.width, settings.data.size)


def paper_descendant(settings: Settings) -> Architecture:
    """The paper's descendant (VGG8, ResNet12, ...) at this lineage's width; the pseudo-descendant's architecture too."""
    return ancestor_plan(settings).paper_descendant()


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
