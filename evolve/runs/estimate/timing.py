"""Times a few real steps of every room here, so that `evolve plan` can say how long a run takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from evolve.core.settings import Settings
from evolve.data.resident import Resident
from evolve.engine.devices import choose_device
from evolve.engine.precision import FLOAT32, computing, multiplies_bfloat16
from evolve.lineage.world import World
from evolve.runs.estimate import cost
from evolve.runs.estimate.counts import Count, Counts

if TYPE_CHECKING:
    from evolve.data.sources import ImageSet
    from evolve.runs.run import Run

# Optimizer steps of the two timed runs; their difference is free of what a run costs once.
SHORT, LONG = 4, 12


def measure_speed(run: Run, images: ImageSet) -> dict[str, float]:
    """Measured over estimated seconds, by kind of stage.

    Args:
        run: whose stages are timed, with few steps each.
        images: the run's.

    Returns:
        The ratio for every kind that still has stages to do; 1 for the others.
    """
    kinds = {stage.kind for stage in run.missing()}
    ratios = {"accumulate": 1.0, "condense": 1.0, "descend": 1.0, "fewshot": 1.0}
    if not kinds:
        return ratios
    torch.set_num_threads(1)
    resident = Resident(images, choose_device(run.request.device))
    timed = (kinds - {"fewshot"}) | ({"descend"} if "fewshot" in kinds else set())
    for kind in timed:
        ratios[kind] = _ratio(kind, run, resident, run.world.settings)
    # Learners are estimated; their backbone's steps are a descendant's.
    ratios["fewshot"] = ratios["descend"]
    return ratios


def faster_precision(run: Run, images: ImageSet, speed: Mapping[str, float]) -> dict[str, float]:
    """What bfloat16 would gain here, where the processor has instructions for it.

    Args:
        run, images: as for :func:`measure_speed`.
        speed: what that measured.

    Returns:
        Seconds as set over seconds with bfloat16, by section ("ancestor", "descend"); none where
        the run has chosen a precision, has nothing left of that kind, or the device has none.
    """
    device = choose_device(run.request.device)
    if not multiplies_bfloat16(device) or run.request.reference:
        return {}
    kinds, s = {stage.kind for stage in run.missing()}, run.world.settings
    sections = {
        section: (
            kind,
            replace(s, **{section: replace(getattr(s, section), precision="bfloat16")}),
        )
        for section, kind in (("ancestor", "accumulate"), ("descend", "descend"))
        if kind in kinds and getattr(s, section).precision == FLOAT32
    }
    resident = Resident(images, device)
    return {
        section: speed[kind] / _ratio(kind, run, resident, settings)
        for section, (kind, settings) in sections.items()
    }


def _ratio(kind: str, run: Run, resident: Resident, set_to: Settings) -> float:
    room: Callable[[Run, Settings, Resident], None] = {
        "accumulate": _accumulate,
        "condense": _condense,
        "descend": _descend,
    }[kind]
    spent, expected, least = [], [], _least(run.world, resident)
    for steps in (2, SHORT, LONG):  # the first one warms up
        settings = _shortened(set_to, kind, steps, least)
        begun = time.perf_counter()
        room(run, settings, resident)
        spent.append(time.perf_counter() - begun)
        recipe: dict[str, Any] = {
            "task": 1,
            "ancestor": {"strategy": "naive"},
            "method": "inherited",
        }
        expected.append(cost.seconds(settings, kind, recipe, run.counts))
    grown = expected[2] - expected[1]
    return max(0.05, (spent[2] - spent[1]) / grown) if grown > 0 else 1.0


def _least(world: World, resident: Resident) -> Counts:
    """What every class of a role has: timed steps may ask for no more."""
    return {
        role: Count(
            len(ids),
            *(min(len(resident.indices(i, test)) for i in ids) for test in (False, True)),
        )
        for role, ids in world.roles.items()
    }


def _shortened(s: Settings, kind: str, steps: int, least: Counts) -> Settings:
    """The same sizes, but about ``steps`` optimizer steps, as far as the images go."""
    if kind == "accumulate":
        wanted = max(1, s.ancestor.batch * 2 // s.stream.classes_per_task)
        return replace(
            s,
            ancestor=replace(s.ancestor, epochs=steps // 2, strategy="naive", strategy_args={}),
            stream=replace(s.stream, images_per_class=min(least["ancestor"].train, wanted)),
        )
    if kind == "condense":
        held = least["condense"]
        wanted = max(4, round(2 * s.condense.batch / (1 - s.condense.meta_fraction) / held.classes))
        briefly = replace(
            s.condense,
            epochs=steps // 2,
            images_per_class=min(held.train, wanted),
            trial_tasks=2,
        )
        # One length: what is from scratch is trained for it alone.
        alone = replace(s.controls, untrained=False)
        # trial's descendants learn as the lineage's, from condensing classes
        learning = _shortened(s, "descend", steps, {"descend": held})
        return replace(
            learning, condense=briefly, stream=replace(s.stream, tasks=1), controls=alone
        )
    held = least["descend"]
    shots = min(held.train, max(1, s.descend.batch * 2 // s.descend.classes_per_task))
    tests = min(held.test, 20, s.descend.test_per_class or 20)
    return replace(
        s, descend=replace(s.descend, epochs=steps // 2, shots=shots, test_per_class=tests)
    )


def _accumulate(run: Run, s: Settings, resident: Resident) -> None:
    from evolve.ancestor.accumulate import AccumulateRequest, accumulate

    world = run.world
    start = AccumulateRequest(
        s.ancestor,
        s.stream,
        world.ancestor_classes,
        resident,
        world.seed,
        0,
        NoCheckpoint(),
        silent,
    )
    with computing(world.computed(s.ancestor.precision), resident.device) as plain:
        start = replace(start, reference=plain)
        accumulate(replace(start, task=1, previous=accumulate(start)))


def _condense(run: Run, s: Settings, resident: Resident) -> None:
    from evolve.condensers.condense import condense_ancestor
    from evolve.condensers.interface import Request
    from evolve.lineage.world import ancestor_plan

    plan = ancestor_plan(s)
    state = plan.build(2).state_dict()
    condense_ancestor(
        Request(
            plan,
            state,
            {},
            run.world.condense_classes,
            resident,
            s.condense,
            0,
            silent,
            run.request.reference,
            descend=s.descend,
            inherit=s.inherit,
        )
    )


def _descend(run: Run, s: Settings, resident: Resident) -> None:
    from evolve.descendants.descendants import Group, downstream_tasks, train_together
    from evolve.learngene.inheritance import inherit
    from evolve.lineage.world import paper_descendant

    tasks = downstream_tasks(s.descend, run.world.descend_classes, resident, 0)
    plan, numbers = paper_descendant(s), range(len(tasks))
    models = [
        inherit(plan, None, s.descend.classes_per_task, 0, number).to(resident.device)
        for number in numbers
    ]
    with computing(run.world.computed(s.descend.precision), resident.device) as plain:
        train_together(
            models, Group(tasks, numbers, resident, s.descend, 0), silent, reference=plain
        )


class NoCheckpoint:
    """A checkpoint that keeps nothing."""

    def load(self) -> None:
        """Nothing was kept."""
        return None

    def save(self, tensors: Any, meta: Any) -> None:
        """Keep nothing."""
        pass

    def clear(self) -> None:
        """There is nothing to clear."""
        pass


def silent(fraction: float, text: str) -> None:
    """A progress report that says nothing."""
    pass
