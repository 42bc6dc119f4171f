"""Snapshots: what an accumulate stage leaves of the ancestor.

They are most of a store. ``ancestor.keep`` thins them once a run is done. A thinned snapshot keeps
its record, which reports read. Who needs its tensors computes them again, from the last whole
snapshot before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from rich.filesize import decimal

from evolve.engine.stage import Stage
from evolve.engine.store import Store
from evolve.lineage.lineage import lineage
from evolve.lineage.world import World
from evolve.runs.garbage import census, references

TENSORS = ("ancestor",)  # the files that are dropped


def thin(store: Store, worlds: Sequence[World]) -> list[str]:
    """Drop the snapshots that finished runs do not keep and no other run keeps or still needs.

    Where another run cannot be read, nothing is dropped: nobody knows what it needs.

    Args:
        store: the store.
        worlds: the runs that are done.

    Returns:
        Lines to say about it.
    """
    sparing = [world for world in worlds if world.settings.ancestor.keep != "all"]
    if not sparing or store.read_only:
        return []
    with store.gate():
        counted = census(store)
        if counted.problems:
            return [f"no snapshot was thinned: {counted.problems[0]}"]
        stages = references(store, counted.runs)
        needed = {
            key for run in counted.runs for key in _needed(run.world, stages[run.folder], store)
        }
        freed = [
            size
            for world in sparing
            for stage in _snapshots(world)
            if stage.key not in needed and (size := _drop(store, stage, world))
        ]
    if not freed:
        return []
    return [
        f"{len(freed)} snapshots were thinned ({decimal(sum(freed))}): what condenses one of them "
        "again computes it anew first"
    ]


def keeps(world: World, stage: Stage) -> bool:
    """Whether ``ancestor.keep`` keeps it: all snapshots, the last, or every n-th and the last."""
    keep, task = world.settings.ancestor.keep, stage.recipe["task"]
    return (
        keep == "all"
        or task == world.settings.stream.tasks
        or (isinstance(keep, int) and task % keep == 0)
    )


def _needed(world: World, stages: Mapping[str, Stage], store: Store) -> Iterator[str]:
    """The snapshots that a run keeps, and all inputs of what it has still to compute, by key."""
    for key, stage in stages.items():
        if stage.kind == "accumulate" and keeps(world, stage):
            yield key
        if not store.has(key):
            yield from stage.inputs.values()


def _snapshots(world: World) -> Iterator[Stage]:
    """Those that the run does not keep, the joint control's among them."""
    for stage in lineage(world, lambda key: None):
        if stage.kind == "accumulate" and not keeps(world, stage):
            yield stage


def _drop(store: Store, stage: Stage, world: World) -> int:
    keep, task = world.settings.ancestor.keep, stage.recipe["task"]
    why = f"the snapshot after task {task} was thinned (ancestor.keep = {json.dumps(keep)}): "
    advice = (
        "`evolve condense RUN@TASK`, or any run that condenses it with other settings, computes "
        "it anew first"
    )
    return store.thin(stage.key, TENSORS, why + advice)
