"""ImageNet (ILSVRC-2012), or any set of photographs in the layout of torchvision's ImageFolder.

Training images are ``train/<class>/*``, test images ``val/<class>/*``. For ILSVRC-2012 as it is
distributed ``val/`` may also be flat, labelled by Kaggle's ``LOC_val_solution.csv``, by ``val.csv``
(file name, class) or by the devkit's ``ILSVRC2012_validation_ground_truth.txt``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from evolve.core.errors import DataError
from evolve.core.foreign import read_bounded
from evolve.core.settings import DataSettings
from evolve.data.cache import Prepared, Report, Streamed
from evolve.data.members import LARGEST, first_of, hidden
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
SAMPLED = 20  # class folders whose photos are counted for an estimate, at least
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
    train, val = layout.root / "train", layout.root / "val"
    classes = class_folders(train)
    photos = photos_below(layout.root, ("train", "val"))
    parts = class_parts(train, classes, photos)
    check_filled(train, parts)
    flat = [name.removeprefix("val/") for name in photos if name.startswith("val/")]
    labels = labelled_by(layout, classes, flat, data.holdout)
    test: list[Part] = []
    if labels == val:
        test = class_parts(val, classes, photos)
        if not data.holdout:
            check_filled(val, test)
    listed = [(part.folder, part.names) for part in (*parts, *test)]
    if labels and labels != val:
        listed += [(val, flat), (labels.parent, [labels.name])]
    identity: dict[str, object] = {
        "source": "imagenet",
        "size": data.size,
        "photos": identify(listed),
    }
    identity |= cap_identity(data.images_per_class, data.split_seed)
    return Prepared(
        identity,
        lambda report: decode_all(
            layout, parts, test_parts(val, classes, labels, test, flat), data, report
        ),
        IMAGENET_MEAN,
        IMAGENET_STD,
    )


def counts(data: DataSettings, data_dir: Path) -> tuple[int, int, int]:
    """About how many there are, from a few class folders: to list all may take minutes.

    Args:
        data: the scenario's [data].
        data_dir: as of :func:`prepare`.

    Returns:
        Classes, and on average training and test images a class.

    Raises:
        DataError: there are no class folders.
    """
    root = find(data_dir).root
    classes = class_folders(root / "train")
    return len(classes), _average(root / "train", classes), _average(root / "val", classes)


def _average(folder: Path, classes: Sequence[str]) -> int:
    sample = classes[:: max(1, len(classes) // SAMPLED)]
    if photos := photos_below(folder, sample):
        return round(len(photos) / len(sample))
    return round(len(photos_below(folder)) / len(classes))  # val/ may be flat


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
        place.name for place in train.iterdir() if place.is_dir() and not hidden(place.name)
    )
    if not folders:
        raise DataError(
            f"{train}: no folders in it; expected train/<class>/*.JPEG, one folder a class"
        )
    return folders


def class_parts(folder: Path, classes: Sequence[str], photos: Sequence[str]) -> list[Part]:
    """The photos in the folders of these classes.

    Args:
        folder: train/ or val/.
        classes: names of folders in it.
        photos: names of photos, relative to the folder that holds ``folder``.
    """
    below: dict[str, list[str]] = {name: [] for name in classes}
    for photo in photos:
        top, _, rest = photo.partition("/")
        name, _, own = rest.partition("/")
        if top == folder.name and own and name in below:
            below[name].append(own)
    return [Part(name, folder / name, names) for name, names in below.items()]


def check_filled(folder: Path, parts: Sequence[Part]) -> None:
    """Refuse class folders without photos.

    Args:
        folder: train/ or val/.
        parts: its classes.

    Raises:
        DataError: it names them.
    """
    empty = [part.class_name for part in parts if not part.names]
    if empty:
        raise DataError(
            f"{folder}: {len(empty)} of {len(parts)} class folders have no photos "
            f"({first_of(empty)}); put photos there or remove those classes (hidden files do not "
            "count, nor does a folder that another path leads to)"
        )


def labelled_by(
    layout: Layout, classes: Sequence[str], flat: Sequence[str], holdout: int
) -> Path | None:
    """What tells the test images' classes.

    Args:
        layout: the data set.
        classes: the training classes.
        flat: all photos in val/.
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
    if layout.tables and flat:
        return layout.tables[0]
    if holdout:
        return None
    raise DataError(
        f"{val}: no test images, or nothing that tells which class of train/ each is of; {ACCEPTED}"
    )


def decode_all(
    layout: Layout, train: Sequence[Part], test: Sequence[Part], data: DataSettings, report: Report
) -> Streamed:
    """All photos, the training images first, each role by class and file name.

    Args:
        layout: the data set.
        train: the training images, of all classes.
        test: the test images.
        data: the scenario's [data]; it limits the size and the training images a class.
        report: gets lines about the progress.
    """
    classes = [part.class_name for part in train]
    limit, seed = data.images_per_class, data.split_seed
    train = [
        Part(p.class_name, p.folder, capped(p.names, limit, seed, p.class_name)) for p in train
    ]
    parts = [*train, *test]
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


def test_parts(
    val: Path,
    classes: Sequence[str],
    labels: Path | None,
    folders: Sequence[Part],
    flat: Sequence[str],
) -> Sequence[Part]:
    """The test images of the training classes; those of other classes are left out.

    Args:
        val: the folder val/.
        classes: the training classes.
        labels: what :func:`labelled_by` gave.
        folders: the test images where val/ has class folders.
        flat: all photos in val/.

    Raises:
        DataError: the table does not fit the photos.
    """
    if labels is None or labels == val:
        return folders
    present = by_stem(flat)
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
            f"{labels}: names no photo of a class that is in {val.with_name('train')}; {ACCEPTED}"
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
        synsets = loadmat(io.BytesIO(read_bounded(meta, LARGEST)), squeeze_me=True)["synsets"]
        wnid = {
            str(int(number)): str(name)
            for number, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
        }
    except Exception as error:  # scipy raises many types for broken files
        raise DataError(
            f"{meta}: cannot be read ({error}); get the ILSVRC-2012 devkit again"
        ) from None
    try:
        lines = read_bounded(truth, LARGEST).decode("utf-8", "replace").split()
    except ValueError as error:
        raise DataError(f"{truth}: {error}; get the ILSVRC-2012 devkit again") from None
    for number, line in enumerate(lines, 1):
        if line not in wnid:
            raise DataError(
                f"{truth}: line {number} is {line[:40]!r}, no class number of {META}; get the "
                "ILSVRC-2012 devkit again"
            )
        yield f"ILSVRC2012_val_{number:08d}.JPEG", wnid[line]
