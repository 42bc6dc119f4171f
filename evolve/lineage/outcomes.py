"""The outcome of one stage, by kind: its recipe and its inputs in; record and tensors out.

The page where the rooms (arrays and models in, arrays and models out) are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolve.core.errors import UserError
from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.randomness import derive_seed
from evolve.core.settings import (
    AncestorSettings,
    CondenseSettings,
    DescendSettings,
    InheritSettings,
    StreamSettings,
)
from evolve.core.spent import Progress
from evolve.data.resident import Resident
from evolve.engine.checkpoint import ThrottledCheckpoint
from evolve.engine.store import Result, Stage, Store
from evolve.learngene.inheritors import descendant
from evolve.learngene.learngene import Learngene, extract, flatten, shuffled, unflatten
from evolve.lineage.recipes import RIVAL
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture, from_json
from evolve.networks.network import frozen
from evolve.networks.vit_plan import ViTPlan

if TYPE_CHECKING:
    from evolve.condensers.interface import Request
    from evolve.descendants.descendants import DownstreamTask, Trained
    from evolve.descendants.trainers.distill import Teacher

CHECKPOINT_SECONDS = 10.0  # what a crash may cost of a task under way

Outcome = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
OWN = (
    "method",
    "plan",
    "inputs",
    "inherit",
)  # what may differ in a descend stage's recipe within a set


def _settings(kind: type, table: Mapping[str, Any]) -> Any:
    """Settings from a recipe's table; what stands beside them there (an image size, a plug-in's
    version) is left out.
    """
    known = {f.name for f in fields(kind)}
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in table.items()
            if name in known
        }
    )


def accumulate_outcome(
    context: Mapping[str, Any],
    stage: Stage,
    inputs: Mapping[str, Result],
    resident: Resident,
    store: Store,
    progress: Progress,
) -> Outcome:
    from evolve.ancestor.accumulate import (  # imports Avalanche, which takes seconds
        Accumulated,
        accumulate,
    )

    recipe = stage.recipe
    before = inputs.get("previous")
    previous = Accumulated(before.tensors("ancestor"), before.record) if before else None
    history = before.record["history"] if before else []
    done = accumulate(
        _settings(AncestorSettings, recipe["ancestor"]),
        _settings(StreamSettings, recipe["stream"]),
        tuple(recipe["classes"]),
        resident,
        recipe["seed"],
        recipe["task"],
        previous,
        history,
        ThrottledCheckpoint(store.checkpoint(stage.key), CHECKPOINT_SECONDS),
        progress,
        recipe.get("arithmetic") == "reference",
        _pretrained(recipe, context) if recipe.get("checkpoint") else None,
    )
    rows = [*history, done.record["row"]] if recipe["task"] > 0 else []
    return done.record | {"history": rows}, {"ancestor": done.tensors}


def _pretrained(recipe: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that the recipe's ancestor starts from.

    Raises UserError when the file is not the one the recipe was made for.
    """
    from evolve.networks.vit_checkpoint import content, read

    file, a = context["checkpoint"], recipe["ancestor"]
    if content(file) != recipe["checkpoint"]:
        raise UserError(
            f'ancestor.checkpoint = "{file}": the file changed while the run was going on; run the '
            "command again"
        )
    plan = architecture(a["network"], a["width"], a["size"])
    assert isinstance(plan, ViTPlan), "scenario.check allows no other"
    return read(file, plan)


def condense_request(
    stage: Stage, inputs: Mapping[str, Result], resident: Resident, progress: Progress
) -> Request:
    from evolve.condensers.interface import Request

    recipe = stage.recipe
    settings: CondenseSettings = _settings(CondenseSettings, recipe["condense"])
    trial = recipe.get("trial", {})
    return Request(
        architecture=_plan(recipe),
        state=trunk(inputs["ancestor"].tensors("ancestor")),
        ancestor_record=inputs["ancestor"].record,
        classes=tuple(recipe["classes"]),
        resident=resident,
        c=settings,
        seed=recipe["seed"],
        progress=progress,
        reference=recipe.get("arithmetic") == "reference",
        descend=_settings(DescendSettings, trial.get("descend", {})),
        inherit=_settings(InheritSettings, trial.get("inherit", {})),
        rivals=_rivals(inputs),
    )


def condense_outcome(
    stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress
) -> Outcome:
    from evolve.condensers.condense import condense_ancestor

    request = condense_request(stage, inputs, resident, progress)
    chosen, plan, groups = condense_ancestor(request), request.architecture, request.groups
    layers = [name for index in chosen.selected for name in groups[index]]
    learngene = extract(request.state, plan, [*layers, *plan.carried])
    record = {
        "layers": layers,
        "selected": list(chosen.selected),
        "groups": [list(group) for group in groups],
        "scores": chosen.scores.tolist(),
        "weights": chosen.weights.tolist(),
        "alpha": chosen.alpha.tolist(),
        "margin": chosen.margin,
        "status": chosen.status,
        "selected_by": chosen.selected_by,
        "repeats": [list(one) for one in chosen.repeats],
        "agreement": chosen.agreement,
        "history": chosen.history,
        "effort": dict(chosen.effort),
        "trials": [tried.to_json() for tried in chosen.trials],
        "ancestor_plan": plan.to_json(),
    }
    return record, {"learngene": flatten(learngene)}


def _rivals(inputs: Mapping[str, Result]) -> dict[str, tuple[int, ...]]:
    """What other condensers chose, by name; one that decided nothing chose nothing."""
    records = {
        role.removeprefix(RIVAL): result.record
        for role, result in inputs.items()
        if role.startswith(RIVAL)
    }
    return {
        name: tuple(record["selected"])
        for name, record in records.items()
        if record["status"] in ("selected", "fixed")
    }


def descend_outcome(
    stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress
) -> Outcome:
    return descend_outcomes([stage], [inputs], resident, progress)[0]


def descend_outcomes(
    stages: Sequence[Stage],
    inputs: Sequence[Mapping[str, Result]],
    resident: Resident,
    progress: Progress,
) -> list[Outcome]:
    """The descendants of all stages; every stage's have the same tasks and numbers.

    The stages differ in nothing but :data:`OWN`.
    """
    from evolve.descendants.descendants import downstream_tasks, train_together
    from evolve.learngene.inheritance import inherit

    shared, seed = stages[0].recipe, stages[0].recipe["seed"]
    settings: DescendSettings = _settings(DescendSettings, shared["descend"])
    tasks = downstream_tasks(settings, shared["classes"], resident, seed)
    heirs = [_inheritance(stage.recipe, given) for stage, given in zip(stages, inputs, strict=True)]
    numbers = range(len(tasks))
    drawn = derive_seed(seed, "draw", shared["draw"]) if shared["draw"] else seed
    models = [
        inherit(*heir, settings.classes_per_task, drawn, number).to(resident.device)
        for heir in heirs
        for number in numbers
    ]
    size, reference = len(stages), shared["arithmetic"] == "reference"

    def report(fraction: float, text: str) -> None:
        progress(
            fraction,
            f"{len(tasks)} descendants{f' (of {len(models)} together)' if size > 1 else ''}, {text}",
        )

    teacher = _teacher(shared, inputs[0], resident.device, settings.distill_weight)
    trained = train_together(
        models,
        tasks * size,
        resident,
        settings,
        drawn,
        [*numbers] * size,
        report,
        reference,
        lr_scale(shared),
        teacher,
    )
    parts = [trained[start : start + len(tasks)] for start in range(0, len(trained), len(tasks))]
    return [_measured(plan, tasks, part) for (plan, _), part in zip(heirs, parts, strict=True)]


def fewshot_outcome(
    stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress
) -> Outcome:
    from evolve.descendants.descendants import downstream_tasks
    from evolve.descendants.fewshot.measure import meta_train_and_measure, thinned
    from evolve.learngene.inheritance import inherit

    recipe, seed = stage.recipe, stage.recipe["seed"]
    settings: FewshotSettings = _settings(FewshotSettings, recipe["fewshot"])
    chosen: DescendSettings = _settings(DescendSettings, recipe["tasks"])
    tasks = downstream_tasks(chosen, recipe["classes"], resident, seed)
    network = inherit(from_json(recipe["plan"]), None, chosen.classes_per_task, seed, 0).to(
        resident.device
    )
    found = meta_train_and_measure(
        recipe["learner"],
        network,
        recipe["ancestor_classes"],
        tasks,
        resident,
        settings,
        seed,
        progress,
        ThrottledCheckpoint(store.checkpoint(stage.key), CHECKPOINT_SECONDS),
        recipe["images_per_class"],
    )
    record = {
        "accuracy": [correct.double().mean().item() for correct in found.correct],
        "test_images": [len(correct) for correct in found.correct],
        "classes": [list(task.classes) for task in tasks],
        "losses": thinned(found.losses),
        "undecided": found.undecided,
        "plan": recipe["plan"],
    }
    return record, {"correct": {f"task{n}": correct for n, correct in enumerate(found.correct)}}


def _measured(
    plan: Architecture, tasks: Sequence[DownstreamTask], trained: Sequence[Trained]
) -> Outcome:
    """A descend stage's result."""
    record = {
        "accuracy": [t.last for t in trained],
        "best": [t.best for t in trained],
        "curves": [t.test_accuracy for t in trained],
        "tested": trained[0].tested,
        "newborn": [t.newborn for t in trained],
        "train_loss": [t.train_loss for t in trained],
        "test_images": [len(t.correct) for t in trained],
        "classes": [list(task.classes) for task in tasks],
        "plan": plan.to_json(),
    }
    correct = {
        f"descendant{n}": torch.tensor(t.correct, dtype=torch.uint8) for n, t in enumerate(trained)
    }
    return record, {"correct": correct}


def _inheritance(
    recipe: Mapping[str, Any], inputs: Mapping[str, Result]
) -> tuple[Architecture, Learngene | None]:
    """The descendant's plan and what it inherits, by the recipe's method."""
    ancestor, method = _plan(recipe), recipe["method"]
    if method == "from-scratch":
        return from_json(recipe["plan"]), None
    if method == "full-ancestor":
        return ancestor.whole(), extract(
            trunk(inputs["ancestor"].tensors("ancestor")), ancestor, ancestor.all_layers
        )
    found = inputs["learngene"]
    chosen: InheritSettings = _settings(InheritSettings, recipe["inherit"])
    plan = descendant(ancestor, found.record["layers"], chosen)
    if method == "distilled":
        return plan, None
    learngene = unflatten(found.tensors("learngene"), ancestor)
    return plan, shuffled(
        learngene, recipe["seed"], "shuffle"
    ) if method == "shuffled" else learngene


def lr_scale(recipe: Mapping[str, Any]) -> float:
    """What the learning rate of the inherited layers is multiplied by; a from-scratch or distilled
    stage names none.
    """
    inherits = recipe["method"] not in ("from-scratch", "distilled")
    return float(recipe["inherit"]["lr_scale"]) if inherits else 1.0


def _teacher(
    recipe: Mapping[str, Any], inputs: Mapping[str, Result], device: torch.device, weight: float
) -> Teacher | None:
    """The frozen ancestor whose features are the hints of distilled descendants."""
    if recipe["method"] != "distilled":
        return None
    from evolve.descendants.trainers.distill import Teacher

    state = trunk(inputs["ancestor"].tensors("ancestor"))
    return Teacher(frozen(_plan(recipe), state, device), weight)


def _plan(recipe: Mapping[str, Any]) -> Architecture:
    network = recipe["network"]
    return architecture(network["network"], network["width"], network.get("size", 0))


def trunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ancestor network's own state dict, out of an accumulate result (which also holds its
    strategy's state).
    """
    from evolve.ancestor.accumulate import load_trunk

    return load_trunk(tensors)
