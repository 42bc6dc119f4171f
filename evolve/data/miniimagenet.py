"""miniImageNet, the paper's ImageNet100: 100 classes of 600 photographs.

They are split 64 / 16 / 20 by class (Ravi and Larochelle, ICLR 2017). Two distributions are read:
``train.csv``, ``val.csv``, ``test.csv`` (columns filename,label) beside a folder ``images``, and
the three files ``mini-imagenet-cache-{train,val,test}.pkl``. The classes of train are the
ancestor's (ids 0 to 63, by name), those of val the condensing ones (64 to 79), those of test the
descendants' (80 to 99).

Within a class there is no official test set. The last sixth of its photographs (100 of 600) are the
test images: by file name or, in the .pkl files, which have no names, by their order there.
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
from evolve.core.foreign import read_bounded
from evolve.core.settings import DataSettings
from evolve.data.cache import Prepared, Report, Streamed
from evolve.data.members import LARGEST
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
    """One class with its photos in order: file names or, of the pickles, rows."""

    name: str
    role: str
    photos: Sequence[Any]


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """The miniImageNet that lies in ``data_dir``.

    Args:
        data: the scenario's [data].
        data_dir: the folder with either distribution.

    Raises:
        DataError: neither is there, or a file does not fit.
    """
    tables, pickled = (
        [data_dir / name.format(part) for part in PARTS.values()]
        for name in ("{}.csv", "mini-imagenet-cache-{}.pkl")
    )
    decode_all: Callable[[Report], Streamed]
    content: dict[str, str]
    if all(file.is_file() for file in tables):
        classes = from_tables(tables)
        listed = [
            (data_dir, [file.name for file in tables]),
            *((data_dir / "images", c.photos) for c in classes),
        ]
        content = {"photos": identify(listed)}
        decode_all = partial(decode_folder, data_dir / "images", classes, data)
    elif all(file.is_file() for file in pickled):
        content = {"pickles": identify([(data_dir, [file.name for file in pickled])])}
        decode_all = partial(decode_pickles, pickled, data)
    else:
        missing = ", ".join(file.name for file in (*tables, *pickled) if not file.is_file())
        raise DataError(
            f"{data_dir}: no miniImageNet there ({missing} missing); give the folder that holds "
            f"{EXPECTED} with --data"
        )
    identity = {"source": "miniimagenet", "size": data.size, **content} | cap_identity(
        data.images_per_class, data.split_seed
    )
    return Prepared(identity, decode_all, IMAGENET_MEAN, IMAGENET_STD)


def from_tables(tables: Sequence[Path]) -> list[Class]:
    """The classes of train.csv, val.csv and test.csv, by role and name.

    Args:
        tables: the three files.

    Raises:
        DataError: a line, a photo or a class does not fit.
    """
    classes: list[Class] = []
    for role, table in zip(PARTS, tables, strict=True):
        photos: dict[str, list[str]] = {}
        try:
            text = read_bounded(table, LARGEST).decode("utf-8", "replace")
            rows = list(csv.DictReader(text.splitlines()))
        except (csv.Error, ValueError) as error:
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
    """The classes of the three pickles; a photo is (number of the pickle, row).

    Args:
        arrays: the contents, in the order of :data:`PARTS`.
        files: where they come from, for errors.

    Raises:
        DataError: a content does not fit.
    """
    classes: list[Class] = []
    for place, (role, contents, file) in enumerate(zip(PARTS, arrays, files, strict=True)):
        images, members = (
            contents.get(key) if isinstance(contents, dict) else None
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
            numbers = rows if isinstance(rows, np.ndarray) else _numbers(rows)
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


def _numbers(rows: Any) -> np.ndarray:
    """A list of whole numbers as an array; of anything else an array of floats."""
    plain = isinstance(rows, (list, tuple)) and all(
        type(row) is int or isinstance(row, np.integer) for row in rows
    )
    return np.array(rows) if plain and len(rows) else np.zeros(0)


def checked(classes: list[Class], where: Path, called: Callable[[Any], str]) -> list[Class]:
    """Check that the classes can be used, and give them back.

    Each must stand in one part only, and have a photograph to train on and one to test with. Each
    photograph must be listed once: a second listing could stand on the other side of the cut
    between training and test images.

    Args:
        classes: all of them.
        where: the folder, for the error.
        called: a photograph's name, for the error.

    Raises:
        DataError: they cannot be used.
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
    """Decode the photographs of a folder, see :func:`arranged`.

    Args:
        images: the folder.
        classes: all of them.
        data: the scenario's [data].
        report: gets lines about the progress.
    """
    return arranged(classes, data, images, lambda name: decode(images / name, data.size), report)


def decode_pickles(files: Sequence[Path], data: DataSettings, report: Report) -> Streamed:
    """Decode the photographs in the three .pkl files, all of them in memory meanwhile (1.3 GB).

    Args:
        files: the three, in the order of :data:`PARTS`.
        data: the scenario's [data].
        report: gets lines about the progress.

    Raises:
        DataError: a content does not fit.
    """
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
    """Decode all photographs: training images first, each role by class.

    Args:
        classes: all of them; the last sixth of each are test images.
        data: the scenario's [data].
        where: the folder, for the report.
        convert: a photograph -> uint8 [size, size, 3].
        report: gets lines about the progress.
    """
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
