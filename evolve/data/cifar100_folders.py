"""CIFAR-100 as class folders, ``train/<class>/*`` and ``test/<class>/*``, in a folder or a zip.

Every file there is a still image of 32x32 pixels in one of :data:`evolve.data.pictures.FORMATS`.
The classes are the official ones, so that their names, sorted, have torchvision's fine labels 0 to
99. Within a class the order is by file name, which is not the official archive's: the same
photographs are another set of images here (tasks draw them by number), with another fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from evolve.core.errors import DataError
from evolve.data.cache import Report, Streamed
from evolve.data.members import Files, FolderFiles, ZipFiles, first_of
from evolve.data.photos import read_blocks
from evolve.data.pictures import open_picture

ZIP = "cifar100.zip"  # as it is called inside a folder; given itself, it may have any name
FILE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz")  # a path that ends so names a file, there or not
CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
    plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()
)
COUNTS: Mapping[str, int] = {"train": 500, "test": 100}  # images a class
SIDE = 32  # pixels
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")  # become 8-bit RGB unchanged
ORIENTATION = 0x0112  # EXIF's
EXPECTED = (
    "expected train/<class>/* and test/<class>/*, as a folder or a .zip, with the 100 official "
    "fine classes of CIFAR-100 and 500 and 100 images of each; give another with --data"
)

Held = Mapping[str, Mapping[str, list[str]]]  # names of files by "train" or "test", then by class


def find(place: Path) -> Files | None:
    """The class folders that lie at or in ``place``.

    Args:
        place: the zip, the folder with train/ and test/, or a folder with :data:`ZIP` in it.

    Returns:
        The files, not looked at yet; None where nothing points to such a layout.

    Raises:
        DataError: ``place`` is meant to be such a folder and is not; nothing is downloaded there.
    """
    names_file = not place.exists() and place.suffix.lower() in FILE_SUFFIXES
    if place.is_file() or names_file:
        return ZipFiles(place, tuple(COUNTS), EXPECTED)
    there = [top for top in COUNTS if (place / top).is_dir()]
    if len(there) == len(COUNTS):
        return FolderFiles(place, tuple(COUNTS))
    if (place / ZIP).is_file():
        return ZipFiles(place / ZIP, tuple(COUNTS), EXPECTED)
    if 2 * sum((place / name).is_dir() for name in CLASSES) > len(CLASSES):
        raise DataError(
            f"{place}: has the classes' folders in it, not below train/ and test/; {EXPECTED}"
        )
    if there:
        lacking = next(top for top in COUNTS if top not in there)
        raise DataError(f"{place}: has a folder {there[0]}/ and none called {lacking}/; {EXPECTED}")
    return None


def decode_all(files: Files, size: int, report: Report) -> Streamed:
    """All images, the training images first, each role by class and name.

    Args:
        files: what :func:`find` gave.
        size: pixels a side of what is given; the files have 32.
        report: gets lines about the progress.

    Returns:
        60,000 images, streamed.

    Raises:
        DataError: all that is missing or too much, in one line.
    """
    held = by_class(files.names(), COUNTS)
    problems = "; ".join(wrong_counts(held, COUNTS))
    if problems:
        raise DataError(f"{files.where}: {problems}; {EXPECTED}")
    names = [name for top in COUNTS for class_name in CLASSES for name in held[top][class_name]]
    report(
        f"decoding {len(names)} images of {files.where} (once; later runs read them from the cache)"
    )
    return Streamed(
        blocks=lambda start: read_blocks(
            files, names, start, lambda raw, name: resized(decode(raw, name), size), report
        ),
        size=size,
        labels=np.concatenate(
            [np.repeat(np.arange(len(CLASSES), dtype=np.int64), each) for each in COUNTS.values()]
        ),
        is_test=np.arange(len(names)) >= len(CLASSES) * COUNTS["train"],
        class_names=CLASSES,
    )


def by_class(names: Iterable[str], counts: Mapping[str, int]) -> Held:
    """Sort names "train/<class>/<file>" and "test/<class>/<file>" by role and class.

    Args:
        names: below the set's root; those of any other depth are left out.
        counts: has the roles as its keys.
    """
    held: dict[str, dict[str, list[str]]] = {top: {} for top in counts}
    for name in sorted(names):
        parts = name.split("/")
        if len(parts) == 3 and parts[0] in held:
            held[parts[0]].setdefault(parts[1], []).append(name)
    return held


def wrong_counts(held: Held, counts: Mapping[str, int]) -> Iterator[str]:
    """Say in phrases what is missing or too much.

    Args:
        held: the names that are there.
        counts: images of each official class, by role.
    """
    for top, classes in held.items():
        if not classes:
            yield f"no images in {top}/<class>/"
            continue
        missing = [name for name in CLASSES if name not in classes]
        if missing:
            yield f"{top}/ lacks {len(missing)} of {len(CLASSES)} classes ({first_of(missing)})"
        if unknown := sorted(set(classes) - set(CLASSES)):
            yield f"{top}/ has {len(unknown)} of names that CIFAR-100 has not ({first_of(unknown)})"
        uneven = [name for name in CLASSES if len(classes.get(name, ())) not in (0, counts[top])]
        if uneven:
            others = f" (the first of {len(uneven)} such classes)" if len(uneven) > 1 else ""
            number = len(classes[uneven[0]])
            yield f"{top}/{uneven[0]}/ has {number} images, not {counts[top]}{others}"


def decode(raw: bytes, name: str) -> np.ndarray:
    """An image file's pixels.

    Args:
        raw: the whole file.
        name: what an error calls it.

    Returns:
        uint8 [32, 32, 3], RGB.

    Raises:
        DataError: it is broken, not 32x32, not still, or says more than 8-bit RGB can (16-bit
            pixels, CMYK, transparency, a rotation in EXIF).
    """
    try:
        with open_picture(BytesIO(raw)) as image:
            _check(image)
            return np.asarray(_rgb(image))
    except Exception as error:  # Pillow raises many types for broken files
        reason = str(error) or type(error).__name__
    raise DataError(f"{name} is no still image of {SIDE}x{SIDE} pixels ({reason})")


def _check(image: Any) -> None:
    """Refuse an image that cannot be CIFAR's, by ValueError; no pixel is decoded."""
    if image.size != (SIDE, SIDE):
        raise ValueError(f"it is {image.width}x{image.height}")
    if (frames := getattr(image, "n_frames", 1)) != 1:
        raise ValueError(f"it has {frames} frames")
    if image.mode not in MODES:
        raise ValueError(f"its pixels are {image.mode}, not 8-bit RGB or grey")
    if "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1:
        raise ValueError("it is to be shown rotated, says its EXIF")


def _rgb(image: Any) -> Any:
    """The image as RGB; ValueError where a pixel is not opaque: its colour would be invented."""
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return image.convert("RGB")
    full = image.convert("RGBA")
    if full.getchannel("A").getextrema()[0] < 255:
        raise ValueError("it has transparent pixels")
    return full.convert("RGB")


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """An image of another size, bilinear; Pillow's averages when it shrinks.

    Args:
        pixels: uint8 [32, 32, 3].
        size: pixels a side.

    Returns:
        uint8 [size, size, 3].
    """
    if size == len(pixels):
        return pixels
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
