"""Boxes around the objects of images, in pixels of the square that a network sees."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from evolve.core.errors import DataError, UserError
from evolve.core.foreign import read_bounded
from evolve.core.settings import DataSettings
from evolve.data import tinyimagenet
from evolve.data.members import LARGEST
from evolve.data.sources import SAME, source_dir
from evolve.data.tinyimagenet import Box

HEADS = ("image", "left", "top", "right", "bottom")


def known_boxes(
    data: DataSettings, data_dir: Path | None, images: Sequence[int], first: int
) -> dict[int, Box]:
    """The boxes that come with the descendants' images; only Tiny ImageNet has any.

    Args:
        data: the scenario's [data].
        data_dir: see :func:`evolve.data.sources.load_images`.
        images: images of the descendants' classes, by their positions in the image set.
        first: how many images the ancestor's source has: those of a second one stand behind them.

    Returns:
        Position -> box, of the images that have one.
    """
    same = data.descend_source in (SAME, data.source)
    source, before = (data.source, 0) if same else (data.descend_source, first)
    if source != "tinyimagenet":
        return {}
    files = tinyimagenet.find(source_dir(source, data_dir))
    chosen = tinyimagenet.boxes(files, data.size, [place - before for place in images])
    return {place + before: box for place, box in chosen.items()}


def read_boxes(file: Path, folder: Path, names: Sequence[str], size: int) -> dict[str, Box]:
    """Boxes of a user's own photos, from a CSV file with the columns of :data:`HEADS`.

    Its numbers are pixels of the photo as it lies on disk.

    Args:
        file: the CSV file.
        folder: where the photos are.
        names: the photos' names, relative to the folder.
        size: pixels a side of the squares that :func:`evolve.data.photos.decode` makes of them.

    Returns:
        Name -> box, of the photos whose box reaches into the square.

    Raises:
        UserError: the file cannot be read, or a line names another photo or no box.
    """
    try:
        text = read_bounded(file, LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"--boxes {file}: cannot be read ({error})") from None
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    if missing := set(HEADS).difference(rows.fieldnames or ()):
        raise UserError(
            f"--boxes {file}: its first line lacks {', '.join(sorted(missing))}; "
            f"it should be {','.join(HEADS)}"
        )
    boxes: dict[str, Box] = {}
    for row in rows:
        name = row["image"]
        if name not in names:
            raise UserError(f"--boxes {file} line {rows.line_num}: no image {name!r} in {folder}")
        try:
            left, top, right, bottom = (float(row[head]) for head in HEADS[1:])
        except (TypeError, ValueError):
            left = top = right = bottom = 0.0
        if not (left < right and top < bottom):
            raise UserError(
                f"--boxes {file} line {rows.line_num}: left, top, right, bottom should be numbers "
                "of pixels, left < right and top < bottom"
            )
        if box := _cropped((left, top, right, bottom), folder / name, size):
            boxes[name] = box
    return boxes


def _cropped(box: Box, photo: Path, size: int) -> Box | None:
    """A photo's box in its square: the shorter side resized, the centre cut out."""
    from PIL import Image

    try:
        with Image.open(photo) as image:
            width, height = image.size
    except OSError as error:
        raise DataError(f"{photo} is not a readable image ({error}); replace it") from None
    scale = size / min(width, height)
    cut = (scale * width - size) / 2, (scale * height - size) / 2
    edges = (scale * edge - margin for edge, margin in zip(box, cut * 2, strict=True))
    left, top, right, bottom = (min(max(edge, 0.0), float(size)) for edge in edges)
    return (left, top, right, bottom) if left < right and top < bottom else None
