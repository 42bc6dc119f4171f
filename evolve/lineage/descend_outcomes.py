"""The outcomes of the stages that train descendants: "descend" and "fewshot".

Recipe and inputs go in, a record and tensors come out, as in :mod:`evolve.lineage.outcomes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.randomness import derive_seed
from evolve.core.settings import DescendSettings, InheritSettings
from evolve.core.spent import Progress
from evolve.data.resident import Resident
from evolve.engine.precision import computing
from evolve.engine.store import Result, Stage, Store
from evolve.learngene.inheritors import cut_down, descendant
from evolve.learngene.learngene import Learngene, extract, shuffled, unflatten
from evolve.lineage.outcomes import Outcome, checkpoint_of, plan_of, settings_of, trunk
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json
from evolve.networks.network import Network, frozen

if TYPE_CHECKING:
    from evolve.descendants.descendants import DownstreamTask, Trained
    from evolve.descendants.trainers.distill import Teacher

# what may differ in a descend stage's recipe within a set
OWN = ("method", "plan", "inputs", "inherit")


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
    return [_measured(group) for group in trained_descendants(stages, inputs, resident, progress)]


@dataclass(frozen=True)
class Descendants:
    """The trained descendants of one "descend" stage, with their architecture and their tasks."""

    plan: Architecture
    tasks: Sequence[DownstreamTask]
    models: Sequence[Network]
    trained: Sequence[Trained]


def trained_descendants(
    stages: Sequence[Stage],
    inputs: Sequence[Mapping[str, Result]],
    resident: Resident,
    progress: Progress,
) -> list[Descendants]:
    """Build and train the descendants of :func:`descend_outcomes`, which takes the same.

    The store keeps no descendant's weights: whoever needs them trains them again, to the same bits
    on the same kind of device.
    """
    from evolve.descendants.descendants import Group, downstream_tasks, train_together
    from evolve.learngene.inheritance import inherit

    shared, seed = stages[0].recipe, stages[0].recipe["seed"]
    settings: DescendSettings = settings_of(DescendSettings, shared["descend"])
    tasks = downstream_tasks(settings, shared["classes"], resident, seed)
    heirs = [_inheritance(stage.recipe, given) for stage, given in zip(stages, inputs, strict=True)]
    numbers, size = range(len(tasks)), len(stages)
    drawn = derive_seed(seed, "draw", shared["draw"]) if shared["draw"] else seed
    models = [
        inherit(*heir, settings.classes_per_task, drawn, number).to(resident.device)
        for heir in heirs
        for number in numbers
    ]
    with computing(shared["arithmetic"], resident.device) as plain:
        trained = train_together(
            models,
            Group(tasks * size, [*numbers] * size, resident, settings, drawn, lr_scale(shared)),
            _counted(progress, len(tasks), len(models)),
            reference=plain,
            teacher=_teacher(shared, inputs[0], resident.device, settings.distill_weight),
        )
    return [
        Descendants(
            plan, tasks, models[first : first + len(tasks)], trained[first : first + len(tasks)]
        )
        for (plan, _), first in zip(heirs, range(0, len(models), len(tasks)), strict=True)
    ]


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
    from evolve.descendants.fewshot.episodes import Episodes
    from evolve.descendants.fewshot.measure import meta_train_and_measure, thinned
    from evolve.learngene.inheritance import inherit

    recipe, seed = stage.recipe, stage.recipe["seed"]
    settings: FewshotSettings = settings_of(FewshotSettings, recipe["fewshot"])
    chosen: DescendSettings = settings_of(DescendSettings, recipe["tasks"])
    tasks = downstream_tasks(chosen, recipe["classes"], resident, seed)
    network = inherit(from_json(recipe["plan"]), None, chosen.classes_per_task, seed, 0).to(
        resident.device
    )
    source = Episodes(
        resident,
        recipe["ancestor_classes"],
        chosen.classes_per_task,
        settings,
        seed,
        recipe["images_per_class"],
    )
    measured = meta_train_and_measure(
        recipe["learner"], network, source, tasks, progress, checkpoint_of(stage, store)
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


def _measured(group: Descendants) -> Outcome:
    """The result of one "descend" stage."""
    trained = group.trained
    record = {
        "accuracy": [t.last for t in trained],
        "best": [t.best for t in trained],
        "curves": [t.test_accuracy for t in trained],
        "tested": trained[0].tested,
        "newborn": [t.newborn for t in trained],
        "train_loss": [t.train_loss for t in trained],
        "test_images": [len(t.correct) for t in trained],
        "classes": [list(task.classes) for task in group.tasks],
        "plan": group.plan.to_json(),
    }
    correct = {
        f"descendant{n}": torch.tensor(t.correct, dtype=torch.uint8) for n, t in enumerate(trained)
    }
    return record, {"correct": correct}


def _inheritance(
    recipe: Mapping[str, Any], inputs: Mapping[str, Result]
) -> tuple[Architecture, Learngene | None]:
    """The descendant's plan and what it inherits, by the recipe's method."""
    ancestor, method = plan_of(recipe), recipe["method"]
    if method == "from-scratch":
        return from_json(recipe["plan"]), None
    chosen: InheritSettings = settings_of(InheritSettings, recipe["inherit"])
    if method == "full-ancestor":
        state = trunk(inputs["ancestor"].tensors("ancestor"))
        return cut_down(ancestor, chosen), extract(state, ancestor, ancestor.all_layers)
    gene = inputs["learngene"]
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
    return Teacher(frozen(plan_of(recipe), state, device), weight)
