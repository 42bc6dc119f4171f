"""Image sources behind one door: ``load_images`` gives an :class:`ImageSet`, decoded once and then shared from a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from evolve.data.cache import Decoded, Prepared, Report, cached
from evolve.errors import UserError
from evolve.randomness import generator
from evolve.settings import DataSettings

DEFAULT_DATA_DIR = Path("~/.cache/evolve/data")

# A source is a module with prepare(data, data_dir) -> Prepared. It is imported when asked for: some bring heavy libraries.
SOURCES = {
    "glyphs": "evolve.data.glyphs",
    "cifar100": "evolve.data.cifar100",
    "tinyimagenet": "evolve.data.tinyimagenet",
}


@dataclass(frozen=True)
class ImageSet:
    """All images of a source. ``images`` may be a memmap, and lies in channels_last order when it comes from ``load_images``."""

    name: str
    images: np.ndarray  # uint8 [N, 3, size, size]
    labels: np.ndarray  # int64 [N], 0..C-1
    is_test: np.ndarray  # bool [N]
    class_names: tuple[str, ...]
    fingerprint: str  # hex; names exactly the images, labels and is_test that stages read
    mean: tuple[float, float, float]  # of the channels, in [0, 1] units; a constant of the source
    std: tuple[float, float, float]


def load_images(data: DataSettings, data_dir: Path | None, cache_dir: Path, report: Report = lambda text: None) -> ImageSet:
    """The images of ``data.source`` at ``data.size``, with ``data.holdout`` training images a class moved to the test images.

    ``data_dir``: where the source's own files are (default ``~/.cache/evolve/data``). ``report`` gets a line when something slow begins.
    DataError: the images cannot be had or kept. UserError: ``data.holdout`` leaves a class without training images.
    """
    prepare: Callable[[DataSettings, Path], Prepared] = import_module(SOURCES[data.source]).prepare
    prepared = prepare(data, (data_dir or DEFAULT_DATA_DIR).expanduser())
    decoded = cached(Path(cache_dir).expanduser(), f"{data.source}-{data.size}", prepared, report)
    is_test = hold_out(decoded, data.holdout, data.split_seed)
    return ImageSet(
        name=data.source,
        images=decoded.pixels.transpose(0, 3, 1, 2),
        labels=decoded.labels,
        is_test=is_test,
        class_names=decoded.class_names,
        fingerprint=fingerprint(decoded, is_test),
        mean=prepared.mean,
        std=prepared.std,
    )


def hold_out(decoded: Decoded, holdout: int, split_seed: int) -> np.ndarray:
    """``is_test`` [N] with ``holdout`` more training images of every class in it, drawn by (split_seed, class)."""
    is_test = decoded.is_test.copy()
    if holdout == 0:
        return is_test
    for class_id, name in enumerate(decoded.class_names):
        train = np.flatnonzero((decoded.labels == class_id) & ~decoded.is_test)
        if holdout >= len(train):
            has = f"which has {len(train)}; at most {max(0, len(train) - 1)}"
            raise UserError(f"data.holdout = {holdout} leaves no training image of class {class_id} ({name}), {has}")
        order = torch.randperm(len(train), generator=generator(split_seed, "holdout", class_id)).numpy()
        is_test[train[order[:holdout]]] = True
    return is_test


def fingerprint(decoded: Decoded, is_test: np.ndarray) -> str:
    """40 hex digits of a sha256 over shape, pixels, labels and ``is_test``: equal content has an equal name, wherever it came from."""
    parts = [list(decoded.pixels.shape), decoded.digest, _sha(decoded.labels.astype("<i8")), _sha(is_test.astype("u1"))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _sha(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
