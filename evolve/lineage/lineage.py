"""THE page to read first: a lineage, in the paper's words, as a chain of stages (paper 5.3, Figure 6).

    accumulate(0) -> accumulate(1) -> ... -> accumulate(25)     the ancestor learns task after task
                          |                       |
                      condense(1)    ...      condense(25)      ancestor -> learngene
                          |                       |
                      descend(1)     ...      descend(25)       five descendants inherit it and learn their own tasks

A stage's key is the hash of all that determines its numbers, its inputs' keys among them; its result lies in the store under
that key. So "what is left to do" is always the same question: which of these stages is not in the store yet?
"""

from __future__ import annotations

from collections.abc import Iterator

from evolve.core.settings import Settings
from evolve.core.words import PAPERS, WHOLE
from evolve.engine.store import Stage
from evolve.lineage.recipes import accumulate, condense, descend, distilled, fewshot, from_scratch, heir, rivals
from evolve.lineage.world import Peek, World, ancestor_plan, paper_descendant
from evolve.networks.architecture import Architecture


def lineage(world: World, peek: Peek) -> Iterator[Stage]:
    """Every stage of the lineage that can be named now, generation by generation.

    A from-scratch control has the architecture that its generation's condenser chose, so it can be named only once ``peek``
    finds that choice; ask again after each result.
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
        yield from draws(world, heir(world, chosen), str(length))
    if due(world, "shuffled", length):
        yield descend(world, "shuffled", length, learngene)
    if due(world, "full-ancestor", length):
        yield descend(world, "full-ancestor", length, ancestor)
    if due(world, "distilled", length):
        yield distilled(world, length, learngene, ancestor)
    if due(world, "joint", length):
        joint = accumulate(world, length, ancestor, strategy="joint")
        joint_gene = condense(world, length, joint, of="joint ")
        others = rivals(world, length, joint, of="joint ").values()
        yield from (joint, *others, joint_gene, descend(world, "joint", length, joint_gene))


def measured(settings: Settings) -> tuple[int, ...]:
    """The lineage lengths that are condensed and measured, in order: 0 (an untrained ancestor) where it is a control, those of
    ``stream.measure`` that the stream reaches, and the last one.
    """
    tasks, measure = settings.stream.tasks, settings.stream.measure
    if isinstance(measure, tuple):
        lengths = {length for length in measure if length <= tasks}
    else:
        lengths = set(range(1, tasks + 1) if measure == "all" else range(int(measure), tasks + 1, int(measure)))
    return tuple(sorted(lengths | {tasks} | ({0} if settings.controls.untrained else set())))


def due(world: World, control: str, length: int) -> bool:
    """Whether a control of :data:`SPARSE` runs at this measured length: at every n-th one, counted from the first trained ancestor's, and the last.

    At lineage length 0 none does, unless that is all there is: one pretrained ancestor, which has no tasks that a joint one could learn.
    """
    every: int = getattr(world.settings.controls, control.replace("-", "_"))
    if world.settings.stream.tasks == 0:
        return every > 0 and control != "joint"
    trained = [m for m in measured(world.settings) if m > 0]
    return every > 0 and length in trained and ((trained.index(length) + 1) % every == 0 or length == trained[-1])














def draws(world: World, plan: Architecture, of: str) -> Iterator[Stage]:
    """All ``controls.draws`` of a from-scratch control."""
    return (from_scratch(world, plan, of, draw) for draw in range(world.settings.controls.draws))




































