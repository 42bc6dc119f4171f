"""How many classes and images a run's roles have: what its cost and its timed steps follow from.

Counts are those of the images where they are read, else of what lies there, else published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evolve.core.errors import DataError
from evolve.core.registry import loaded
from evolve.core.settings import DataSettings, Settings, descend_source
from evolve.data.methods import PLUGGED, SOURCES
from evolve.data.shares import ROLES, SHARES, shared_out
from evolve.lineage.scenario import class_needs
from evolve.runs.checks import images_named

if TYPE_CHECKING:
    from evolve.data.sources import ImageSet


@dataclass(frozen=True)
class Count:
    """Classes of a role, and on average a class's training and test images."""

    classes: int
    train: int
    test: int


Counts = Mapping[str, Count]  # by role


def published(settings: Settings) -> Counts:
    """Of what the sources are known to hold.

    Args:
        settings: the run's.
    """
    data = settings.data
    first, second = (
        _after(data, source, _published(data, source))
        for source in (data.source, descend_source(data))
    )
    return _by_role(settings, {}, first, second)


def lying(settings: Settings, data_dir: Path | None) -> Counts:
    """Of what lies there, where a source holds whatever lies there; nothing is decoded.

    Args:
        settings: the run's.
        data_dir: as of :func:`evolve.data.sources.load_images`.

    Raises:
        DataError: no counts are published, and there are no images.
        UserError: there are too few classes.
    """
    data, classes = settings.data, dict[str, int]()
    sides = []
    for source in (data.source, descend_source(data)):
        held = _lying(data, source, data_dir)
        if held:
            classes[source] = held[0]
        sides.append(_after(data, source, held[1:] if held else _published(data, source)))
    with images_named(data, data_dir):
        return _by_role(settings, classes, *sides)


def of_images(images: ImageSet, roles: Mapping[str, Sequence[int]]) -> Counts:
    """Of images that are read.

    Args:
        images: with the hold-out and the cap of the scenario.
        roles: class ids by role.
    """
    import numpy as np

    classes = len(images.class_names)
    test = np.bincount(images.labels[images.is_test], minlength=classes)
    train = np.bincount(images.labels[~images.is_test], minlength=classes)
    return {
        role: Count(len(ids), round(train[list(ids)].mean()), round(test[list(ids)].mean()))
        for role, ids in roles.items()
    }


def _published(data: DataSettings, source: str) -> tuple[int, int]:
    return SOURCES.get(source, PLUGGED).held or (data.glyph_train, data.glyph_test)


def _lying(data: DataSettings, source: str, data_dir: Path | None) -> tuple[int, int, int] | None:
    record = SOURCES.get(source, PLUGGED)
    if not record.counts:
        return None
    from evolve.data.sources import source_dir

    try:
        counted: tuple[int, int, int] = loaded(record.counts)(data, source_dir(source, data_dir))
        return counted
    except OSError:  # whoever opens the images says so
        return None
    except DataError:
        if record.own:
            raise
        return None


def _after(data: DataSettings, source: str, held: Sequence[int]) -> tuple[int, int]:
    """Training and test images a class after the cap and the hold-out."""
    train, test = held
    if SOURCES.get(source, PLUGGED).capped:
        train = min(train, data.images_per_class or train)
    return max(1, train - data.holdout), test + data.holdout


def _by_role(
    settings: Settings,
    classes: Mapping[str, int],
    first: tuple[int, int],
    second: tuple[int, int],
) -> Counts:
    """The classes are those listed, else of data.split, else shared out; of an unknown number, as
    of 100 classes.
    """
    data = settings.data
    split = dict(zip(ROLES, data.split, strict=False)) or _shared(settings, classes)
    listed = {role: len(getattr(data, f"{role}_classes")) for role in ROLES}
    return {
        role: Count(listed[role] or split[role], *(first if role == "ancestor" else second))
        for role in ROLES
    }


def _shared(settings: Settings, classes: Mapping[str, int]) -> Mapping[str, int]:
    data, needs, split = settings.data, class_needs(settings), dict(SHARES)
    same = descend_source(data) == data.source
    for source, roles in (
        (data.source, ROLES if same else ROLES[:1]),
        *(() if same else ((descend_source(data), ROLES[1:]),)),
    ):
        if source in classes:
            split |= shared_out(classes[source], roles, needs, source)
    return split
