"""Embedded images: 100 characters in ten fonts under random pose, colours, texture and noise.

They need no download and no licence beyond matplotlib's own fonts. Every draw comes from
(glyph_seed, class, role, purpose), so an image depends neither on how many others are made nor on
their order. The pixel arithmetic is element-wise IEEE, without BLAS, vectorised trigonometry or
normal deviates, so that another processor makes the same bytes with the same libraries.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evolve.core.errors import DataError
from evolve.core.randomness import generator
from evolve.core.settings import DataSettings
from evolve.data.cache import Decoded, Prepared, Report

RENDER_VERSION = 1  # raise it with any change of the images: old caches are then left alone

# No look-alikes: neither O nor o beside 0, no l or I beside 1, no case twins (c s u v w x z), no
# Latin twins in Greek or Cyrillic.
CHARACTERS = (
    "ABCDEFGHJKLMNPQRSTUVWXYZ"
    "0123456789"
    "abdefghimnrty"
    "ΓΔΞΣΦΨΩαδζλμξπσω"
    "БДЖИЦЧШЫЭЮЯ"
    "&@#$%?*+={<>§¶£€©÷∞∂∫√≠∃→↑"
)
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
)
MEAN = (0.5, 0.5, 0.5)
STD = (0.22, 0.22, 0.22)

OVERSAMPLE = 2  # glyphs and strokes are drawn this much larger and averaged down
GRID = 6  # cells a side of the background's coarse texture
STROKES = 3  # two behind the glyph, one before it


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """The glyphs: 100 classes of glyph_train training and glyph_test test images.

    Args:
        data: the scenario's [data].
        data_dir: not read.
    """
    identity = {
        "source": "glyphs",
        "size": data.size,
        "seed": data.glyph_seed,
        "train": data.glyph_train,
        "test": data.glyph_test,
        "render": RENDER_VERSION,
        "libraries": [f"{name} {version(name)}" for name in ("pillow", "matplotlib")],
    }

    def decode(report: Report) -> Decoded:
        report(
            f"drawing {len(CHARACTERS)} glyph classes of {data.glyph_train} + {data.glyph_test} "
            f"images, {data.size} pixels a side"
        )
        return draw_all(data.size, data.glyph_seed, data.glyph_train, data.glyph_test)

    return Prepared(identity, decode, MEAN, STD)


def draw_all(
    size: int, seed: int, train: int, test: int, classes: Sequence[int] = range(len(CHARACTERS))
) -> Decoded:
    """Draw whole classes: of each the training images, then the test images.

    Args:
        size: pixels a side.
        seed: data.glyph_seed.
        train: training images a class.
        test: test images a class.
        classes: numbers of :data:`CHARACTERS`.
    """
    parts = [
        draw(class_id, role, size, seed, count)
        for class_id in classes
        for role, count in (("train", train), ("test", test))
    ]
    is_test = np.tile(np.repeat([False, True], [train, test]), len(classes))
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), train + test)
    names = tuple(unicodedata.name(CHARACTERS[class_id]).lower() for class_id in classes)
    return Decoded(np.concatenate(parts), labels, is_test, names)


def draw(class_id: int, role: str, size: int, seed: int, count: int) -> np.ndarray:
    """Draw the first images of a class and role.

    Args:
        class_id: the number of its character.
        role: "train" or "test".
        size: pixels a side.
        seed: data.glyph_seed.
        count: how many.

    Returns:
        uint8 [count, size, size, 3].
    """
    cells = _uniform(count, GRID * GRID * 3, seed, class_id, role, "texture")
    image = _background(_uniform(count, 10, seed, class_id, role, "ground"), cells, size)
    paint = _uniform(count, 8, seed, class_id, role, "paint")
    ground = image.mean(axis=(1, 2), dtype=np.float64).mean(axis=1).round(4).astype(np.float32)
    strokes = _uniform(count, STROKES * 10, seed, class_id, role, "strokes").reshape(
        count, STROKES, 10
    )
    behind, before = _stroke_masks(strokes, size)
    image = _lay(image, behind, strokes[:, 0, 7:10])
    pose = _uniform(count, 8, seed, class_id, role, "pose")
    image = _lay(image, _glyph_masks(class_id, pose, size), _ink(ground, paint))
    image = _lay(image, before, strokes[:, 2, 7:10])
    noise = _uniform(count, size * size * 3, seed, class_id, role, "noise")
    return _camera(image, paint[:, 5:7], noise)


def _uniform(
    count: int, width: int, seed: int, class_id: int, role: str, purpose: str
) -> np.ndarray:
    """Uniform [0, 1) float32 [count, width]; a longer draw begins with the shorter one."""
    source = generator(seed, "glyphs", class_id, role, purpose)
    return torch.rand(count * width, generator=source).numpy().reshape(count, width)


def _background(u: np.ndarray, cells: np.ndarray, size: int) -> np.ndarray:
    """A colour gradient in a random direction plus coarse coloured texture.

    Returns:
        float32 [count, size, size, 3] around [0, 1].
    """
    count = len(u)
    light = 0.2 + 0.6 * u[:, 0:1]
    first = light + 0.3 * (u[:, 1:4] - 0.5)
    second = first + 0.5 * (u[:, 4:7] - 0.5)
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5).astype(np.float32)
    slope = 2 * u[:, 7:9] - 1
    ramp = (
        0.5
        + slope[:, 0, None, None] * line[None, :, None]
        + slope[:, 1, None, None] * line[None, None, :]
    )
    image = first[:, None, None, :] + (second - first)[:, None, None, :] * ramp[..., None]
    strength = 0.5 * u[:, 9, None, None, None]
    return image + strength * (_enlarge(cells.reshape(count, GRID, GRID, 3), size) - 0.5)


def _enlarge(cells: np.ndarray, size: int) -> np.ndarray:
    """Bilinear enlargement of [count, g, g, 3] to [count, size, size, 3], corners on corners."""
    place = np.linspace(0, GRID - 1, size)
    low = np.minimum(place.astype(int), GRID - 2)
    part = (place - low).round(6).astype(np.float32)
    rows = cells[:, low] + (cells[:, low + 1] - cells[:, low]) * part[None, :, None, None]
    return rows[:, :, low] + (rows[:, :, low + 1] - rows[:, :, low]) * part[None, None, :, None]


def _ink(ground: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The glyph's colour [count, 3]: lighter or darker than the ground by 0.2 to 0.5, tinted."""
    step = 0.2 + 0.3 * u[:, 0]
    up = np.where(ground + step > 0.95, False, np.where(ground - step < 0.05, True, u[:, 1] < 0.5))
    return (ground + np.where(up, step, -step))[:, None] + 0.25 * (u[:, 2:5] - 0.5)


def _lay(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Lay ``colour`` [count, 3] over the image where ``mask`` (uint8 [count, size, size]) is."""
    cover = mask.astype(np.float32)[..., None] / np.float32(255)
    return image + (colour[:, None, None, :] - image) * cover


def _camera(image: np.ndarray, u: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Blur (binomial, of random weight), add noise (uniform, of random strength), round."""
    weight = u[:, 0, None, None, None]
    for axis in (1, 2):
        image = image + weight * (_neighbours(image, axis) - image) * np.float32(0.6)
    strength = 0.05 + 0.2 * u[:, 1, None, None, None]
    image = image + strength * (noise.reshape(image.shape) - 0.5)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _neighbours(image: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the two neighbours along ``axis``, edges repeated."""
    line = np.arange(image.shape[axis])
    return (
        image.take(np.maximum(line - 1, 0), axis) + image.take(np.minimum(line + 1, line[-1]), axis)
    ) * np.float32(0.5)


def _glyph_masks(class_id: int, u: np.ndarray, size: int) -> np.ndarray:
    """The class's character under random font, rotation, scale, aspect, shear and shift.

    Returns:
        uint8 [count, size, size].
    """
    from PIL import Image

    wide = OVERSAMPLE * size
    masks = np.empty((len(u), size, size), np.uint8)
    for place, row in enumerate(u.tolist()):
        stencil = _stencil(class_id, int(row[0] * len(FONTS)), wide)
        coefficients = _inverse_pose(row[1:], stencil.size, wide)
        posed = stencil.transform(
            (wide, wide), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        masks[place] = np.asarray(posed.reduce(OVERSAMPLE))
    return masks


def _inverse_pose(u: Sequence[float], stencil: tuple[int, int], wide: int) -> tuple[float, ...]:
    """Pillow's affine coefficients: where in the stencil each output pixel comes from.

    Rounded to 1e-6 of a pixel, so that a last bit of the C library's sine cannot show.
    """
    angle = math.radians(50 * (u[0] - 0.5))
    scale = (0.5 + 0.4 * u[1]) * wide / max(stencil)
    stretch = 1 + 0.4 * (u[2] - 0.5)
    shear = 0.6 * (u[3] - 0.5)
    cos, sin = math.cos(angle), math.sin(angle)
    # forward = rotation . [[1, shear], [0, 1]] . diag(scale * stretch, scale / stretch)
    a, b = cos * scale * stretch, (cos * shear - sin) * scale / stretch
    c, d = sin * scale * stretch, (sin * shear + cos) * scale / stretch
    det = a * d - b * c
    ia, ib, ic, id_ = d / det, -b / det, -c / det, a / det
    x, y = wide * (0.5 + 0.24 * (u[4] - 0.5)), wide * (0.5 + 0.24 * (u[5] - 0.5))
    offset_x, offset_y = stencil[0] / 2 - ia * x - ib * y, stencil[1] / 2 - ic * x - id_ * y
    return tuple(round(value, 6) for value in (ia, ib, offset_x, ic, id_, offset_y))


@lru_cache(maxsize=2048)
def _stencil(class_id: int, font: int, wide: int) -> Any:
    """The character as a Pillow image: upright, white on black, its outline plus a margin."""
    from PIL import Image, ImageDraw

    text, face = CHARACTERS[class_id], _face(FONTS[font], wide)
    left, top, right, bottom = (int(edge) for edge in face.getbbox(text))
    stencil = Image.new("L", (right - left + 4, bottom - top + 4), 0)
    ImageDraw.Draw(stencil).text((2 - left, 2 - top), text, fill=255, font=face)
    return stencil


@lru_cache(maxsize=64)
def _face(name: str, pixels: int) -> Any:
    """The font, a Pillow FreeTypeFont."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    path = Path(get_data_path(), "fonts", "ttf", f"{name}.ttf")
    try:
        return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(
            f"{path}: glyphs need this font of matplotlib ({error}); reinstall matplotlib"
        ) from None


def _stroke_masks(u: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines and arcs that distract.

    Returns:
        uint8 [count, size, size] for those behind the glyph, and for the one before it.
    """
    from PIL import Image, ImageDraw

    wide = OVERSAMPLE * size
    behind = np.empty((len(u), size, size), np.uint8)
    before = np.empty_like(behind)
    for place, strokes in enumerate(u.tolist()):
        for target, chosen in ((behind, strokes[:2]), (before, strokes[2:])):
            canvas = Image.new("L", (wide, wide), 0)
            pen = ImageDraw.Draw(canvas)
            for stroke in chosen:
                _stroke(pen, stroke, wide, thick=target is behind)
            target[place] = np.asarray(canvas.reduce(OVERSAMPLE))
    return behind, before


def _stroke(pen: Any, u: Sequence[float], wide: int, thick: bool) -> None:
    """One stroke on ``pen``: nothing, a line or an arc, at whole pixels."""
    x0, y0, x1, y1 = (int(value * wide) for value in u[1:5])
    width = 1 + int(u[5] * (0.12 if thick else 0.06) * wide)
    if u[0] < 0.45:
        pen.line((x0, y0, x1, y1), fill=255, width=width)
    elif u[0] < 0.75:
        start = int(u[6] * 360)
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        pen.arc(box, start, start + 200, fill=255, width=width)
