"""Reads a lineage's results back out of the store as pure data, for curves, reports and screens."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evolve.core.settings import SPARSE
from evolve.core.words import PAPERS, WHOLE
from evolve.engine.stage import Place, Stage
from evolve.lineage import lineage, recipes
from evolve.lineage.schedule import due, measured
from evolve.lineage.world import Peek, World
from evolve.networks.family import from_json
from evolve.report.curves import Descent, Generation, LineageRecord, Tried


def collect(
    world: World,
    peek: Peek,
    scenario: str,
    profile: str,
    settings: Mapping[str, Any],
    versions: Mapping[str, Any],
) -> LineageRecord:
    """Every generation whose measurements are complete; a lineage still under way gives a shorter
    record.
    """
    known = lineage.places(world, peek)
    found = (generation(world, length, known, peek) for length in measured(world.settings))
    return LineageRecord(
        scenario=scenario,
        profile=profile,
        seed=world.seed,
        tasks=world.settings.stream.tasks,
        generations=tuple(g for g in found if g is not None),
        reference=_from_scratch(world, PAPERS, 0, known, peek),
        settings=dict(settings),
        versions=dict(versions),
        lengths=measured(world.settings),
        fewshot=tuple(_fewshot(known.values(), peek)),
    )


def generation(
    world: World, length: int, known: Mapping[Place, Stage], peek: Peek
) -> Generation | None:
    """One generation, or None while a stage of it is missing."""
    ancestor = peek(known["accumulate", "", "", length, 0].key)
    gene = peek(known["condense", "", "", length, 0].key)
    methods = ["inherited", *(method for method in SPARSE if due(world, method, length))]
    stages = {method: known.get(("descend", method, "", length, 0)) for method in methods}
    records = {method: peek(stage.key) if stage else None for method, stage in stages.items()}
    descents = {
        method: _descent(record, length, method)
        for method, record in records.items()
        if record is not None
    }
    wanted: dict[str, int | str] = (
        {"from-scratch": length} if world.settings.controls.from_scratch else {}
    )
    wanted |= {"whole from-scratch": WHOLE} if wanted and "full-ancestor" in methods else {}
    for name, of in wanted.items():
        if (control := _from_scratch(world, of, length, known, peek)) is not None:
            descents[name] = control
    if ancestor is None or gene is None or len(descents) < len(methods) + len(wanted):
        return None
    plan = from_json(gene["ancestor_plan"])
    return Generation(
        lineage=length,
        selected=tuple(_group_name(gene["groups"][index]) for index in gene["selected"]),
        all_layers=tuple(_group_name(group) for group in gene["groups"]),
        scores=tuple(gene["weights"]),
        alpha=tuple(tuple(row) for row in gene["alpha"]),
        margin=gene["margin"],
        status=gene["status"],
        selected_by=gene["selected_by"],
        agreement=gene["agreement"],
        descendant=recipes.heir(world, gene).describe(),
        share=plan.share(
            [
                *gene["layers"],
                *(plan.carried if world.settings.inherit.embeddings == "inherited" else ()),
            ]
        ),
        trials=tuple(_tried(trial, gene["groups"]) for trial in gene["trials"]),
        inherited=descents["inherited"],
        scratch=descents.get("from-scratch"),
        shuffled=descents.get("shuffled"),
        joint=descents.get("joint"),
        full_ancestor=descents.get("full-ancestor"),
        full_scratch=descents.get("whole from-scratch"),
        distilled=descents.get("distilled"),
        ancestor_accuracy=ancestor.get("average_accuracy"),
        forgetting=ancestor.get("forgetting"),
        backward_transfer=ancestor.get("backward_transfer"),
        history={name: tuple(values) for name, values in gene["history"].items()},
    )


def _tried(trial: Mapping[str, Any], groups: list[list[str]]) -> Tried:
    names = tuple(_group_name(groups[place]) for place in trial["layers"])
    return Tried(", ".join(trial["origins"]), names, trial["share"], trial["gain"], trial["error"])


def _group_name(group: list[str]) -> str:
    """A layer's name; a stage of several layers is named by its range."""
    return group[0] if len(group) == 1 else f"{group[0]}-{group[-1].lstrip(string.ascii_letters)}"


def _fewshot(stages: Iterable[Stage], peek: Peek) -> Iterator[Descent]:
    """Those of Table III's learners that have been measured; they have no epochs, so no curves."""
    for stage in stages:
        record = peek(stage.key) if stage.kind == "fewshot" else None
        if record is not None:
            accuracy, images = tuple(record["accuracy"]), tuple(record["test_images"])
            diverged = record["undecided"] > 0 or not all(map(math.isfinite, record["losses"]))
            backbone = from_json(record["plan"]).describe()
            yield Descent(
                0,
                stage.method,
                accuracy,
                accuracy,
                (),
                (),
                images,
                backbone=backbone,
                diverged=diverged,
            )


def _from_scratch(
    world: World, of: int | str, length: int, known: Mapping[Place, Stage], peek: Peek
) -> Descent | None:
    """A from-scratch control, the mean of its draws; None while one is missing, or where the
    control is off.
    """
    owner, at = ("", of) if isinstance(of, int) else (of, None)
    draws = range(world.settings.controls.draws)
    stages = [known.get(("descend", "from-scratch", owner, at, draw)) for draw in draws]
    records = [peek(stage.key) if stage else None for stage in stages]
    descents = [
        _descent(record, length, "from-scratch") for record in records if record is not None
    ]
    return mean_descent(descents) if len(descents) == len(stages) else None


def mean_descent(draws: Sequence[Descent]) -> Descent:
    """Several draws of the same descendants as one: every number is the mean of theirs."""
    if len(draws) == 1:
        return draws[0]
    return replace(
        draws[0],
        accuracy=_mean([draw.accuracy for draw in draws]),
        best=_mean([draw.best for draw in draws]),
        newborn=_mean([draw.newborn for draw in draws]),
        curves=tuple(map(_mean, zip(*(draw.curves for draw in draws), strict=True))),
        train_loss=tuple(map(_mean, zip(*(draw.train_loss for draw in draws), strict=True))),
        draws=len(draws),
    )


def _mean(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Of equally long rows, place by place."""
    return tuple(math.fsum(values) / len(values) for values in zip(*rows, strict=True))


def _descent(record: Mapping[str, Any], length: int, method: str) -> Descent:
    return Descent(
        lineage=length,
        method=method,
        accuracy=tuple(record["accuracy"]),
        best=tuple(record["best"]),
        curves=tuple(tuple(c) for c in record["curves"]),
        train_loss=tuple(tuple(c) for c in record["train_loss"]),
        test_images=tuple(record["test_images"]),
        tested=tuple(record["tested"]),
        newborn=tuple(record["newborn"]),
    )
