"""The outcome of one stage, by kind: recipe and inputs go in, a record and tensors come out.

This page calls the rooms that compute: ancestor, condensers, learngene and descendants.
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
# what may differ in a descend stage's recipe within a set
OWN = ("method", "plan", "inputs", "inherit")


def _settings(kind: type, table: Mapping[str, Any]) -> Any:
    """Settings from a recipe's table, less what else stands there (such as an image size)."""
    names = {f.name for f in fields(kind)}
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in table.items()
            if name in names
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
    """Let the ancestor learn one task (paper, 5.3); task 0 only builds it.

    Args:
        context: what cannot change a number: paths and the device.
        stage: an "accumulate" stage.
        inputs: "previous", the ancestor before; nothing for task 0.
        resident: the images.
        store: where an interrupted task's checkpoint lies.
        progress: is told the part done, 0..1, and what is being done.

    Returns:
        The record (accuracies and what the condensers read) and file "ancestor", the state dict.

    Raises:
        UserError: the pretrained weights are not those the recipe was made for.
    """
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

    Raises:
        UserError: the file is not the one the recipe was made for.
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
    """What a "condense" stage asks of its condenser.

    Args:
        stage: a "condense" stage.
        inputs: "ancestor", and for method "trial" the other methods' choices.
        resident: the images.
        progress: is told the part done, 0..1, and what is being done.
    """
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
    """Choose the learngene's layers and take them out of the ancestor (paper, 4.2).

    Args:
        stage: a "condense" stage.
        inputs: "ancestor", and for method "trial" the other methods' choices.
        resident: the images.
        store: not read.
        progress: is told the part done, 0..1, and what is being done.

    Returns:
        The record (the choice and what led to it) and file "learngene", the layers' tensors.
    """
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
        "repeats": [list(repeat) for repeat in chosen.repeats],
        "agreement": chosen.agreement,
        "history": chosen.history,
        "effort": dict(chosen.effort),
        "trials": [tried.to_json() for tried in chosen.trials],
        "ancestor_plan": plan.to_json(),
    }
    return record, {"learngene": flatten(learngene)}


def _rivals(inputs: Mapping[str, Result]) -> dict[str, tuple[int, ...]]:
    """What other condensers chose, by name. One that decided nothing chose nothing."""
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
    """Train and measure the descendants of one "descend" stage, see :func:`descend_outcomes`."""
    return descend_outcomes([stage], [inputs], resident, progress)[0]


def descend_outcomes(
    stages: Sequence[Stage],
    inputs: Sequence[Mapping[str, Result]],
    resident: Resident,
    progress: Progress,
) -> list[Outcome]:
    """Build descendants, train them on the same tasks, and measure them (paper, 5.3).

    Args:
        stages: "descend" stages whose recipes differ in nothing but :data:`OWN`.
        inputs: of each stage: "learngene" or "ancestor", both when distilled, none from scratch.
        resident: the images.
        progress: is told the part done, 0..1, and what is being done.

    Returns:
        Of each stage the record (accuracies and losses, one descendant after the other) and file
        "correct": of descendant n uint8 [test images], 1 where it is right.
    """
    from evolve.descendants.descendants import downstream_tasks, train_together
    from evolve.learngene.inheritance import inherit

    shared, seed = stages[0].recipe, stages[0].recipe["seed"]
    settings: DescendSettings = _settings(DescendSettings, shared["descend"])
    tasks = downstream_tasks(settings, shared["classes"], resident, seed)
    heirs = [_inheritance(stage.recipe, given) for stage, given in zip(stages, inputs, strict=True)]
    numbers, size = range(len(tasks)), len(stages)
    drawn = derive_seed(seed, "draw", shared["draw"]) if shared["draw"] else seed
    models = [
        inherit(*heir, settings.classes_per_task, drawn, number).to(resident.device)
        for heir in heirs
        for number in numbers
    ]
    trained = train_together(
        models,
        tasks * size,
        resident,
        settings,
        drawn,
        [*numbers] * size,
        _counted(progress, len(tasks), len(models)),
        shared["arithmetic"] == "reference",
        lr_scale(shared),
        _teacher(shared, inputs[0], resident.device, settings.distill_weight),
    )
    parts = [trained[start : start + len(tasks)] for start in range(0, len(trained), len(tasks))]
    return [_measured(plan, tasks, part) for (plan, _), part in zip(heirs, parts, strict=True)]


def _counted(progress: Progress, each: int, together: int) -> Progress:
    """Progress of a stage's ``each`` descendants, where ``together`` train at once."""
    also = f" (of {together} together)" if together > each else ""

    def report(fraction: float, text: str) -> None:
        progress(fraction, f"{each} descendants{also}, {text}")

    return report


def fewshot_outcome(
    stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress
) -> Outcome:
    """Meta-train a few-shot learner and measure it on the descendants' tasks (paper, Table III).

    Args:
        stage: a "fewshot" stage.
        inputs: none.
        resident: the images.
        store: where an interrupted training's checkpoint lies.
        progress: is told the part done, 0..1, and what is being done.

    Returns:
        The record (accuracies and losses) and file "correct": of task n one number a test image.
    """
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
    measured = meta_train_and_measure(
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
        "accuracy": [correct.double().mean().item() for correct in measured.correct],
        "test_images": [len(correct) for correct in measured.correct],
        "classes": [list(task.classes) for task in tasks],
        "losses": thinned(measured.losses),
        "undecided": measured.undecided,
        "plan": recipe["plan"],
    }
    return record, {"correct": {f"task{n}": correct for n, correct in enumerate(measured.correct)}}


def _measured(
    plan: Architecture, tasks: Sequence[DownstreamTask], trained: Sequence[Trained]
) -> Outcome:
    """The result of one "descend" stage."""
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
        state = trunk(inputs["ancestor"].tensors("ancestor"))
        return ancestor.whole(), extract(state, ancestor, ancestor.all_layers)
    gene = inputs["learngene"]
    chosen: InheritSettings = _settings(InheritSettings, recipe["inherit"])
    plan = descendant(ancestor, gene.record["layers"], chosen)
    if method == "distilled":
        return plan, None
    learngene = unflatten(gene.tensors("learngene"), ancestor)
    if method == "shuffled":
        learngene = shuffled(learngene, recipe["seed"], "shuffle")
    return plan, learngene


def lr_scale(recipe: Mapping[str, Any]) -> float:
    """The factor on the learning rate of inherited layers; 1 for a stage that inherits none."""
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
    """The ancestor network's own state dict, out of an accumulate result."""
    from evolve.ancestor.accumulate import load_trunk

    return load_trunk(tensors)
