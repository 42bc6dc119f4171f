"""Photographs on disk -> uint8 squares, in any number.

The shorter side is resized to ``size``, then the centre is cut out: torchvision's way.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from evolve.core.errors import DataError
from evolve.core.randomness import generator
from evolve.core.spent import duration
from evolve.data.cache import Report
from evolve.data.members import Files, listed
from evolve.data.pictures import as_rgb, open_picture

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# torchvision's IMG_EXTENSIONS
EXTENSIONS = tuple(".jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp".split())
BLOCK = 256  # photos a block
LOOKED_AT = 50_000  # photos after the first bad one, to count those that are bad too
PROBES = 100  # about so many files of a folder have their size and time looked at
PATIENCE = 5.0  # seconds between two lines of progress, at least

Photo = TypeVar("Photo")  # whatever a source names a photo by


def decode(path: Path, size: int) -> np.ndarray:
    """Decode a photo: the pixels of torchvision's ImageFolder, Resize(size) and CenterCrop(size).

    As there, grey and CMYK become RGB, and a rotation noted in EXIF is not applied. 16-bit grey is
    scaled (:func:`evolve.data.pictures.as_rgb`), which torchvision cuts at 255.

    Args:
        path: the file.
        size: pixels a side.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DataError: it cannot be read; the line names the file.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no regular file")
        return _squared(path, size)
    except Exception as error:  # Pillow raises many types for broken files
        raise _unreadable(path, error) from None


def decode_bytes(raw: bytes, size: int, name: str) -> np.ndarray:
    """:func:`decode` of a photo's content.

    Args:
        raw: the whole file.
        size: pixels a side.
        name: what an error calls it.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DataError: it cannot be read; the line names it.
    """
    try:
        return _squared(BytesIO(raw), size)
    except Exception as error:  # as above
        raise _unreadable(name, error) from None


def _squared(file: Path | BytesIO, size: int) -> np.ndarray:
    with open_picture(file) as image:
        return square(as_rgb(image), size)


def _unreadable(name: object, error: Exception) -> DataError:
    return DataError(f"{name} is not a readable image ({error}); replace it or get it again")


def square(photo: Any, size: int) -> np.ndarray:
    """Resize (bilinear, antialiased) and crop an image.

    Args:
        photo: a Pillow RGB image.
        size: pixels a side.

    Returns:
        uint8 [size, size, 3].
    """
    from torchvision.transforms import functional

    return np.asarray(
        functional.center_crop(functional.resize(photo, [size], antialias=True), [size, size])
    )


def read_blocks(
    files: Files,
    names: Sequence[str],
    start: int,
    decode: Callable[[bytes, str], np.ndarray],
    report: Report,
) -> Iterator[np.ndarray]:
    """Decode a set's files from number ``start`` on, in blocks uint8 [b, size, size, 3].

    Args:
        files: the set.
        names: of all files, in order.
        start: the first one's number.
        decode: (a file's content, what an error calls it) -> uint8 [size, size, 3].
        report: gets lines about the progress.

    Raises:
        DataError: see :func:`blocks`.
    """
    reader = files.open()

    def convert(name: str) -> np.ndarray:
        return decode(reader.read(name), f"{files.where}: {name}")

    try:
        yield from blocks(names[start:], convert, start, len(names), report)
    finally:
        reader.close()


def blocks(
    items: Sequence[Any],
    convert: Callable[[Any], np.ndarray],
    done: int,
    total: int,
    report: Report,
) -> Iterator[np.ndarray]:
    """Convert items to images, stacked, :data:`BLOCK` at a time.

    As many threads as torch uses, usually one a core (Pillow gives up the interpreter's lock while
    it decodes), work two blocks ahead of the reader. After the first item that cannot be converted
    nothing more is given, so nothing wrong gets into the cache. :data:`LOOKED_AT` more are looked
    at all the same, so that the line says how many are bad.

    Args:
        items: the images that are left.
        convert: an item -> uint8 [size, size, 3].
        done: how many images came before.
        total: how many there are in all.
        report: gets a line at most every five seconds and every per cent.

    Returns:
        Blocks uint8 [b, size, size, 3].

    Raises:
        DataError: the first that ``convert`` raised, with their number.
    """
    progress = Progress(done, total, report)
    bad: list[DataError] = []
    since = 0
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        starts = iter(range(0, len(items), BLOCK))
        ahead = deque(_submit(pool, convert, items, start) for start in islice(starts, 2))
        while ahead and since < LOOKED_AT:
            results = [_result(future) for future in ahead.popleft()]
            ahead.extend(_submit(pool, convert, items, start) for start in islice(starts, 1))
            progress.add(len(results))
            bad += [result for result in results if isinstance(result, DataError)]
            if bad:
                since += len(results)
            else:
                yield np.stack([pixels for pixels in results if isinstance(pixels, np.ndarray)])
    if bad:
        seen = "" if since < LOOKED_AT else f", {since} after it looked at"
        more = f" (the first of {len(bad)} files that cannot be taken{seen})"
        raise DataError(f"{bad[0]}{more if len(bad) > 1 else ''}")


def _result(future: Future[np.ndarray]) -> np.ndarray | DataError:
    try:
        return future.result()
    except DataError as error:
        return error


def _submit(
    pool: ThreadPoolExecutor, convert: Callable[[Any], np.ndarray], items: Sequence[Any], start: int
) -> list[Any]:
    return [pool.submit(convert, item) for item in items[start : start + BLOCK]]


class Progress:
    """Says how many images are decoded and how long the rest takes."""

    def __init__(self, done: int, total: int, report: Report) -> None:
        self.begun, self.first = time.monotonic(), done
        self.done, self.total, self.report = done, total, report
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


def photos_below(root: Path, tops: Sequence[str] = ("",)) -> list[str]:
    """Names of all photos below folders of ``root``, relative to it, in ImageFolder's order.

    Args:
        root: the folder.
        tops: see :func:`evolve.data.members.listed`.
    """
    photos = [name for name in listed(root, tops) if name.lower().endswith(EXTENSIONS)]
    return sorted(photos, key=lambda name: (name.rpartition("/")[0], name))


def capped(names: Sequence[Photo], limit: int, split_seed: int, class_name: str) -> list[Photo]:
    """Some of a class's photos in their order, drawn by (split_seed, class name).

    A larger limit only adds photos.

    Args:
        names: all of the class.
        limit: how many; 0: all.
        split_seed: data.split_seed.
        class_name: the class.
    """
    if not 0 < limit < len(names):
        return list(names)
    order = torch.randperm(
        len(names), generator=generator(split_seed, "images-per-class", class_name)
    )[:limit]
    return [names[place] for place in sorted(order.tolist())]


def cap_identity(limit: int, split_seed: int) -> dict[str, int]:
    """What :func:`capped` adds to a cache entry's identity.

    Args:
        limit: photos of a class; 0: all, which adds nothing.
        split_seed: draws them.
    """
    return {"images_per_class": limit, "split_seed": split_seed} if limit else {}


def identify(folders: Iterable[tuple[Path, Sequence[str]]]) -> str:
    """A hash that changes when photos are added, removed, renamed or, mostly, replaced.

    It is over all (folder, photos' names), and over size and time of every photo, or of about a
    hundred of a folder with 200 or more. To look at 1.3 million files at every start would take
    minutes on a network disk. So in a large folder a photo that is replaced under its own name is
    mostly not noticed.

    Args:
        folders: each with the names of its photos.
    """
    digest = hashlib.sha256()
    for folder, names in folders:
        digest.update(f"{folder.name}\t{len(names)}\n".encode("utf-8", "surrogateescape"))
        digest.update("\n".join(names).encode("utf-8", "surrogateescape"))
        for name in names[:: max(1, len(names) // PROBES)]:
            info = os.stat(folder / name)
            digest.update(f"\n{info.st_size}\t{info.st_mtime_ns}".encode())
    return digest.hexdigest()
