"""Checks that images, tasks and settings fit, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolve.core.errors import UserError
from evolve.core.settings import DataSettings, descend_source
from evolve.data.methods import PLUGGED, SOURCES
from evolve.lineage.world import World


@contextmanager
def images_named(data: DataSettings, data_dir: Path | None) -> Iterator[None]:
    """Let errors inside it end in the place of the images, where what lies there decides.

    Args:
        data: the scenario's [data].
        data_dir: as the user gave it.

    Raises:
        UserError: what was raised inside, with the place.
    """
    try:
        yield
    except UserError as error:
        from evolve.data.sources import source_dir

        places = {
            str(source_dir(source, data_dir))
            for source in (data.source, descend_source(data))
            if SOURCES.get(source, PLUGGED).counts
        }
        named = f" (images: {' and '.join(sorted(places))})" if places else ""
        raise UserError(f"{error}{named}") from None


def check_rooms(world: World, resident: Any, origin: str) -> None:
    """Let every room check its settings against the images before anything is computed.

    Args:
        world: settings, classes and seed of the run.
        resident: the images, a Resident.
        origin: where the settings come from; error messages begin with it.

    Raises:
        UserError: a setting that the images or the strategy do not allow.
    """
    from evolve.ancestor.accumulate import check_strategy
    from evolve.condensers.batches import draw_images
    from evolve.data.streams import stream_tasks
    from evolve.descendants.descendants import downstream_tasks

    s = world.settings
    try:
        check_strategy(s.ancestor)
        stream_tasks(s.stream, world.ancestor_classes, resident, world.seed, 1)
        images = [resident.indices(i, test=False) for i in world.condense_classes]
        draw_images(
            images,
            [resident.own_id(i) for i in world.condense_classes],
            s.condense.images_per_class,
            world.seed,
        )
        downstream_tasks(s.descend, world.descend_classes, resident, world.seed)
        if s.condense.method == "trial":
            downstream_tasks(s.descend, world.condense_classes, resident, world.seed, "condensing")
        _check_episodes(world, resident)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


def _check_episodes(world: World, resident: Any) -> None:
    """Whether the ancestor's classes give the episodes that a few-shot learner asks for."""
    from evolve.descendants.fewshot.episodes import Episodes
    from evolve.descendants.fewshot.methods import LEARNERS

    s = world.settings
    if any("episodes" in LEARNERS[name].reads for name in s.fewshot.learners):
        Episodes(
            resident,
            world.ancestor_classes,
            s.descend.classes_per_task,
            s.fewshot,
            world.seed,
            s.stream.images_per_class,
        ).check()
