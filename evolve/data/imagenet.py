"""ImageNet (ILSVRC-2012), or any set of photographs in the layout of torchvision's ImageFolder.

Training images are ``train/<class>/*``, test images ``val/<class>/*``. For ILSVRC-2012 as it is
distributed ``val/`` may also be flat, labelled by Kaggle's ``LOC_val_solution.csv``, by ``val.csv``
(file name, class) or by the devkit's ``ILSVRC2012_validation_ground_truth.txt``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
    photos_below,
)

KAGGLE = "ILSVRC/Data/CLS-LOC"  # where Kaggle's archive puts train/ and val/
TABLES = ("LOC_val_solution.csv", "val.csv")
DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
ACCEPTED = (
    f"accepted are val/<class>/ folders, or photos in val/ with {TABLES[0]} or {TABLES[1]} "
    f"(lines 'file name,class') or the folder {DEVKIT} ({TRUTH} and {META}) beside train/; "
    "with data.holdout the test images may come from train/ instead"
)


@dataclass(frozen=True)
class Layout:
    """The dataset's folder.

    ``top`` is where tables and devkit lie: the same, or above it in Kaggle's archive.
    """

    root: Path
    top: Path

    @property
    def tables(self) -> list[Path]:
        """The files that may label a flat val/, those that are there; the first one counts."""
        places = (
            [self.top / name for name in TABLES]
            + [self.root / "val" / name for name in TABLES]
            + [self.top / DEVKIT / TRUTH]
        )
        return [place for place in places if place.is_file()]


@dataclass(frozen=True)
class Part:
    """The photos of one class in one role."""

    class_name: str
    folder: Path
    names: list[str]


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """The photographs that lie in ``data_dir``.

    Args:
        data: the scenario's [data].
        data_dir: the folder with train/, or one with Kaggle's folder in it.

    Raises:
        DataError: there are none, or the classes of the test images cannot be told.
    """
    layout = find(data_dir)
    classes = class_folders(layout.root / "train")
    listed = [(part.folder, part.names) for part in class_parts(layout.root / "train", classes)]
    if not any(names for _, names in listed):
        raise DataError(
            f"{layout.root / 'train'}: no photos in its folders; expected train/<class>/*.JPEG"
        )
    labels = labelled_by(layout, classes, data.holdout)
    if labels == layout.root / "val":
        listed += [(part.folder, part.names) for part in class_parts(labels, classes)]
    elif labels:
        listed += [
            (layout.root / "val", photos_below(layout.root / "val")),
            (labels.parent, [labels.name]),
        ]
    identity: dict[str, object] = {
        "source": "imagenet",
        "size": data.size,
        "photos": identify(listed),
    }
    identity |= cap_identity(data.images_per_class, data.split_seed)
    return Prepared(
        identity,
        lambda report: decode_all(layout, classes, labels, data, report),
        IMAGENET_MEAN,
        IMAGENET_STD,
    )


def find(data_dir: Path) -> Layout:
    """The data set that lies in a folder itself, or in Kaggle's folder in it.

    Args:
        data_dir: the folder.

    Raises:
        DataError: there is no folder train.
    """
    for root in (data_dir, data_dir / KAGGLE):
        if (root / "train").is_dir():
            kaggle = PurePosixPath(root.resolve().as_posix()).match(f"*/{KAGGLE}")
            return Layout(root, root.resolve().parents[2] if kaggle else root)
    advice = (
        "give the folder that holds train/<class>/*.JPEG and val/ with --data (or one with a "
        "folder 'imagenet' in it that does)"
    )
    raise DataError(f"{data_dir}: no folder train there; {advice}")


def class_folders(train: Path) -> list[str]:
    """The classes: the folders in train/, sorted.

    Args:
        train: the folder.

    Raises:
        DataError: there are none.
    """
    folders = sorted(
        place.name for place in train.iterdir() if place.is_dir() and not place.name.startswith(".")
    )
    if not folders:
        raise DataError(
            f"{train}: no folders in it; expected train/<class>/*.JPEG, one folder a class"
        )
    return folders


def class_parts(folder: Path, classes: list[str]) -> list[Part]:
    """The photos in the folders of these classes.

    Args:
        folder: train/ or val/.
        classes: names of folders in it.
    """
    return [Part(name, folder / name, photos_below(folder / name)) for name in classes]


def labelled_by(layout: Layout, classes: list[str], holdout: int) -> Path | None:
    """What tells the test images' classes.

    Args:
        layout: the data set.
        classes: the training classes.
        holdout: training images a class that become test images.

    Returns:
        val/ itself, by its folders, or the file that labels a flat val/. None where there is
        neither, and ``holdout`` makes test images.

    Raises:
        DataError: there is neither, and no ``holdout``.
    """
    val = layout.root / "val"
    if any((val / name).is_dir() for name in classes):
        return val
    if layout.tables and photos_below(val):
        return layout.tables[0]
    if holdout:
        return None
    raise DataError(
        f"{val}: no test images, or nothing that tells which class of train/ each is of; {ACCEPTED}"
    )


def decode_all(
    layout: Layout, classes: list[str], labels: Path | None, data: DataSettings, report: Report
) -> Streamed:
    """All photos, the training images first, each role by class and file name.

    Args:
        layout: the data set.
        classes: the training classes.
        labels: what :func:`labelled_by` gave.
        data: the scenario's [data]; it limits the size and the training images a class.
        report: gets lines about the progress.
    """
    train = class_parts(layout.root / "train", classes)
    limit, seed = data.images_per_class, data.split_seed
    train = [
        Part(p.class_name, p.folder, capped(p.names, limit, seed, p.class_name)) for p in train
    ]
    parts = [*train, *test_parts(layout, classes, labels)]
    photos = [(part.folder, name) for part in parts for name in part.names]
    report(
        f"decoding {len(photos)} images of {layout.root} (once; later runs read them from the "
        "cache)"
    )
    return Streamed(
        blocks=lambda start: blocks(
            photos[start:],
            lambda photo: decode(photo[0] / photo[1], data.size),
            start,
            len(photos),
            report,
        ),
        size=data.size,
        labels=np.repeat(
            [classes.index(part.class_name) for part in parts], [len(part.names) for part in parts]
        ).astype(np.int64),
        is_test=np.arange(len(photos)) >= sum(len(part.names) for part in train),
        class_names=tuple(classes),
    )


def test_parts(layout: Layout, classes: list[str], labels: Path | None) -> list[Part]:
    """The test images of the training classes; those of other classes are left out.

    Args:
        layout: the data set.
        classes: the training classes.
        labels: what :func:`labelled_by` gave.

    Raises:
        DataError: the table does not fit the photos.
    """
    val = layout.root / "val"
    if labels is None:
        return []
    if labels == val:
        return class_parts(val, classes)
    present = by_stem(photos_below(val))
    class_of: dict[str, str] = {}
    chosen: dict[str, list[str]] = {name: [] for name in classes}
    for photo, class_name in from_devkit(labels) if labels.name == TRUTH else from_table(labels):
        if class_name in chosen:
            name = called(photo, present, val, labels)
            if name in class_of:
                raise DataError(
                    f"{labels}: {name} is listed twice, as {class_of[name]!r} and as "
                    f"{class_name!r}; a photo has one line: remove one"
                )
            class_of[name] = class_name
            chosen[class_name].append(name)
    if not class_of:
        raise DataError(
            f"{labels}: names no photo of a class that is in {layout.root / 'train'}; {ACCEPTED}"
        )
    return [Part(name, val, sorted(names)) for name, names in chosen.items()]


def by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    """Names of photos by their stems: without folder and suffix, as Kaggle's table calls them.

    Args:
        names: the photos', with or without folders.
    """
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(PurePosixPath(name).stem, []).append(name)
    return stems


def called(photo: str, present: Mapping[str, Sequence[str]], val: Path, labels: Path) -> str:
    """The photo in val/ that a table means: by its name, else the only one with this stem.

    Args:
        photo: as the table calls it.
        present: :func:`by_stem` of the photos that are there.
        val: their folder.
        labels: the table.

    Raises:
        DataError: there is none, or there are several and none has exactly this name.
    """
    path = PurePosixPath(photo)
    candidates = present.get(path.stem, ())
    if str(path) in candidates:
        return str(path)
    if not candidates:
        raise DataError(
            f"{val}: {photo!r} is named in {labels.name} but is not there; get the validation "
            "images again"
        )
    if len(candidates) > 1:
        several = f"{candidates[0]} and {candidates[1]}"
        raise DataError(
            f"{labels}: {photo!r} may be {several} in {val}; name each photo with folder and "
            "suffix, or keep only one of them"
        )
    return candidates[0]


def from_table(table: Path) -> Iterator[tuple[str, str]]:
    """Read (photo, class) from every line "file name,class".

    A heading is one more such line, of a class that no photo has.

    Args:
        table: the CSV file.

    Raises:
        DataError: a line has another form, or the file is no CSV in UTF-8.
    """
    try:
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{table}: {error}; expected lines 'file name,class' in UTF-8") from None
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[1].strip():
            raise DataError(f"{table}: line {number} is not 'file name,class'")
        yield row[0], without_boxes(row[1].strip())


def without_boxes(text: str) -> str:
    """A table's second column without the boxes that Kaggle writes there.

    "n01440764 1 2 3 4 n01440764 5 6 7 8" is n01440764. A class may have spaces in its name.

    Args:
        text: what stands in the column.
    """
    words = text.split()
    return words[0] if len(words) >= 5 and all(word.isdecimal() for word in words[1:5]) else text


def from_devkit(truth: Path) -> Iterator[tuple[str, str]]:
    """Read (photo, class) from the devkit.

    Line n of the ground truth is the number, in meta.mat, of the class of validation image n.

    Args:
        truth: the ground truth's file; meta.mat lies beside it.

    Raises:
        DataError: a file of the devkit is damaged.
    """
    from scipy.io import loadmat

    meta = truth.with_name(META)
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnid = {
            str(int(number)): str(name)
            for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        }
    except Exception as error:  # scipy raises many types for broken files
        raise DataError(
            f"{meta}: cannot be read ({error}); get the ILSVRC-2012 devkit again"
        ) from None
    for number, line in enumerate(truth.read_text("utf-8", "replace").split(), 1):
        if line not in wnid:
            raise DataError(
                f"{truth}: line {number} is {line[:40]!r}, no class number of {META}; get the "
                "ILSVRC-2012 devkit again"
            )
        yield f"ILSVRC2012_val_{number:08d}.JPEG", wnid[line]
