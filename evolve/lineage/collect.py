"""Reads a lineage's results out of the store as plain numbers, for reports and screens."""

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
from evolve.lineage.scenario import changes
from evolve.lineage.schedule import due, measured
from evolve.lineage.world import Peek, World
from evolve.networks.family import from_json
from evolve.report.curves import NAMES, Descent, Generation, LineageRecord, Parameters, Tried


def collect(
    world: World,
    peek: Peek,
    scenario: str,
    profile: str,
    settings: Mapping[str, Any],
    versions: Mapping[str, Any],
) -> LineageRecord:
    """Collect every generation whose measurements are complete.

    Args:
        world: the lineage.
        peek: a stage's key -> its record, or None.
        scenario: the scenario's name, for the record.
        profile: "quick" or "paper", for the record.
        settings: all settings as plain values, for the record.
        versions: of evolve and its libraries, for the record.

    Returns:
        The lineage's record; a shorter one while the lineage is under way.
    """
    stages = lineage.places(world, peek)
    return LineageRecord(
        scenario=scenario,
        profile=profile,
        seed=world.seed,
        tasks=world.settings.stream.tasks,
        generations=tuple(generations(world, stages, peek)),
        reference=_from_scratch(world, PAPERS, 0, stages, peek),
        settings=dict(settings),
        versions=dict(versions),
        lengths=measured(world.settings),
        fewshot=tuple(_fewshot(stages.values(), peek)),
        changes=changes(world.settings, profile),
    )


def generations(world: World, places: Mapping[Place, Stage], peek: Peek) -> Iterator[Generation]:
    """Read every generation whose measurements are complete, by lineage length.

    Args:
        world: the lineage.
        places: the lineage's stages by where they stand (:func:`evolve.lineage.lineage.places`).
        peek: a stage's key -> its record, or None.
    """
    for length in measured(world.settings):
        complete = generation(world, length, places, peek)
        if complete is not None:
            yield complete


def generation(
    world: World, length: int, places: Mapping[Place, Stage], peek: Peek
) -> Generation | None:
    """Read one generation's numbers.

    Args:
        world: the lineage.
        length: the lineage length, one of ``measured(world.settings)``.
        places: the lineage's stages by where they stand (:func:`evolve.lineage.lineage.places`).
        peek: a stage's key -> its record, or None.

    Returns:
        The generation; None while one of its measurements is missing.
    """
    ancestor = peek(places["accumulate", "", "", length, 0].key)
    gene = peek(places["condense", "", "", length, 0].key)
    descents = _descents(world, length, places, peek)
    if ancestor is None or gene is None or None in descents.values():
        return None
    plan = from_json(gene["ancestor_plan"])
    return Generation(
        lineage=length,
        selected=tuple(group_name(gene["groups"][index]) for index in gene["selected"]),
        all_layers=tuple(group_name(group) for group in gene["groups"]),
        scores=tuple(gene["weights"]),
        alpha=tuple(tuple(row) for row in gene["alpha"]),
        margin=gene["margin"],
        status=gene["status"],
        selected_by=gene["selected_by"],
        agreement=gene["agreement"],
        descendant=recipes.heir(world, gene).describe(),
        share=plan.share(_held(world, gene)),
        sizes=tuple(plan.share(group) for group in gene["groups"]),
        parameters=_parameters(world, gene),
        trials=tuple(_tried(trial, gene["groups"]) for trial in gene["trials"]),
        ancestor_accuracy=ancestor.get("average_accuracy"),
        forgetting=ancestor.get("forgetting"),
        backward_transfer=ancestor.get("backward_transfer"),
        history={name: tuple(values) for name, values in gene["history"].items()},
        **{name: descent for name, descent in descents.items() if descent is not None},
    )


def _descents(
    world: World, length: int, places: Mapping[Place, Stage], peek: Peek
) -> dict[str, Descent | None]:
    """What is measured at this length, by its field of a Generation; None while it is missing."""
    descents: dict[str, Descent | None] = {}
    for method in ("inherited", *(method for method in SPARSE if due(world, method, length))):
        stage = places.get(("descend", method, "", length, 0))
        record = peek(stage.key) if stage else None
        descents[method.replace("-", "_")] = _descent(record, length, method) if record else None
    if world.settings.controls.from_scratch:
        descents["scratch"] = _from_scratch(world, length, length, places, peek)
        if "full_ancestor" in descents:
            descents["full_scratch"] = _from_scratch(world, WHOLE, length, places, peek)
    return descents


def _held(world: World, gene: Mapping[str, Any]) -> list[str]:
    """The ancestor's layers that descendants make use of."""
    inherited = world.settings.inherit.embeddings == "inherited"
    return [*gene["layers"], *(from_json(gene["ancestor_plan"]).carried if inherited else ())]


def _parameters(world: World, gene: Mapping[str, Any]) -> Parameters:
    heir, whole = recipes.heir(world, gene), recipes.whole(world)
    return Parameters(
        descendant=heir.trained(heir.all_layers),
        learngene=from_json(gene["ancestor_plan"]).trained(_held(world, gene)),
        whole=whole.trained(whole.all_layers),
    )


def _tried(trial: Mapping[str, Any], groups: list[list[str]]) -> Tried:
    names = tuple(group_name(groups[place]) for place in trial["layers"])
    return Tried(", ".join(trial["origins"]), names, trial["share"], trial["gain"], trial["error"])


def group_name(group: Sequence[str]) -> str:
    """A layer's name; a stage of several layers is named by its range."""
    return group[0] if len(group) == 1 else f"{group[0]}-{group[-1].lstrip(string.ascii_letters)}"


def _fewshot(stages: Iterable[Stage], peek: Peek) -> Iterator[Descent]:
    """Those of Table III's learners that have been measured; they have no epochs, so no curves."""
    for stage in stages:
        record = peek(stage.key) if stage.kind == "fewshot" else None
        if record is not None:
            accuracy, images = tuple(record["accuracy"]), tuple(record["test_images"])
            diverged = record["undecided"] > 0 or not all(map(math.isfinite, record["losses"]))
            yield Descent(
                lineage=0,
                method=stage.method,
                accuracy=accuracy,
                best=accuracy,
                curves=(),
                train_loss=(),
                test_images=images,
                backbone=from_json(record["plan"]).describe(),
                diverged=diverged,
            )


def _from_scratch(
    world: World, of: int | str, length: int, places: Mapping[Place, Stage], peek: Peek
) -> Descent | None:
    """A from-scratch control, the mean of its draws; None while one of them is missing."""
    owner, at = ("", of) if isinstance(of, int) else (of, None)
    draws = range(world.settings.controls.draws)
    stages = [places.get(("descend", "from-scratch", owner, at, draw)) for draw in draws]
    records = [peek(stage.key) if stage else None for stage in stages]
    descents = [
        _descent(record, length, "from-scratch") for record in records if record is not None
    ]
    return mean_descent(descents) if len(descents) == len(stages) else None


def mean_descent(draws: Sequence[Descent]) -> Descent:
    """Average several draws of the same descendants: every number is the mean of theirs."""
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
    """The mean of equally long rows, place by place."""
    return tuple(math.fsum(values) / len(values) for values in zip(*rows, strict=True))


def _descent(record: Mapping[str, Any], length: int, method: str) -> Descent:
    return Descent(
        lineage=length,
        method=NAMES.get(method.replace("-", "_"), method),
        accuracy=tuple(record["accuracy"]),
        best=tuple(record["best"]),
        curves=tuple(tuple(c) for c in record["curves"]),
        train_loss=tuple(tuple(c) for c in record["train_loss"]),
        test_images=tuple(record["test_images"]),
        tested=tuple(record["tested"]),
        newborn=tuple(record["newborn"]),
    )
