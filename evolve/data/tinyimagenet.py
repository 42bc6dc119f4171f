"""Tiny ImageNet (Stanford CS231n): the official zip or its folder, with 200 classes or fewer.

Training images are ``train/<wnid>/images/*.JPEG``. The test images are the labelled validation
images, ``val/images`` by ``val/val_annotations.txt``: the archive's own test set has no labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data.cache import Prepared, Report, Streamed
from evolve.data.members import Files, FolderFiles, Reader, ZipFiles
from evolve.data.photos import read_blocks
from evolve.data.pictures import as_rgb, open_picture

ARCHIVE = "tiny-imagenet-200.zip"
FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MEAN = (0.4802, 0.4481, 0.3975)
STD = (0.2770, 0.2691, 0.2821)
TRAIN = re.compile(r"train/([^/]+)/images/[^/]+\.jpe?g", re.IGNORECASE)
ANNOTATIONS = "val/val_annotations.txt"
SIDE = 64  # pixels a side of the archive's photos, in which its boxes are given
TOPS = ("train", "val")  # what is read; the archive's test/ has no labels
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels: edges, so 0, 0, size, size is the whole image."""
AGAIN = f"get {ARCHIVE} again from {URL}"


@dataclass(frozen=True)
class Photo:
    """One photo: its name below the set's root, its class and its role."""

    name: str
    class_id: int
    is_test: bool


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """The Tiny ImageNet that lies at or in ``data_dir``.

    Args:
        data: the scenario's [data].
        data_dir: see :func:`find`.

    Raises:
        DataError: it is not there, or holds no training images.
    """
    files = find(data_dir)
    identity = {"source": "tinyimagenet", "size": data.size, **files.identity()}
    return Prepared(identity, lambda report: decode_all(files, data.size, report), MEAN, STD)


def find(data_dir: Path) -> Files:
    """The set that lies at or in a place.

    It may be the zip, the unpacked folder, or a folder that contains either; the folder is
    preferred.

    Args:
        data_dir: the place.

    Raises:
        DataError: there is none.
    """
    if data_dir.is_file():
        return ZipFiles(data_dir, TOPS, AGAIN)
    for folder in (data_dir, data_dir / FOLDER):
        if (folder / "train").is_dir():
            return FolderFiles(folder, TOPS)
    if (data_dir / ARCHIVE).is_file():
        return ZipFiles(data_dir / ARCHIVE, TOPS, AGAIN)
    advice = f"get it from {URL} and give it, or the folder it is in, with --data"
    raise DataError(f"{data_dir}: no {ARCHIVE} and no folder {FOLDER} with train/ there; {advice}")


def decode_all(files: Files, size: int, report: Report) -> Streamed:
    """Decode every photo as RGB, training images first; classes stand in the order of their wnids.

    Args:
        files: the set.
        size: pixels a side.
        report: gets lines about the progress.
    """
    reader = files.open()
    try:
        photos, wnids = catalogue(files, reader)
    finally:
        reader.close()
    report(
        f"decoding {len(photos)} images of {files.where} (once; later runs read them from the cache)"
    )
    names = [photo.name for photo in photos]
    return Streamed(
        blocks=lambda start: read_blocks(
            files, names, start, lambda raw, name: decode(raw, size, name), report
        ),
        size=size,
        labels=np.array([photo.class_id for photo in photos], dtype=np.int64),
        is_test=np.array([photo.is_test for photo in photos]),
        class_names=tuple(wnids),
    )


def catalogue(files: Files, reader: Reader) -> tuple[list[Photo], list[str]]:
    """List all photos, sorted by role, class and name.

    Args:
        files: the set.
        reader: opened on it.

    Returns:
        The photos, and the wnids that have training images.

    Raises:
        DataError: something is missing.
    """
    names = sorted(files.names())
    train = [(match.group(1), name) for name in names if (match := TRAIN.fullmatch(name))]
    if not train:
        advice = f"it should be {ARCHIVE} or its unpacked folder"
        raise DataError(
            f"{files.where}: no training images (train/<wnid>/images/*.JPEG) in it; {advice}"
        )
    wnids = sorted({wnid for wnid, _ in train})
    class_id = {wnid: place for place, wnid in enumerate(wnids)}
    photos = [Photo(name, class_id[wnid], False) for wnid, name in train]
    present = set(names)
    if ANNOTATIONS not in present:
        raise DataError(
            f"{files.where}: no {ANNOTATIONS} in it, which labels the test images; unpack the "
            "official archive again"
        )
    test = sorted(
        (wnid, name)
        for name, wnid in labelled(reader.read(ANNOTATIONS), files.where)
        if wnid in class_id
    )
    missing = next((name for _, name in test if name not in present), None)
    if missing:
        raise DataError(
            f"{files.where}: {missing} is named in {ANNOTATIONS} but is not there; unpack the "
            "official archive again"
        )
    return photos + [Photo(name, class_id[wnid], True) for wnid, name in test], wnids


def labelled(text: bytes, where: Path) -> Iterator[tuple[str, str]]:
    """Read (image name, wnid) from every line "val_0.JPEG <tab> n03444034 <tab> box".

    Args:
        text: the annotations.
        where: the set, for the error.

    Raises:
        DataError: a line has another form.
    """
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        parts = line.split("\t")
        if not line.strip():
            continue
        if len(parts) < 2:
            raise DataError(
                f"{where}: {ANNOTATIONS} line {number} is not 'image<tab>wnid<tab>box'; unpack the "
                "official archive again"
            )
        yield f"val/images/{parts[0].strip()}", parts[1].strip()


def boxes(files: Files, size: int, places: Iterable[int]) -> dict[int, Box]:
    """The boxes of some photos' objects; a photo without one is left out.

    Args:
        files: the set.
        size: pixels a side that the photos were decoded to.
        places: their positions in :func:`catalogue`, which is their order in the cache.
    """
    reader = files.open()
    try:
        photos, wnids = catalogue(files, reader)
        present, held = set(files.names()), dict[str, dict[str, Box]]()
        chosen: dict[int, Box] = {}
        for place in places:
            photo = photos[place]
            wnid = wnids[photo.class_id]
            listed = ANNOTATIONS if photo.is_test else f"train/{wnid}/{wnid}_boxes.txt"
            if listed not in held:
                held[listed] = _boxes(reader.read(listed), size) if listed in present else {}
            if box := held[listed].get(photo.name.rpartition("/")[2]):
                chosen[place] = box
        return chosen
    finally:
        reader.close()


def _boxes(text: bytes, size: int) -> dict[str, Box]:
    """File name -> box, of lines that end in its first and last column and row: "0 10 63 58"."""
    lines = (line.split() for line in text.decode("utf-8", "replace").splitlines())
    corners = {
        line[0]: tuple(map(int, line[-4:]))
        for line in lines
        if len(line) >= 5 and all(word.isdecimal() for word in line[-4:])
    }
    scale = size / SIDE
    return {
        name: (left * scale, top * scale, (right + 1) * scale, (bottom + 1) * scale)
        for name, (left, top, right, bottom) in corners.items()
    }


def decode(raw: bytes, size: int, name: str) -> np.ndarray:
    """Decode a JPEG: grey becomes RGB; shrinking averages, over whole cells where they are whole.

    Args:
        raw: the file's content.
        size: pixels a side.
        name: what the error calls it.

    Returns:
        uint8 [size, size, 3].

    Raises:
        DataError: it cannot be read.
    """
    from PIL import Image

    try:
        with open_picture(BytesIO(raw)) as image:
            photo = as_rgb(image)
    except Exception as error:  # Pillow raises many types for broken files
        raise DataError(f"{name} is not a readable image ({error}); replace or remove it") from None
    if photo.width % size == 0 and photo.height % size == 0:
        return np.asarray(photo.reduce((photo.width // size, photo.height // size)))
    return np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR))
