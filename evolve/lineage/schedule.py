"""When what is measured: the lineage lengths, and the controls at each of them."""

from __future__ import annotations

from evolve.core.settings import Settings
from evolve.lineage.world import World


def measured(settings: Settings) -> tuple[int, ...]:
    """The lineage lengths that are condensed and measured, in order.

    They are those of ``stream.measure`` that the stream reaches, the last one, and 0 (an untrained
    ancestor) where that is a control.
    """
    tasks, measure = settings.stream.tasks, settings.stream.measure
    if isinstance(measure, tuple):
        lengths = {length for length in measure if length <= tasks}
    else:
        lengths = set(
            range(1, tasks + 1)
            if measure == "all"
            else range(int(measure), tasks + 1, int(measure))
        )
    return tuple(sorted(lengths | {tasks} | ({0} if settings.controls.untrained else set())))


def due(world: World, control: str, length: int) -> bool:
    """Whether a control runs at a measured lineage length: at every n-th one and the last.

    The first trained ancestor's is number 1. No control runs at length 0, unless that is all there
    is: one pretrained ancestor, which has no tasks that a joint one could learn.

    Args:
        world: the lineage.
        control: one of :data:`SPARSE`.
        length: a lineage length.
    """
    every: int = getattr(world.settings.controls, control.replace("-", "_"))
    if world.settings.stream.tasks == 0:
        return every > 0 and control != "joint"
    trained = [m for m in measured(world.settings) if m > 0]
    return (
        every > 0
        and length in trained
        and ((trained.index(length) + 1) % every == 0 or length == trained[-1])
    )
