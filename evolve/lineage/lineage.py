"""THE page to read first: a lineage, in the paper's words, as a chain of stages (paper 5.3, Figure
6).

    accumulate(0) -> accumulate(1) -> ... -> accumulate(25)     the ancestor learns task after task
                          |                       |
                      condense(1)    ...      condense(25)      ancestor -> learngene
                          |                       |
                      descend(1)     ...      descend(25)       five descendants inherit it and learn their own tasks

A stage's key is the hash of all that determines its numbers, its inputs' keys among them; its
result lies in the store under that key. So "what is left to do" is always the same question: which
of these stages is not in the store yet?
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
)
from evolve.lineage.schedule import due, measured
from evolve.lineage.world import Peek, World, ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture


def lineage(world: World, peek: Peek) -> Iterator[Stage]:
    """Every stage of the lineage that can be named now, generation by generation.

    A from-scratch control has the architecture that its generation's condenser chose, so it can be
    named only once ``peek`` finds that choice; ask again after each result.
    """
    controls, lengths = world.settings.controls, measured(world.settings)
    if controls.from_scratch:
        yield from draws(world, paper_descendant(world.settings), PAPERS)
        if any(due(world, "full-ancestor", length) for length in lengths):
            yield from draws(world, ancestor_plan(world.settings).whole(), WHOLE)
    ancestor = accumulate(world, 0, None)
    yield ancestor
    for length in range(world.settings.stream.tasks + 1):
        if length > 0:
            ancestor = accumulate(world, length, ancestor)
            if (
                length in lengths or world.settings.ancestor.strategy != "joint"
            ):  # a joint ancestor needs none before it
                yield ancestor
        if length in lengths:
            yield from generation(world, length, ancestor, peek)
    for learner in dict.fromkeys(world.settings.fewshot.learners):
        yield fewshot(world, learner)


def generation(world: World, length: int, ancestor: Stage, peek: Peek) -> Iterator[Stage]:
    """Condense, inherit and measure one ancestor, with the controls that hang from it."""
    controls = world.settings.controls
    learngene = condense(world, length, ancestor)
    yield from (*rivals(world, length, ancestor).values(), learngene)
    yield descend(world, "inherited", length, learngene)
    chosen = peek(learngene.key)
    if chosen and controls.from_scratch:
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
        others = rivals(world, length, joint, of="joint").values()
        yield from (joint, *others, joint_gene, descend(world, "joint", length, joint_gene))


def draws(world: World, plan: Architecture, of: int | str) -> Iterator[Stage]:
    """All ``controls.draws`` of a from-scratch control."""
    return (from_scratch(world, plan, of, draw) for draw in range(world.settings.controls.draws))


def places(world: World, peek: Peek) -> dict[Place, Stage]:
    """The stages that can be named now, by where they stand."""
    return {stage.place: stage for stage in lineage(world, peek)}
