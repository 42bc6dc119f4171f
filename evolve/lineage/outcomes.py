"""The outcome of one stage, by kind: recipe and inputs go in, a record and tensors come out.

This page and :mod:`evolve.lineage.descend_outcomes` call the rooms that compute: ancestor,
condensers, learngene and descendants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from evolve.core.errors import UserError
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
from evolve.engine.precision import computing
from evolve.engine.store import Result, Stage, Store
from evolve.learngene.learngene import extract, flatten
from evolve.lineage.recipes import RIVAL
from evolve.networks.architecture import Architecture
from evolve.networks.family import architecture
from evolve.networks.vit_plan import ViTPlan

if TYPE_CHECKING:
    from evolve.condensers.interface import Request

CHECKPOINT_SECONDS = 10.0  # what a crash may cost of a task under way

Outcome = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]


def settings_of(kind: type, table: Mapping[str, Any]) -> Any:
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
    # This imports Avalanche, which takes seconds.
    from evolve.ancestor.accumulate import Accumulated, AccumulateRequest, accumulate

    recipe = stage.recipe
    before = inputs.get("previous")
    previous = Accumulated(before.tensors("ancestor"), before.record) if before else None
    history = before.record["history"] if before else []
    with computing(recipe.get("arithmetic", ""), resident.device) as plain:
        done = accumulate(
            AccumulateRequest(
                settings_of(AncestorSettings, recipe["ancestor"]),
                settings_of(StreamSettings, recipe["stream"]),
                tuple(recipe["classes"]),
                resident,
                recipe["seed"],
                recipe["task"],
                checkpoint_of(stage, store),
                progress,
                previous=previous,
                history=history,
                reference=plain,
                start=_pretrained(recipe, context) if recipe.get("checkpoint") else None,
            )
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
    settings: CondenseSettings = settings_of(CondenseSettings, recipe["condense"])
    trial = recipe.get("trial", {})
    return Request(
        architecture=plan_of(recipe),
        state=trunk(inputs["ancestor"].tensors("ancestor")),
        ancestor_record=inputs["ancestor"].record,
        classes=tuple(recipe["classes"]),
        resident=resident,
        c=settings,
        seed=recipe["seed"],
        progress=progress,
        reference=recipe.get("arithmetic") == "reference",
        descend=settings_of(DescendSettings, trial.get("descend", {})),
        inherit=settings_of(InheritSettings, trial.get("inherit", {})),
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


def checkpoint_of(stage: Stage, store: Store) -> ThrottledCheckpoint:
    """Where an interrupted stage goes on; written every :data:`CHECKPOINT_SECONDS` at most."""
    return ThrottledCheckpoint(store.checkpoint(stage.key), CHECKPOINT_SECONDS)


def plan_of(recipe: Mapping[str, Any]) -> Architecture:
    """The ancestor's architecture, which a "condense" or "descend" recipe names."""
    network = recipe["network"]
    return architecture(network["network"], network["width"], network.get("size", 0))


def trunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ancestor network's own state dict, out of an accumulate result."""
    from evolve.ancestor.accumulate import load_trunk

    return load_trunk(tensors)
