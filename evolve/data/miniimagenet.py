"""miniImageNet, the paper's ImageNet100: 100 classes of 600 photographs, split 64 / 16 / 20 by
class (Ravi and Larochelle, ICLR 2017).

Two distributions are read: ``train.csv``, ``val.csv``, ``test.csv`` (columns filename,label) beside
a folder ``images``, and the three files ``mini-imagenet-cache-{train,val,test}.pkl``. The classes
of train are the ancestor's (ids 0 to 63, by name), those of val the condensing ones (64 to 79),
those of test the descendants' (80 to 99). There is no official test set within a class: the last
sixth of its photographs (100 of 600), by file name or, in the .pkl files, which have no names, by
their order there, are the test images.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data.cache import Prepared, Report, Streamed
from evolve.data.photos import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    blocks,
    cap_identity,
    capped,
    decode,
    identify,
    square,
)
from evolve.data.pickles import load_arrays

PARTS = {"ancestor": "train", "condense": "val", "descend": "test"}
TEST_SHARE = 6  # one in so many photos of a class is a test image
CONVERT = (
    "get the files again, or use the distribution with train.csv, val.csv, test.csv and a "
    "folder images"
)
EXPECTED = (
    "train.csv, val.csv, test.csv beside a folder images, or "
    "mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl"
)


@dataclass(frozen=True)
class Class:
    """One class: what its photos are called (a file name, or in the pickles a row), in their order."""

    name: str
    role: str
    photos: Sequence[Any]


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """miniImageNet found in ``data_dir``.

    DataError when neither distribution is there or a file of it does not fit.
    """
    tables, pickled = (
        [data_dir / name.format(part) for part in PARTS.values()]
        for name in ("{}.csv", "mini-imagenet-cache-{}.pkl")
    )
    decode_all: Callable[[Report], Streamed]
    found: dict[str, str]
    if all(file.is_file() for file in tables):
        classes = from_tables(tables)
        listed = [
            (data_dir, [file.name for file in tables]),
            *((data_dir / "images", c.photos) for c in classes),
        ]
        found = {"photos": identify(listed)}
        decode_all = partial(decode_folder, data_dir / "images", classes, data)
    elif all(file.is_file() for file in pickled):
        found = {"pickles": identify([(data_dir, [file.name for file in pickled])])}
        decode_all = partial(decode_pickles, pickled, data)
    else:
        missing = ", ".join(file.name for file in (*tables, *pickled) if not file.is_file())
        raise DataError(
            f"{data_dir}: no miniImageNet there ({missing} missing); give the folder that holds "
            f"{EXPECTED} with --data"
        )
    identity = {"source": "miniimagenet", "size": data.size, **found} | cap_identity(
        data.images_per_class, data.split_seed
    )
    return Prepared(identity, decode_all, IMAGENET_MEAN, IMAGENET_STD)


def from_tables(tables: Sequence[Path]) -> list[Class]:
    """The classes of train.csv, val.csv and test.csv, by role and name.

    DataError for a line, a photo or a class that does not fit.
    """
    classes: list[Class] = []
    for role, table in zip(PARTS, tables, strict=True):
        photos: dict[str, list[str]] = {}
        try:
            rows = list(csv.DictReader(table.read_text("utf-8", "replace").splitlines()))
        except csv.Error as error:
            raise DataError(f"{table}: {error}; expected lines 'filename,label'") from None
        for number, row in enumerate(rows, 2):
            name, label = row.get("filename"), row.get("label")
            if (
                not name
                or not label
                or not name.isprintable()
                or ".." in name
                or name.startswith("/")
            ):
                raise DataError(
                    f"{table}: line {number} has no file name and label; expected columns "
                    "filename,label"
                )
            photos.setdefault(label, []).append(str(PurePosixPath(name)))  # "./x.jpg" is x.jpg
        classes += [Class(label, role, sorted(names)) for label, names in sorted(photos.items())]
    return checked(classes, tables[0].parent, str)


def from_pickles(arrays: Sequence[Any], files: Sequence[Path]) -> list[Class]:
    """The classes of the three pickles' contents; a photo is (number of the pickle, row).

    DataError for contents that do not fit.
    """
    classes: list[Class] = []
    for place, (role, found, file) in enumerate(zip(PARTS, arrays, files, strict=True)):
        images, members = (
            found.get(key) if isinstance(found, dict) else None
            for key in ("image_data", "class_dict")
        )
        fits = (
            isinstance(images, np.ndarray)
            and images.dtype == np.uint8
            and images.ndim == 4
            and images.shape[3] == 3
        )
        if not isinstance(images, np.ndarray) or not fits or not isinstance(members, dict):
            raise DataError(
                f"{file}: expected image_data, uint8 [N, side, side, 3], and class_dict, class -> "
                f"rows; {CONVERT}"
            )
        for label, rows in sorted(members.items(), key=lambda item: str(item[0])):
            numbers = np.asarray(rows)
            if (
                numbers.dtype.kind not in "iu"
                or numbers.ndim != 1
                or (numbers < 0).any()
                or (numbers >= len(images)).any()
            ):
                raise DataError(
                    f"{file}: class_dict gives {label} no list of rows of image_data, which has "
                    f"{len(images)}; {CONVERT}"
                )
            classes.append(Class(str(label), role, [(place, row) for row in numbers.tolist()]))
    return checked(
        classes, files[0].parent, lambda photo: f"row {photo[1]} of {files[photo[0]].name}"
    )


def checked(classes: list[Class], where: Path, called: Callable[[Any], str]) -> list[Class]:
    """The classes, if each stands in one part only and has a photograph to train on and one to test
    with, and each photograph is listed once.

    A second listing could stand on the other side of the cut between training and test images.
    ``called``: a photograph, for the message.
    """
    seen: set[str] = set()
    class_of: dict[Any, str] = {}
    for c in classes:
        if c.name in seen:
            raise DataError(
                f"{where}: class {c.name} is in two of the parts train, val and test; get the "
                "split again"
            )
        if len(c.photos) < 2:
            raise DataError(
                f"{where}: class {c.name} has {len(c.photos)} photograph; at least 2 are needed, "
                "one to train on and one to test with"
            )
        seen.add(c.name)
        for photo in c.photos:
            if photo in class_of:
                listed = (
                    f"{called(photo)} is listed twice, in class {class_of[photo]} and in "
                    f"class {c.name}"
                )
                raise DataError(
                    f"{where}: {listed}; a photograph is in one class once: remove one, or get the "
                    "split again"
                )
            class_of[photo] = c.name
    if {c.role for c in classes} != set(PARTS):
        raise DataError(
            f"{where}: one of the parts train, val and test has no class; expected {EXPECTED}"
        )
    return classes


def decode_folder(
    images: Path, classes: list[Class], data: DataSettings, report: Report
) -> Streamed:
    """The photographs of the folder ``images``."""
    return arranged(classes, data, images, lambda name: decode(images / name, data.size), report)


def decode_pickles(files: Sequence[Path], data: DataSettings, report: Report) -> Streamed:
    """The photographs in the three .pkl files, all of them in memory meanwhile (1.3 GB)."""
    from PIL import Image

    arrays = [load_arrays(file, CONVERT) for file in files]
    classes = from_pickles(arrays, files)

    def convert(photo: tuple[int, int]) -> np.ndarray:
        return square(Image.fromarray(arrays[photo[0]]["image_data"][photo[1]]), data.size)

    return arranged(classes, data, files[0].parent, convert, report)


def arranged(
    classes: list[Class],
    data: DataSettings,
    where: Path,
    convert: Callable[[Any], np.ndarray],
    report: Report,
) -> Streamed:
    """Training images first, each role by class; the last sixth of a class are its test images."""
    train, test = [], []
    for label, c in enumerate(classes):
        kept = len(c.photos) - max(1, len(c.photos) // TEST_SHARE)
        train += [
            (label, photo)
            for photo in capped(c.photos[:kept], data.images_per_class, data.split_seed, c.name)
        ]
        test += [(label, photo) for photo in c.photos[kept:]]
    photos = [photo for _, photo in (*train, *test)]
    report(f"decoding {len(photos)} images of {where} (once; later runs read them from the cache)")
    return Streamed(
        blocks=lambda start: blocks(photos[start:], convert, start, len(photos), report),
        size=data.size,
        labels=np.array([label for label, _ in (*train, *test)], dtype=np.int64),
        is_test=np.arange(len(photos)) >= len(train),
        class_names=tuple(c.name for c in classes),
        roles={
            role: [label for label, c in enumerate(classes) if c.role == role] for role in PARTS
        },
    )
