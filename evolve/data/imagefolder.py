"""A researcher's own photographs in class folders, as a folder or a zip.

Training images are ``train/<class>/*``, test images ``test/<class>/*`` (or ``val/``). Without test
images every class gives data.test_share of its photographs, chosen by their content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data.cache import Prepared, Report, Streamed
from evolve.data.imagenet import Part, check_filled
from evolve.data.members import Files, FolderFiles, Reader, ZipFiles, first_of, hidden
from evolve.data.photos import (
    EXTENSIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    cap_identity,
    capped,
    decode_bytes,
    read_blocks,
)

ZIP = "imagefolder.zip"  # as it is called inside a folder; given itself, it may have any name
TRAIN, TESTS = "train", ("test", "val")  # the first of the two that is there counts
EVERYTHING = r"[^/]+"  # ZipFiles' pattern for any folder at the root
EXPECTED = (
    "expected class folders of photographs (<class>/*, or train/<class>/* and test/<class>/*), "
    "as a folder or a .zip; say where they lie with --data"
)


@dataclass(frozen=True)
class Held:
    """A set of photographs: where it lies, and the names of its photographs by class.

    ``test`` is None where the test images are a share of ``train``. ``aside`` are the other files:
    no photographs by their suffix, or outside these class folders.
    """

    files: Files
    train: Mapping[str, list[str]]
    test: Mapping[str, list[str]] | None
    aside: Sequence[str]


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """The photographs that lie at or in ``data_dir``.

    Args:
        data: the scenario's [data].
        data_dir: see :func:`find`.

    Raises:
        DataError: there are none, or a class has too few.
    """
    held = catalogue(find(data_dir), data.holdout)
    identity = {"source": "imagefolder", "size": data.size, **held.files.identity()}
    identity |= cap_identity(data.images_per_class, data.split_seed)
    if held.test is None:
        identity |= {"test_share": data.test_share, "split_seed": data.split_seed}
    return Prepared(
        identity, lambda report: decode_all(held, data, report), IMAGENET_MEAN, IMAGENET_STD
    )


def counts(data: DataSettings, data_dir: Path) -> tuple[int, int, int]:
    """How many there are, without a look into them.

    Args:
        data: the scenario's [data].
        data_dir: see :func:`find`.

    Returns:
        Classes, and on average training and test images a class.

    Raises:
        DataError: as :func:`prepare`.
    """
    held = catalogue(find(data_dir), data.holdout)
    train = [len(names) for names in held.train.values()]
    if held.test is None:
        test = [share_of(count, data.test_share) for count in train]
        train = [count - own for count, own in zip(train, test, strict=True)]
    else:
        test = [len(names) for names in held.test.values()]
    return len(train), round(sum(train) / len(train)), round(sum(test) / len(train))


def find(place: Path) -> Files:
    """What lies at or in a place.

    Args:
        place: a zip, a folder with :data:`ZIP` in it, or the folder of the photographs.

    Raises:
        DataError: there is nothing.
    """
    if not place.exists():
        raise DataError(f"{place}: is not there; {EXPECTED}")
    if place.is_file() or (place / ZIP).is_file():
        return ZipFiles(place if place.is_file() else place / ZIP, (EVERYTHING,), EXPECTED)
    return FolderFiles(place, ("",))


def catalogue(files: Files, holdout: int) -> Held:
    """Sort a set's photographs by class, in the order of torchvision's ImageFolder.

    Folders around all classes are looked through, so a zip of a folder is the same set.

    Args:
        files: the set.
        holdout: data.holdout; with some, no class needs test images of its own.

    Raises:
        DataError: there are none, or a class has too few; it names the folder.
    """
    names = files.names()
    photos = sorted(
        (name for name in names if "/" in name and name.lower().endswith(EXTENSIONS)),
        key=lambda name: (name.rpartition("/")[0], name),
    )
    top = _top(photos)
    folders = _grouped(photos, top)
    role = next((name for name in TESTS if name in folders and TRAIN in folders), None)
    # A class may be called "train": it has photographs where the role has class folders.
    train = folders.get(TRAIN, [])
    alone = bool(train) and all(name.count("/") > top.count("/") + 1 for name in train)
    held = _by_class(files, names, photos, f"{top}{TRAIN}/" if role or alone else top)
    test = _by_class(files, names, photos, f"{top}{role}/") if role else None
    if test is None:
        _check_share(files.where / top, held)
    else:
        _check_test(files.where / top / str(role), held, test, holdout)
    counted = {name for part in (held, test or {}) for own in part.values() for name in own}
    return Held(files, held, test, [name for name in names if name not in counted])


def _grouped(names: Sequence[str], top: str) -> dict[str, list[str]]:
    """Names by the folder directly in ``top`` that they lie in, as far as they lie in one."""
    groups: dict[str, list[str]] = {}
    for name in names:
        folder, slash, _ = name[len(top) :].partition("/")
        if slash and name.startswith(top):
            groups.setdefault(folder, []).append(name)
    return groups


def _top(photos: Sequence[str]) -> str:
    """The folders that all class folders lie in, each with a slash behind it."""
    top = ""
    while len(groups := _grouped(photos, top)) == 1:
        [folder] = groups
        if not _grouped(photos, f"{top}{folder}/"):
            break
        top += f"{folder}/"
    return top


def _by_class(
    files: Files, names: Sequence[str], photos: Sequence[str], top: str
) -> dict[str, list[str]]:
    """The photographs by the folder directly in ``top`` that they lie in, all in order.

    Raises:
        DataError: there is no such folder, or one has no photographs.
    """
    folder, groups = files.where / top, _grouped(photos, top)
    classes = set(_grouped(names, top))
    if isinstance(files, FolderFiles):
        classes |= {place.name for place in folder.iterdir() if place.is_dir()}
    held = {name: groups.get(name, []) for name in sorted(classes) if not hidden(name)}
    if not groups:
        raise DataError(f"{folder}: no class folder with photographs in it; {EXPECTED}")
    check_filled(folder, [Part(name, folder, own) for name, own in held.items()])
    return held


def _check_share(folder: Path, held: Mapping[str, Sequence[str]]) -> None:
    """Refuse classes that cannot give a test image."""
    few = [name for name, own in held.items() if len(own) < 2]
    if few:
        raise DataError(
            f"{folder}: {len(few)} of {len(held)} class folders have 1 photograph "
            f"({first_of(few)}); at least 2 are needed, 1 to train on and 1 to test with; add some or remove those "
            "classes"
        )


def _check_test(
    folder: Path, held: Mapping[str, object], test: dict[str, list[str]], holdout: int
) -> None:
    """Refuse test images of other classes than the training images'."""
    if unknown := [name for name in test if name not in held]:
        raise DataError(
            f"{folder}: {len(unknown)} of its class folders are not in {TRAIN}/ "
            f"({first_of(unknown)}); the two need the same class folders"
        )
    missing = [name for name in held if name not in test]
    if missing and not holdout:
        raise DataError(
            f"{folder}: lacks {len(missing)} of the {len(held)} class folders of {TRAIN}/ "
            f"({first_of(missing)}); add them, or have data.holdout take test images from {TRAIN}/"
        )


def share_of(count: int, share: float) -> int:
    """How many of a class's photographs are test images; some are left to train on.

    Args:
        count: its photographs, at least 2.
        share: data.test_share.
    """
    return min(count - 1, max(1, round(share * count)))


def held_out(
    names: Sequence[str], reader: Reader, share: float, split_seed: int
) -> tuple[list[str], list[str]]:
    """Divide a class's photographs by a hash of what is in the files.

    So the choice does not depend on names and places, a larger share only adds test images, and
    copies of one file stand on one side.

    Args:
        names: of the class.
        reader: reads them.
        share: data.test_share.
        split_seed: data.split_seed.

    Returns:
        Training and test images, each in the order of ``names``.
    """
    digests = {
        name: hashlib.sha256(f"{split_seed}/".encode() + reader.read(name)).hexdigest()
        for name in names
    }
    ranked = sorted(digests.values())
    count = share_of(len(names), share)
    while count < len(names) - 1 and ranked[count] == ranked[count - 1]:
        count += 1
    chosen = set(sorted(names, key=lambda name: (digests[name], name))[:count])
    return [name for name in names if name not in chosen], [n for n in names if n in chosen]


def decode_all(held: Held, data: DataSettings, report: Report) -> Streamed:
    """All photographs, the training images first, each role by class and name.

    Args:
        held: what :func:`catalogue` gave.
        data: the scenario's [data].
        report: gets lines about what is read, and the progress.

    Raises:
        DataError: a photograph cannot be read; the line names it.
    """
    files, classes = held.files, list(held.train)
    _say(held, data, report)
    train, test = dict(held.train), dict(held.test or {})
    if held.test is None:
        reader = files.open()
        try:
            for name, own in held.train.items():
                train[name], test[name] = held_out(own, reader, data.test_share, data.split_seed)
        finally:
            reader.close()
    limit, seed = data.images_per_class, data.split_seed
    parts = [(place, capped(train[name], limit, seed, name)) for place, name in enumerate(classes)]
    kept = sum(len(own) for _, own in parts)
    parts += [(place, test.get(name, [])) for place, name in enumerate(classes)]
    photos = [name for _, own in parts for name in own]
    report(f"decoding {len(photos)} images (once; later runs read them from the cache)")
    return Streamed(
        blocks=lambda start: read_blocks(
            files, photos, start, lambda raw, name: decode_bytes(raw, data.size, name), report
        ),
        size=data.size,
        labels=np.repeat([place for place, _ in parts], [len(own) for _, own in parts]).astype(
            np.int64
        ),
        is_test=np.arange(len(photos)) >= kept,
        class_names=tuple(classes),
    )


def _say(held: Held, data: DataSettings, report: Report) -> None:
    """Say what was taken for what."""
    where = held.files.where
    split = (
        f"{100 * data.test_share:g} % of every class's photographs are test images "
        "(data.test_share)"
        if held.test is None
        else "test images from a folder of their own"
    )
    report(f"{where}: {len(held.train)} classes, {split}")
    if held.aside:
        suffixes = sorted({PurePosixPath(name).suffix.lower() or "none" for name in held.aside})
        report(
            f"{where}: {len(held.aside)} files are left out, no photographs by their suffix or "
            f"outside the class folders ({first_of(suffixes)})"
        )
