"""Finished lineages of `cifar-seq25` quick: what they computed, and how their gains spread.

They are runs of the user's own, or the five published ones that come with evolve.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolve.core.errors import UserError
from evolve.engine.stage import Stage
from evolve.lineage import scenario
from evolve.lineage.lineage import lineage, places
from evolve.lineage.recipes import heir, whole
from evolve.lineage.schedule import measured
from evolve.lineage.world import World, ancestor_plan
from evolve.networks.architecture import Architecture
from evolve.networks.family import from_json
from evolve.report.pooling import summarise
from evolve.runs.batch_folder import is_batch, read_batch_file
from evolve.runs.read import Reader
from evolve.runs.run import Run, run_record

PUBLISHED = Path(__file__).with_name("published.json")
SCENARIO, PROFILE = "cifar-seq25", "quick"
DESCENTS = ("inherited", "from-scratch", "full-ancestor", "shuffled")  # what --answer can time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Generation:
    """One measured lineage length.

    Attributes:
        layers: those that the condenser chose.
        attempts: how often it trained its meta-network, to find its rate.
        inherited: accuracy of every descendant, a fraction.
        scratch: the same of every from-scratch draw, [draws][descendants].
    """

    length: int
    layers: tuple[str, ...]
    attempts: int
    inherited: tuple[float, ...]
    scratch: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Work:
    """One kind of stage: ``network`` is what descendants train."""

    kind: str
    method: str = ""
    network: Architecture | None = None


@dataclass(frozen=True)
class Finished:
    """One finished lineage: a seed's."""

    world: World
    generations: tuple[Generation, ...]

    @cached_property
    def counts(self) -> Counter[Work]:
        """How many distinct stages of each kind its plan has; equal ones are computed once.

        Raises:
            UserError: a kind that cannot be timed here.
        """
        records = self._condensed()
        stages = {stage.key: stage for stage in lineage(self.world, records.get)}
        counts = Counter(self._work(stage, records) for stage in stages.values())
        # The untrained ancestor only is drawn; a condensation counts as often as it was tried.
        counts[Work("accumulate")] -= 1
        counts[Work("condense")] = sum(generation.attempts for generation in self.generations)
        return counts

    def _condensed(self) -> dict[str, dict[str, Any]]:
        """What the plan must know of every condensation, by its key."""
        named = places(self.world, lambda key: None)
        plan = ancestor_plan(self.world.settings).to_json()
        return {
            named["condense", "", "", generation.length, 0].key: {
                "ancestor_plan": plan,
                "layers": list(generation.layers),
            }
            for generation in self.generations
        }

    def _work(self, stage: Stage, records: Mapping[str, Mapping[str, Any]]) -> Work:
        if stage.kind in ("accumulate", "condense"):
            return Work(stage.kind)
        if stage.kind != "descend" or stage.method not in DESCENTS:
            raise UserError(f"--answer cannot time {stage.label}: leave this control out")
        if "plan" in stage.recipe:
            return Work("descend", stage.method, from_json(stage.recipe["plan"]))
        if stage.method == "full-ancestor":
            return Work("descend", stage.method, whole(self.world).anonymous())
        chosen = records[stage.inputs["learngene"]]
        return Work("descend", stage.method, heir(self.world, chosen).anonymous())

    def gains(self) -> tuple[Array, Array]:
        """The gain over from-scratch in points, averaged over the lengths that learned something.

        Returns:
            Inherited [tasks], and every draw of from-scratch [draws, tasks].
        """
        trained = [generation for generation in self.generations if generation.length > 0]
        inherited = np.mean([generation.inherited for generation in trained], axis=0)
        return 100 * inherited, 100 * np.mean(
            [generation.scratch for generation in trained], axis=0
        )


def published() -> tuple[list[Finished], str]:
    """The five published lineages, and where they come from.

    Raises:
        UserError: the shipped scenario is no longer theirs.
    """
    data = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    settings = scenario.load(SCENARIO, PROFILE).settings
    classes = settings.data
    roles = classes.ancestor_classes, classes.condense_classes, classes.descend_classes
    lineages = [
        Finished(
            World(settings, entry["seed"], "published", *roles),
            tuple(_generation(row) for row in entry["generations"]),
        )
        for entry in data["lineages"]
    ]
    for each in lineages:
        _check_shape(each, str(PUBLISHED))
    return lineages, data["source"]


def finished(folders: Sequence[Path]) -> tuple[list[Finished], str]:
    """The user's own lineages, and what they are.

    Args:
        folders: of runs or batches; seeds of one scenario.

    Raises:
        UserError: they differ in more than their seed, are not finished, or cannot be timed here.
    """
    reader = Reader()
    runs = [reader.opened(folder) for folder in _run_folders(folders)]
    summary = summarise([run_record(run) for run in runs])
    lineages = [_finished(run) for run in runs]
    if len(lineages) < 2:
        raise UserError("--runs: one lineage has no spread; give the runs of two seeds or more")
    return lineages, f"your runs: {summary.title}"


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if is_batch(folder):
            yield from (folder / case.folder for case in read_batch_file(folder).batch.cases)
        else:
            yield folder


def _finished(run: Run) -> Finished:
    """A run's lineage out of its store."""
    world, named = run.world, places(run.world, run.peek)

    def record(kind: str, method: str, length: int, draw: int = 0) -> Mapping[str, Any]:
        stage = named.get((kind, method, "", length, draw))
        result = run.peek(stage.key) if stage else None
        if result is None:
            raise UserError(
                f"{run.request.out}: {kind} {length} {method} is not computed yet or was not asked "
                "for; --answer needs finished lineages with from-scratch controls"
            )
        return result

    draws = range(world.settings.controls.draws)
    rows = []
    for length in measured(world.settings):
        gene = record("condense", "", length)
        rows.append(
            Generation(
                length,
                tuple(gene["layers"]),
                int(gene["effort"].get("attempts", [1])[0]),
                tuple(record("descend", "inherited", length)["accuracy"]),
                tuple(
                    tuple(record("descend", "from-scratch", length, draw)["accuracy"])
                    for draw in draws
                ),
            )
        )
    return Finished(world, tuple(rows))


def _generation(row: Mapping[str, Any]) -> Generation:
    return Generation(
        row["length"],
        tuple(row["layers"].split()),
        row["attempts"],
        tuple(row["inherited"]),
        tuple(map(tuple, row["scratch"])),
    )


def _check_shape(each: Finished, origin: str) -> None:
    s = each.world.settings
    has = {
        "lengths": tuple(row.length for row in each.generations),
        "descendants": len(each.generations[0].inherited),
        "draws": len(each.generations[0].scratch),
    }
    wanted = {
        "lengths": measured(s),
        "descendants": s.descend.descendants,
        "draws": s.controls.draws,
    }
    if has != wanted:
        raise UserError(
            f"{origin} holds lineages with {has}, but {SCENARIO} {PROFILE} has {wanted}; name "
            "finished runs of it with --runs"
        )
