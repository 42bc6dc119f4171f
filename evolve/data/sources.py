"""Image sources behind one door: ``load_images`` gives an :class:`ImageSet` from a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from evolve.core.durable import expanded
from evolve.core.errors import DataError, UserError
from evolve.core.randomness import generator
from evolve.core.settings import DataSettings
from evolve.data.cache import Decoded, Report, Roles, cached
from evolve.data.methods import SOURCES
from evolve.data.plugin_check import prepared_by

DEFAULT_DATA_DIR = Path("~/.cache/evolve/data")
CAPPED = tuple(name for name, source in SOURCES.items() if source.capped)
SAME = "same"  # data.descend_source: the ancestor's


@dataclass(frozen=True)
class ImageSet:
    """All images of a lineage.

    ``images`` may be a memmap, and lies in channels_last order when it comes from ``load_images``.
    A second source's images (data.descend_source) are in ``more``, numbered after those of
    ``images``; its classes stand after the first one's in ``class_names``, from id ``second`` on.
    Labels, is_test and fingerprint are of both.
    """

    name: str
    images: np.ndarray  # uint8 [N, 3, size, size]
    labels: np.ndarray  # int64 [N], 0..C-1
    is_test: np.ndarray  # bool [N]
    class_names: tuple[str, ...]
    fingerprint: str  # hex; names exactly the images, labels and is_test that stages read
    mean: tuple[float, float, float]  # of the channels, in [0, 1] units; a constant of the source
    std: tuple[float, float, float]
    roles: Roles | None = None  # class ids by role, if the source brings its own split
    more: tuple[np.ndarray, ...] = ()  # uint8 [M, 3, size, size]
    second: int = 0  # the second source's first class id; 0: there is one source

    def own_id(self, class_id: int) -> int:
        """A class's id in its own source: what a user writes in data.condense_classes."""
        return class_id - self.second if class_id >= self.second else class_id

    def source_of(self, class_id: int) -> str:
        """The name of the class's own source."""
        return self.name.split("+")[self.second > 0 and class_id >= self.second]


def load_images(
    data: DataSettings, data_dir: Path | None, cache_dir: Path, report: Report = lambda text: None
) -> ImageSet:
    """Load the images of data.source and, behind them, those of data.descend_source.

    Both are normalised by the ancestor's source: inherited layers see what they learned on.

    Args:
        data: the scenario's [data]: the size in pixels, and how many training images a class are
            moved to the test images.
        data_dir: where the sources' own files are, in a folder with the source's name or directly;
            None: ``~/.cache/evolve/data``.
        cache_dir: where decoded images are kept.
        report: gets a line when something slow begins.

    Raises:
        DataError: the images cannot be had or kept.
        UserError: data.holdout leaves a class without training images, or data.images_per_class is
            set for a source that does not read it.
    """
    if data.images_per_class and not {data.source, data.descend_source} & set(CAPPED):
        instead = (
            "stream.images_per_class, condense.images_per_class and descend.shots limit "
            "what is used of any source"
        )
        raise UserError(
            f"data.images_per_class = {data.images_per_class}: only for "
            f"{', '.join(CAPPED[:-1])} and {CAPPED[-1]}, not {data.source}; {instead}"
        )
    first = _load(data.source, data, data_dir, cache_dir, report)
    if data.descend_source in (SAME, data.source):
        return first
    return join(first, _load(data.descend_source, data, data_dir, cache_dir, report))


def source_dir(source: str, data_dir: Path | None) -> Path:
    """Where a source's own files are: in a folder with its name below ``data_dir``, or there."""
    if source == "glyphs":  # has none
        return Path()
    place = expanded(data_dir or DEFAULT_DATA_DIR)
    return place / source if (place / source).is_dir() else place


def _load(
    source: str, data: DataSettings, data_dir: Path | None, cache_dir: Path, report: Report
) -> ImageSet:
    """The images of ``source`` alone."""
    place = source_dir(source, data_dir)
    try:
        prepared = prepared_by(source, data, place)
    except OSError as error:
        raise DataError(
            f"{source}: its files cannot be read ({error}); mend that, or give another folder with "
            "--data"
        ) from None
    decoded = cached(expanded(Path(cache_dir)), f"{source}-{data.size}", prepared, report)
    is_test = hold_out(decoded, data.holdout, data.split_seed)
    return ImageSet(
        name=source,
        images=decoded.pixels.transpose(0, 3, 1, 2),
        labels=decoded.labels,
        is_test=is_test,
        class_names=decoded.class_names,
        fingerprint=fingerprint(decoded, is_test, (prepared.mean, prepared.std)),
        mean=prepared.mean,
        std=prepared.std,
        roles=decoded.roles or prepared.roles,
    )


def join(first: ImageSet, second: ImageSet) -> ImageSet:
    """One set of the ancestor's and the descendants' images.

    The second's class ids come after the first's.

    Args:
        first: the ancestor's source, whose mean and std count.
        second: the descendants' source.
    """
    classes = len(first.class_names)
    roles = {
        role: [class_id + classes for class_id in ids] for role, ids in (second.roles or {}).items()
    }
    if first.roles and "ancestor" in first.roles:
        roles["ancestor"] = list(first.roles["ancestor"])
    else:
        roles.pop("ancestor", None)
    return replace(
        first,
        name=f"{first.name}+{second.name}",
        labels=np.concatenate([first.labels, second.labels + classes]),
        is_test=np.concatenate([first.is_test, second.is_test]),
        class_names=first.class_names + second.class_names,
        fingerprint=_short([first.fingerprint, second.fingerprint, first.mean, first.std]),
        roles=roles or None,
        more=(second.images,),
        second=classes,
    )


def hold_out(decoded: Decoded, holdout: int, split_seed: int) -> np.ndarray:
    """Move training images of every class to the test images, drawn by (split_seed, class).

    Args:
        decoded: the images.
        holdout: how many of every class.
        split_seed: data.split_seed.

    Returns:
        ``is_test``, bool [N].

    Raises:
        UserError: a class is left without training images.
    """
    is_test = decoded.is_test.copy()
    if holdout == 0:
        return is_test
    for class_id, name in enumerate(decoded.class_names):
        train = np.flatnonzero((decoded.labels == class_id) & ~decoded.is_test)
        if holdout >= len(train):
            has = f"which has {len(train)}; at most {max(0, len(train) - 1)}"
            raise UserError(
                f"data.holdout = {holdout} leaves no training image of class {class_id} ({name}), "
                f"{has}"
            )
        order = torch.randperm(
            len(train), generator=generator(split_seed, "holdout", class_id)
        ).numpy()
        is_test[train[order[:holdout]]] = True
    return is_test


def fingerprint(
    decoded: Decoded, is_test: np.ndarray, normalised: Sequence[Sequence[float]]
) -> str:
    """The name of images by their content: equal content has an equal name, wherever it came from.

    Args:
        decoded: pixels and labels.
        is_test: bool [N].
        normalised: mean and std.

    Returns:
        40 hex digits of a sha256.
    """
    parts = [
        list(decoded.pixels.shape),
        decoded.digest,
        _sha(decoded.labels.astype("<i8")),
        _sha(is_test.astype("u1")),
    ]
    return _short([*parts, *normalised])


def _short(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
