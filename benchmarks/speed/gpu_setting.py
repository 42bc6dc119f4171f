"""What the parts of :mod:`gpu` share: images, settings, precisions, a clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from evolve.core.settings import Settings
from evolve.data.resident import Resident
from evolve.data.sources import ImageSet
from evolve.engine.devices import repeatable
from evolve.lineage import scenario

from .work import barrier

Row = tuple[str, float | str, str]  # what, value, unit


def device_of(rehearse: bool) -> torch.device:
    """The GPU as the engine sets it, one thread beside it; the CPU in a rehearsal."""
    torch.set_num_threads(1)
    return repeatable(torch.device("cpu" if rehearse else "cuda"))


def images(train: int, test: int, device: torch.device) -> Resident:
    """100 classes of noise around a colour of their own, on a device.

    Training on them is sane, and speed does not depend on what images show.

    Args:
        train: training images of a class.
        test: test images of a class.
        device: where they lie.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100, dtype=np.int64), train + test)
    pixels = rng.integers(0, 96, (len(labels), 32, 32, 3), dtype=np.uint8)
    pixels += rng.integers(0, 160, (100, 1, 1, 3), dtype=np.uint8)[labels]
    is_test = np.tile(np.arange(train + test) >= train, 100)
    names = tuple(map(str, range(100)))
    middle, spread = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return Resident(
        ImageSet(
            "noise", pixels.transpose(0, 3, 1, 2), labels, is_test, names, "noise", middle, spread
        ),
        device,
    )


def settings(profile: str, rehearse: bool) -> Settings:
    """The settings of cifar-seq25 in a profile; in a rehearsal they are narrow and short."""
    s = scenario.load("cifar-seq25", profile).settings
    if not rehearse:
        return s
    narrow = replace(s.ancestor, width=1 / 16, epochs=1, batch=8)
    small = replace(s.condense, images_per_class=12, batch=16, meta_batch=8, epochs=1)
    few = replace(s.descend, shots=8, epochs=2, descendants=2, test_per_class=2)
    return replace(
        s,
        ancestor=narrow,
        condense=small,
        descend=few,
        stream=replace(s.stream, images_per_class=8),
    )


@contextmanager
def as_torch_comes(device: torch.device) -> Iterator[None]:
    """Inside, torch is as for a user who sets nothing; for the baselines.

    Convolutions are TF32, by whichever algorithm.
    """
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        repeatable(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    sync = barrier(device)
    sync()
    begun = time.perf_counter()
    work()
    sync()
    return time.perf_counter() - begun


def median(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The median of :func:`timed`, after one run that warms up."""
    work()
    return sorted(timed(work, device) for _ in range(repeats))[repeats // 2]
