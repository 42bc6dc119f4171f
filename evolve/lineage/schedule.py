"""When what is measured: the lineage lengths, and the controls at each of them."""

from __future__ import annotations

from evolve.core.settings import Settings
from evolve.lineage.world import World


def measured(settings: Settings) -> tuple[int, ...]:
    """The lineage lengths that are condensed and measured, in order: 0 (an untrained ancestor)
    where it is a control, those of ``stream.measure`` that the stream reaches, and the last one.
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
    """Whether a control of :data:`SPARSE` runs at this measured length: at every n-th one, counted
    from the first trained ancestor's, and the last.

    At lineage length 0 none does, unless that is all there is: one pretrained ancestor, which has
    no tasks that a joint one could learn.
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
