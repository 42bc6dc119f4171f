"""Photographs on disk -> uint8 squares in any number: the shorter side resized to ``size``, then
the centre (torchvision's way).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from evolve.core.errors import DataError
from evolve.core.randomness import generator
from evolve.core.spent import duration
from evolve.data.cache import Report

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)  # torchvision's IMG_EXTENSIONS
BLOCK = 256  # photos a block
PROBES = 100  # files of a folder whose size and time are looked at, about
PATIENCE = 5.0  # seconds between two lines of progress, at least

Photo = TypeVar("Photo")  # whatever a source calls one by


def decode(path: Path, size: int) -> np.ndarray:
    """A photo as uint8 [size, size, 3]: the pixels of torchvision's ImageFolder, Resize(size)
    (bilinear, antialiased) and CenterCrop(size).

    As there, grey and CMYK become RGB, and a rotation noted in EXIF is not applied. DataError,
    naming the file, if it cannot be read.
    """
    try:
        return square(_read(path), size)
    except Exception as error:  # Pillow raises many types for broken files
        raise DataError(
            f"{path} is not a readable image ({error}); replace it or get it again"
        ) from None


def _read(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def square(photo: Any, size: int) -> np.ndarray:
    """A Pillow RGB image as uint8 [size, size, 3]."""
    from torchvision.transforms import functional

    return np.asarray(
        functional.center_crop(functional.resize(photo, [size], antialias=True), [size, size])
    )


def blocks(
    items: Sequence[Any],
    convert: Callable[[Any], np.ndarray],
    done: int,
    total: int,
    report: Report,
) -> Iterator[np.ndarray]:
    """``convert`` of every item, stacked, :data:`BLOCK` at a time; ``done`` of ``total`` images
    came before.

    As many threads as torch uses, usually one a core (Pillow gives up the interpreter's lock while
    it decodes), work two blocks ahead of the reader. ``report`` gets a line at most every five
    seconds and every per cent. Raises what ``convert`` raises for the first item that it cannot
    convert.
    """
    progress = Progress(done, total, report)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        starts = iter(range(0, len(items), BLOCK))
        ahead = deque(_submit(pool, convert, items, start) for start in islice(starts, 2))
        while ahead:
            block = np.stack([future.result() for future in ahead.popleft()])
            ahead.extend(_submit(pool, convert, items, start) for start in islice(starts, 1))
            progress.add(len(block))
            yield block


def _submit(
    pool: ThreadPoolExecutor, convert: Callable[[Any], np.ndarray], items: Sequence[Any], start: int
) -> list[Any]:
    return [pool.submit(convert, item) for item in items[start : start + BLOCK]]


class Progress:
    """Says how many images are decoded and how long the rest takes."""

    def __init__(self, done: int, total: int, report: Report) -> None:
        self.begun, self.first, self.done, self.total, self.report = (
            time.monotonic(),
            done,
            done,
            total,
            report,
        )
        self.said = (self.begun, done)

    def add(self, count: int) -> None:
        """``count`` more are decoded."""
        self.done += count
        now, (time_said, done_said) = time.monotonic(), self.said
        if (
            now - time_said < PATIENCE
            or 100 * (self.done - done_said) < self.total
            or self.done == self.total
        ):
            return
        self.said = now, self.done
        left = (now - self.begun) / (self.done - self.first) * (self.total - self.done)
        self.report(
            f"decoded {self.done} of {self.total} images ({100 * self.done // self.total} %), "
            f"about {duration(left)} left"
        )


def photos_below(folder: Path) -> list[str]:
    """Names, relative to ``folder``, of all photos in it and below, in torchvision's ImageFolder's
    order.
    """
    found = []
    for place, _, files in sorted(os.walk(folder, followlinks=True)):
        below = os.path.relpath(place, folder)
        names = sorted(name for name in files if name.lower().endswith(EXTENSIONS))
        found += names if below == "." else [f"{below}/{name}" for name in names]
    return found


def capped(names: Sequence[Photo], limit: int, split_seed: int, class_name: str) -> list[Photo]:
    """``limit`` of a class's photos in their order, drawn by (split_seed, class name); 0: all.

    A larger limit only adds photos.
    """
    if not 0 < limit < len(names):
        return list(names)
    order = torch.randperm(
        len(names), generator=generator(split_seed, "images-per-class", class_name)
    )[:limit]
    return [names[place] for place in sorted(order.tolist())]


def cap_identity(limit: int, split_seed: int) -> dict[str, int]:
    """What :func:`capped` adds to a cache entry's identity."""
    return {"images_per_class": limit, "split_seed": split_seed} if limit else {}


def identify(folders: Iterable[tuple[Path, Sequence[str]]]) -> str:
    """A hash over all (folder, photos' names), and over size and time of every photo, or of about a
    hundred of a folder with 200 or more.

    To look at 1.3 million files at every start would take minutes on a network disk. So in a large
    folder an added, removed or renamed photo is always noticed, one replaced under its own name
    mostly not.
    """
    digest = hashlib.sha256()
    for folder, names in folders:
        digest.update(f"{folder.name}\t{len(names)}\n".encode("utf-8", "surrogateescape"))
        digest.update("\n".join(names).encode("utf-8", "surrogateescape"))
        for name in names[:: max(1, len(names) // PROBES)]:
            info = os.stat(folder / name)
            digest.update(f"\n{info.st_size}\t{info.st_mtime_ns}".encode())
    return digest.hexdigest()
