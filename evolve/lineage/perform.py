"""Computes one stage from its recipe: fetches its inputs from the store, calls the room, puts the result.

The only page where the rooms (arrays and models in, arrays and models out) meet the store.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolve.core.durable import canonical
from evolve.core.errors import UserError
from evolve.core.fewshot_settings import FewshotSettings
from evolve.core.randomness import derive_seed
from evolve.core.registry import check_marks
from evolve.core.settings import AncestorSettings, CondenseSettings, DataSettings, DescendSettings, InheritSettings, StreamSettings
from evolve.core.spent import stopwatch
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet, load_images
from evolve.engine.checkpoint import Sparing
from evolve.engine.devices import choose_device, provenance, repeatable
from evolve.engine.store import Result, Stage, Store
from evolve.learngene.inheritors import descendant
from evolve.learngene.learngene import Learngene, extract, flatten, shuffled, unflatten
from evolve.lineage.recipes import RIVAL
from evolve.lineage.restore import whole
from evolve.lineage.world import SET_LIMIT
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture, from_json
from evolve.networks.network import frozen
from evolve.networks.vit_plan import ViTPlan

if TYPE_CHECKING:
    from evolve.condensers.interface import Request
    from evolve.descendants.descendants import DownstreamTask, Trained
    from evolve.descendants.trainers.distill import Teacher

__all__ = ["SET_LIMIT", "perform_set", "perform_stage", "set_key", "trunk"]

CHECKPOINT_SECONDS = 10.0  # what a crash may cost of a task under way

Progress = Callable[[float, str], None]
Outcome = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
OWN = ("method", "plan", "inputs", "inherit")  # what may differ in a descend stage's recipe within a set


def perform_stage(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Compute ``stage`` and put it into ``store``. ``context`` holds what cannot change a number: paths and the device.

    Raises UserError when the images are not those the recipe was made for, or a setting asks for more than they hold.
    """
    rooms: Mapping[str, Callable[..., Outcome]] = {
        "accumulate": partial(_accumulate, context),
        "condense": _condense,
        "descend": _descend,
        "fewshot": _fewshot,
    }
    check_marks(stage.recipe)
    spent, resumed = stopwatch(), store.checkpoint(stage.key).folder.is_dir()
    inputs = {role: _input(store, key, context, progress) for role, key in stage.inputs.items()}
    resident = _resident(context, stage.recipe)
    record, tensors = rooms[stage.kind](stage, inputs, resident, store, progress)
    store.put(stage, record, tensors, provenance(resident.device) | {"spent": spent(resumed=resumed)})


def set_key(stage: Stage, context: Mapping[str, Any]) -> Hashable | None:
    """What descend stages have in common that may train together, on a GPU; None for those that go alone.

    A CPU gains nothing from more descendants at once, nor does the plain path, which distillation and a learning rate of their own for
    inherited layers always take; company must not lead others onto it.
    """
    if stage.kind != "descend" or stage.recipe["arithmetic"] == "reference" or choose_device(context["device"]).type != "cuda":
        return None
    if stage.recipe["method"] == "distilled" or _lr_scale(stage.recipe) != 1:
        return None
    return canonical({name: value for name, value in stage.recipe.items() if name not in OWN})


def perform_set(stages: Sequence[Stage], store: Store, context: Mapping[str, Any], progress: Progress) -> None:
    """Train the descendants of all ``stages``, of one :func:`set_key`, side by side, and put each stage's result as :func:`perform_stage`
    would have.

    Raises what that raises; the results of all stages are put at the end or, mostly, none.
    """
    check_marks(stages[0].recipe)  # a set's are alike
    spent = stopwatch()
    inputs = [{role: _input(store, key, context, progress) for role, key in stage.inputs.items()} for stage in stages]
    resident = _resident(context, stages[0].recipe)
    outcomes = _descend_together(stages, inputs, resident, progress)
    about = provenance(resident.device) | {"spent": spent(len(stages))}
    for stage, (record, tensors) in zip(stages, outcomes, strict=True):
        store.put(stage, record, tensors, about)


@lru_cache(maxsize=8)
def _images(data: DataSettings, data_dir: Path | None, cache_dir: Path) -> ImageSet:
    return load_images(data, data_dir, cache_dir)  # reads and checks all of them, so a batch with several sets keeps them open


@lru_cache(maxsize=1)  # a GPU holds one set
def _load(data: DataSettings, data_dir: Path | None, cache_dir: Path, device: str) -> tuple[Resident, str]:
    images = _images(data, data_dir, cache_dir)
    return Resident(images, repeatable(choose_device(device))), images.fingerprint


def _chosen_data(context: Mapping[str, Any], recipe: Mapping[str, Any]) -> DataSettings:
    """A run has one set of images; a batch may have several, by fingerprint. An untrained ancestor reads none but asks for their size."""
    held: DataSettings | dict[str, DataSettings] = context["data"]
    if isinstance(held, DataSettings):
        return held
    if "data" in recipe:
        return held[recipe["data"]]
    size = recipe["ancestor"].get("size")
    return next(data for data in held.values() if size in (None, data.size))


def _resident(context: Mapping[str, Any], recipe: Mapping[str, Any]) -> Resident:
    data, expected = _chosen_data(context, recipe), recipe.get("data")
    resident, fingerprint = _load(data, context["data_dir"], context["cache_dir"], context["device"])
    if expected is not None and fingerprint != expected:
        raise UserError(f"data {context['data_dir']}: the images changed while the run was going on; run the command again")
    return resident


class InputLost(RuntimeError):
    """An input was damaged and has been set aside; it has to be computed again before this stage."""


def _input(store: Store, key: str, context: Mapping[str, Any], progress: Progress) -> Result:
    """An input with its tensors: a thinned snapshot is computed again."""
    found = whole(store, key, lambda stage: perform_stage(stage, store, context, progress))
    if found is None:
        raise InputLost(key)
    return found


def _settings(kind: type, table: Mapping[str, Any]) -> Any:
    """Settings from a recipe's table; what stands beside them there (an image size, a plug-in's version) is left out."""
    known = {f.name for f in fields(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items() if name in known})


def _accumulate(context: Mapping[str, Any], stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress) -> Outcome:
    from evolve.ancestor.accumulate import Accumulated, accumulate  # imports Avalanche, which takes seconds

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
        Sparing(store.checkpoint(stage.key), CHECKPOINT_SECONDS),
        progress,
        recipe.get("arithmetic") == "reference",
        _pretrained(recipe, context) if "checkpoint" in recipe else None,
    )
    rows = [*history, done.record["row"]] if recipe["task"] > 0 else []
    return done.record | {"history": rows}, {"ancestor": done.tensors}


def _pretrained(recipe: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that the recipe's ancestor starts from. Raises UserError when the file is not the one the recipe was made for."""
    from evolve.networks.vit_checkpoint import content, read

    file, a = context["checkpoint"], recipe["ancestor"]
    if content(file) != recipe["checkpoint"]:
        raise UserError(f'ancestor.checkpoint = "{file}": the file changed while the run was going on; run the command again')
    plan = architecture(a["network"], a["width"], a["size"])
    assert isinstance(plan, ViTPlan), "scenario.check allows no other"
    return read(file, plan)


def condensation(stage: Stage, store: Store, context: Mapping[str, Any], progress: Progress) -> Request:
    """What a condense stage asks for, its ancestor fetched from the store. Raises UserError as :func:`perform_stage` does."""
    inputs = {role: _input(store, key, context, progress) for role, key in stage.inputs.items()}
    return _request(stage, inputs, _resident(context, stage.recipe), progress)


def _request(stage: Stage, inputs: Mapping[str, Result], resident: Resident, progress: Progress) -> Request:
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


def _condense(stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress) -> Outcome:
    from evolve.condensers.condense import condense_ancestor

    request = _request(stage, inputs, resident, progress)
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


def _descend(stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress) -> Outcome:
    return _descend_together([stage], [inputs], resident, progress)[0]


def _descend_together(
    stages: Sequence[Stage], inputs: Sequence[Mapping[str, Result]], resident: Resident, progress: Progress
) -> list[Outcome]:
    """The descendants of all stages; every stage's have the same tasks and numbers. The stages differ in nothing but :data:`OWN`."""
    from evolve.descendants.descendants import downstream_tasks, train_together
    from evolve.learngene.inheritance import inherit

    shared, seed = stages[0].recipe, stages[0].recipe["seed"]
    settings: DescendSettings = _settings(DescendSettings, shared["descend"])
    tasks = downstream_tasks(settings, shared["classes"], resident, seed)
    heirs = [_inheritance(stage.recipe, given) for stage, given in zip(stages, inputs, strict=True)]
    numbers = range(len(tasks))
    drawn = derive_seed(seed, "draw", shared["draw"]) if shared["draw"] else seed
    models = [inherit(*heir, settings.classes_per_task, drawn, number).to(resident.device) for heir in heirs for number in numbers]
    size, reference = len(stages), shared["arithmetic"] == "reference"

    def report(fraction: float, text: str) -> None:
        progress(fraction, f"{len(tasks)} descendants{f' (of {len(models)} together)' if size > 1 else ''}, {text}")

    teacher = _teacher(shared, inputs[0], resident.device, settings.distill_weight)
    trained = train_together(
        models, tasks * size, resident, settings, drawn, [*numbers] * size, report, reference, _lr_scale(shared), teacher
    )
    parts = [trained[start : start + len(tasks)] for start in range(0, len(trained), len(tasks))]
    return [_measured(plan, tasks, part) for (plan, _), part in zip(heirs, parts, strict=True)]


def _fewshot(stage: Stage, inputs: Mapping[str, Result], resident: Resident, store: Store, progress: Progress) -> Outcome:
    from evolve.descendants.descendants import downstream_tasks
    from evolve.descendants.fewshot.measure import meta_train_and_measure, thinned
    from evolve.learngene.inheritance import inherit

    recipe, seed = stage.recipe, stage.recipe["seed"]
    settings: FewshotSettings = _settings(FewshotSettings, recipe["fewshot"])
    chosen: DescendSettings = _settings(DescendSettings, recipe["tasks"])
    tasks = downstream_tasks(chosen, recipe["classes"], resident, seed)
    network = inherit(from_json(recipe["plan"]), None, chosen.classes_per_task, seed, 0).to(resident.device)
    found = meta_train_and_measure(
        recipe["learner"],
        network,
        recipe["ancestor_classes"],
        tasks,
        resident,
        settings,
        seed,
        progress,
        Sparing(store.checkpoint(stage.key), CHECKPOINT_SECONDS),
        recipe.get("images_per_class", 0),
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


def _measured(plan: Architecture, tasks: Sequence[DownstreamTask], trained: Sequence[Trained]) -> Outcome:
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
    correct = {f"descendant{n}": torch.tensor(t.correct, dtype=torch.uint8) for n, t in enumerate(trained)}
    return record, {"correct": correct}


def _inheritance(recipe: Mapping[str, Any], inputs: Mapping[str, Result]) -> tuple[Architecture, Learngene | None]:
    """The descendant's plan and what it inherits, by the recipe's method."""
    ancestor, method = _plan(recipe), recipe["method"]
    if method == "from-scratch":
        return from_json(recipe["plan"]), None
    if method == "full-ancestor":
        return ancestor.whole(), extract(trunk(inputs["ancestor"].tensors("ancestor")), ancestor, ancestor.all_layers)
    found = inputs["learngene"]
    chosen: InheritSettings = _settings(InheritSettings, recipe.get("inherit", {}))
    plan = descendant(ancestor, found.record["layers"], chosen)
    if method == "distilled":
        return plan, None
    learngene = unflatten(found.tensors("learngene"), ancestor)
    return plan, shuffled(learngene, recipe["seed"], "shuffle") if method == "shuffled" else learngene


def _lr_scale(recipe: Mapping[str, Any]) -> float:
    """What the learning rate of the inherited layers is multiplied by; a from-scratch or distilled stage names none."""
    scale: float = recipe.get("inherit", {}).get("lr_scale", 1.0)
    return scale


def _teacher(recipe: Mapping[str, Any], inputs: Mapping[str, Result], device: torch.device, weight: float) -> Teacher | None:
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
    """The ancestor network's own state dict, out of an accumulate result (which also holds its strategy's state)."""
    from evolve.ancestor.accumulate import load_trunk

    return load_trunk(tensors)
