"""Reads a lineage's results back out of the store as pure data, for curves, reports and screens."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evolve import lineage
from evolve.curves import Descent, Generation, LineageRecord
from evolve.lineage import Peek, World
from evolve.networks.family import from_json
from evolve.store import Stage


def collect(world: World, peek: Peek, scenario: str, profile: str, settings: Mapping[str, Any], versions: Mapping[str, Any]) -> LineageRecord:
    """Every generation whose measurements are complete; a lineage still under way gives a shorter record."""
    known: dict[str, Stage] = {stage.label: stage for stage in lineage.lineage(world, peek)}
    lengths = range(0 if world.settings.controls.untrained else 1, world.settings.stream.tasks + 1)
    found = (generation(world, length, known, peek) for length in lengths)
    reference = known.get("descend paper's descendant from-scratch")
    measured = peek(reference.key) if reference else None
    return LineageRecord(
        scenario=scenario,
        profile=profile,
        seed=world.seed,
        tasks=world.settings.stream.tasks,
        generations=tuple(g for g in found if g is not None),
        reference=_descent(measured, 0, "from-scratch") if measured else None,
        settings=dict(settings),
        versions=dict(versions),
        fewshot=tuple(_fewshot(known.values(), peek)),
    )


def generation(world: World, length: int, known: Mapping[str, Stage], peek: Peek) -> Generation | None:
    """One generation, or None while a stage of it is missing."""
    ancestor = peek(known[f"accumulate {length}"].key)
    gene = peek(known[f"condense {length}"].key)
    names = [f"descend {length} inherited"]
    names += [f"descend {length} from-scratch"] if world.settings.controls.from_scratch else []
    names += [f"descend {length} {method}" for method in lineage.SPARSE if lineage.due(world, method, length)]
    measured = {name.split()[-1]: peek(known[name].key) if name in known else None for name in names}
    if ancestor is None or gene is None or any(record is None for record in measured.values()):
        return None
    descents = {method: _descent(record, length, method) for method, record in measured.items() if record is not None}
    return Generation(
        lineage=length,
        selected=tuple(_group_name(gene["groups"][index]) for index in gene["selected"]),
        all_layers=tuple(_group_name(group) for group in gene["groups"]),
        scores=tuple(gene["weights"]),
        alpha=tuple(tuple(row) for row in gene["alpha"]),
        margin=gene["margin"],
        status=gene["status"],
        selected_by=gene["selected_by"],
        agreement=gene.get("agreement"),
        descendant=lineage.heir(world, gene).describe(),
        inherited=descents["inherited"],
        scratch=descents.get("from-scratch"),
        shuffled=descents.get("shuffled"),
        joint=descents.get("joint"),
        full_ancestor=descents.get("full-ancestor"),
        distilled=descents.get("distilled"),
        ancestor_accuracy=ancestor.get("average_accuracy"),
        ancestor_row=tuple(ancestor.get("row", ())),
        forgetting=ancestor.get("forgetting"),
        backward_transfer=ancestor.get("backward_transfer"),
        seconds={},
        history={name: tuple(values) for name, values in gene.get("history", {}).items()},
    )


def _group_name(group: list[str]) -> str:
    """A layer's name; a stage of several layers is named by its range."""
    return group[0] if len(group) == 1 else f"{group[0]}-{group[-1].lstrip(string.ascii_letters)}"


def _fewshot(stages: Iterable[Stage], peek: Peek) -> Iterator[Descent]:
    """Those of Table III's learners that have been measured; they have no epochs, so no curves."""
    for stage in stages:
        record = peek(stage.key) if stage.kind == "fewshot" else None
        if record is not None:
            accuracy, images = tuple(record["accuracy"]), tuple(record["test_images"])
            # older stores count no undecided test images
            diverged = record.get("undecided", 0) > 0 or not all(map(math.isfinite, record["losses"]))
            yield Descent(0, stage.recipe["learner"], accuracy, accuracy, (), (), images, from_json(record["plan"]).describe(), diverged)


def _descent(record: Mapping[str, Any], length: int, method: str) -> Descent:
    return Descent(
        lineage=length,
        method=method,
        accuracy=tuple(record["accuracy"]),
        best=tuple(record["best"]),
        curves=tuple(tuple(c) for c in record["curves"]),
        train_loss=tuple(tuple(c) for c in record["train_loss"]),
        test_images=tuple(record["test_images"]),
    )
