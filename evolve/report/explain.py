"""Where networks look: Grad-CAM's maps of the same images as numbers (paper, Figures 7 and 8)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.ndimage import zoom
from scipy.special import entr

from evolve.report.curves import Interval, point_interval
from evolve.report.trends import Array

Box = tuple[float, float, float, float]  # left, top, right, bottom: edges in pixels of the image


@dataclass(frozen=True)
class Column:
    """One network at one layer.

    Attributes:
        network: "ancestor", "inherited" or "from-scratch".
        layer: the layer's name there.
        role: what the layer is to the learngene.
        maps: one an image, [N, h, w], not negative, in the layer's resolution.
        targets: the class whose evidence is shown, one an image.
    """

    network: str
    layer: str
    role: str
    maps: Array
    targets: Sequence[str]


@dataclass(frozen=True)
class Explained:
    """The same images through all columns.

    Attributes:
        facts: the run, the lineage length, where the images come from; plain values.
        pixels: [N, H, W, 3] in [0, 1].
        names: what each image is called.
        boxes: where each image's object is; None: not known.
    """

    facts: Mapping[str, Any]
    pixels: Array
    names: Sequence[str]
    boxes: Sequence[Box | None]
    columns: Sequence[Column]

    @property
    def size(self) -> int:
        """Pixels a side of the images."""
        return int(self.pixels.shape[1])

    def heat(self, column: Column, place: int) -> Array:
        """A map in its image's resolution, enlarged bilinearly, [H, W]."""
        weights = column.maps[place]
        heat: Array = zoom(
            weights, self.size / len(weights), order=1, mode="nearest", grid_mode=True
        )
        return heat


def entropy(weights: Array) -> float:
    """How spread a map is: its entropy over that of an even one.

    Args:
        weights: not negative, [h, w].

    Returns:
        0: all in one cell; 1: even. NaN of a map that is zero everywhere, or a single cell.
    """
    total = weights.sum()
    if not total or weights.size < 2:
        return math.nan
    return float(entr(weights / total).sum() / math.log(weights.size))


def inside(heat: Array, box: Box) -> float:
    """The share of a map's mass inside a box (energy-based pointing game; Wang et al.,
    "Score-CAM", arXiv 1910.01279).

    Args:
        heat: not negative, [H, W], in the image's resolution.
        box: a pixel on its edge counts by the part that lies inside.

    Returns:
        In [0, 1]; NaN of a map that is zero everywhere.
    """
    left, top, right, bottom = box
    total = heat.sum()
    mass = _covered(top, bottom, heat.shape[0]) @ heat @ _covered(left, right, heat.shape[1])
    return float(mass / total) if total else math.nan


def _covered(first: float, last: float, count: int) -> Array:
    """The part of each of ``count`` pixels that lies between two edges."""
    pixels = np.arange(count)
    return np.clip(np.minimum(last, pixels + 1) - np.maximum(first, pixels), 0.0, 1.0)


def rows(explained: Explained) -> Iterator[dict[str, Any]]:
    """One row an image and column."""
    for column in explained.columns:
        for place, (name, box) in enumerate(zip(explained.names, explained.boxes, strict=True)):
            left, top, right, bottom = box or (math.nan,) * 4
            even = (right - left) * (bottom - top) / explained.size**2
            share = inside(explained.heat(column, place), box) if box else math.nan
            yield {
                "image": name,
                "network": column.network,
                "layer": column.layer,
                "role": column.role,
                "target": column.targets[place],
                "entropy": entropy(column.maps[place]),
                "inside": share,
                "box_share": even,
                "excess": share - even,
            }


def summary(explained: Explained) -> dict[str, Any]:
    """Every column's means over the images with their 95 % intervals, as plain values."""
    table = list(rows(explained))
    count = len(explained.names)
    columns = []
    for place, column in enumerate(explained.columns):
        own = table[place * count : (place + 1) * count]
        columns.append(
            {
                "network": column.network,
                "layer": column.layer,
                "role": column.role,
                "map": column.maps.shape[-1],
                "empty": sum(not weights.any() for weights in column.maps),
                **{
                    measure: asdict(point_interval([row[measure] for row in own]))
                    for measure in ("entropy", "inside", "excess")
                },
            }
        )
    share = point_interval([row["box_share"] for row in table[:count]])
    return {**explained.facts, "images": count, "box_share": asdict(share), "columns": columns}


HEADS = ("column", "map", "entropy", "in the box (%)", "over even (points)", "empty maps")


def cells(measured: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A :func:`summary` as a table of words below :data:`HEADS`, one row a column."""
    return [
        *(
            (
                f"{column['network']} {column['layer']}, {column['role']}",
                f"{column['map']}x{column['map']}",
                _plus_minus(column["entropy"], 1.0),
                _plus_minus(column["inside"], 100.0),
                _plus_minus(column["excess"], 100.0, "+"),
                str(column["empty"]),
            )
            for column in measured["columns"]
        ),
        ("an even map", "", "1.00", _plus_minus(measured["box_share"], 100.0), "", ""),
    ]


def _plus_minus(interval: Mapping[str, Any], unit: float, sign: str = "") -> str:
    mean, low, high = (
        math.nan if interval[name] is None else interval[name] for name in ("mean", "low", "high")
    )
    held = Interval(mean, low, high, interval["n"])
    if math.isnan(held.mean):
        return "-"
    half = "" if math.isnan(held.half) else f" ± {unit * held.half:.2f}"
    return f"{unit * held.mean:{sign}.2f}{half}"
