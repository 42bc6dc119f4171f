"""THE page to read first: a lineage as a chain of stages, in the paper's words (5.3, Figure 6).

    accumulate(0) -> accumulate(1) -> ... -> accumulate(25)   the ancestor learns task after task
                          |                      |
                      condense(1)   ...      condense(25)     ancestor -> learngene
                          |                      |
                      descend(1)    ...      descend(25)      five descendants inherit the learngene
                                                              and learn tasks of their own

Nothing is computed on this page. ``accumulate``, ``condense`` and ``descend`` only name a stage:
its key is the hash of all that determines its numbers, the keys of its inputs among it. The stage's
result lies in the store under that key. So "what is left to do" is always the same question: which
of these stages is not in the store yet? What a key is made of: evolve/lineage/recipes.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from evolve.core.words import PAPERS, WHOLE
from evolve.engine.stage import Place, Stage
from evolve.lineage.recipes import (
    accumulate,
    condense,
    descend,
    distilled,
    fewshot,
    from_scratch,
    heir,
    rivals,
    whole,
)
from evolve.lineage.schedule import due, measured
from evolve.lineage.world import Peek, World, paper_descendant
from evolve.networks.architecture import Architecture


def lineage(world: World, peek: Peek) -> Iterator[Stage]:
    """Name every stage of the lineage that can be named now, generation by generation.

    A from-scratch control has the architecture that its generation's condenser chose. So it can be
    named only once ``peek`` finds that choice: ask again after each result.

    Args:
        world: the settings, the seed, the images and the split of their classes.
        peek: a stage's key -> its record, or None.
    """
    lengths = measured(world.settings)
    yield from fixed_controls(world)
    ancestor: Stage | None = None
    for length in range(world.settings.stream.tasks + 1):
        ancestor = accumulate(world, length, ancestor)
        # Strategy "joint" starts anew at every length, so it needs no ancestor before this one.
        if length in (0, *lengths) or world.settings.ancestor.strategy != "joint":
            yield ancestor
        if length in lengths:
            yield from generation(world, length, ancestor, peek)
    for learner in dict.fromkeys(world.settings.fewshot.learners):
        yield fewshot(world, learner)


def generation(world: World, length: int, ancestor: Stage, peek: Peek) -> Iterator[Stage]:
    """Condense one ancestor, let descendants inherit its learngene, and compare them."""
    learngene = condense(world, length, ancestor)
    yield from rivals(world, length, ancestor).values()
    yield learngene
    yield descend(world, "inherited", length, learngene)
    yield from controls(world, length, ancestor, learngene, peek)


def controls(
    world: World, length: int, ancestor: Stage, learngene: Stage, peek: Peek
) -> Iterator[Stage]:
    """Name what the heirs of one learngene are compared with, on the same tasks."""
    chosen = peek(learngene.key)
    if chosen and world.settings.controls.from_scratch:
        yield from draws(world, heir(world, chosen), length)
    if due(world, "shuffled", length):
        yield descend(world, "shuffled", length, learngene)
    if due(world, "full-ancestor", length):
        yield descend(world, "full-ancestor", length, ancestor)
    if due(world, "distilled", length):
        yield distilled(world, length, learngene, ancestor)
    if due(world, "joint", length):
        joint = accumulate(world, length, ancestor, strategy="joint")
        joint_gene = condense(world, length, joint, of="joint")
        yield joint
        yield from rivals(world, length, joint, of="joint").values()
        yield joint_gene
        yield descend(world, "joint", length, joint_gene)


def fixed_controls(world: World) -> Iterator[Stage]:
    """Name the from-scratch controls that no condenser decides: one of each for all generations."""
    if not world.settings.controls.from_scratch:
        return
    yield from draws(world, paper_descendant(world.settings), PAPERS)
    if any(due(world, "full-ancestor", length) for length in measured(world.settings)):
        yield from draws(world, whole(world), WHOLE)


def draws(world: World, plan: Architecture, of: int | str) -> Iterator[Stage]:
    """Name all random draws of the from-scratch control whose architecture is ``plan``."""
    return (from_scratch(world, plan, of, draw) for draw in range(world.settings.controls.draws))


def places(world: World, peek: Peek) -> dict[Place, Stage]:
    """The stages that can be named now, by where they stand in the lineage."""
    return {stage.place: stage for stage in lineage(world, peek)}
