"""The picture of the paper's Figures 7 and 8: a row an image, a column a network's layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from evolve.report.explain import Box, Explained, entropy, inside
from evolve.report.figures import new_figure
from evolve.report.trends import Array

SHOWN = 6  # images
HEAT = "turbo"  # blue to red
CELL = 1.3  # inches
STRENGTH = 0.25, 0.75  # of the colour over the grey image, where the heat is least and most


def explain_figure(explained: Explained) -> Any:
    """Draw the first images, and each column's map over them.

    Red is where the evidence for the class comes from. Each map has its own scale. Below it stands
    the share of its mass inside the box, where one is known, or its entropy.

    Args:
        explained: images and maps.

    Returns:
        A matplotlib figure.
    """
    count, wide = min(SHOWN, len(explained.names)), 1 + len(explained.columns)
    figure = new_figure(CELL * wide + 0.4, (CELL + 0.17) * count + 0.5)
    grid = figure.subplots(count, wide, squeeze=False)
    for place in range(count):
        axes, image, box = grid[place], explained.pixels[place], explained.boxes[place]
        _show(axes[0], image, explained.names[place])
        for cell, column in zip(axes[1:], explained.columns, strict=True):
            heat = explained.heat(column, place)
            _show(cell, _overlaid(image, heat), _number(column.maps[place], heat, box))
        if box:
            for cell in axes:
                _frame(cell, box)
    grid[0, 0].set_title("image", fontsize=8)
    for cell, column in zip(grid[0, 1:], explained.columns, strict=True):
        cell.set_title(f"{column.network}\n{column.layer}, {column.role}", fontsize=8)
    _scale(figure, grid)
    return figure


def _scale(figure: Any, grid: Any) -> None:
    """Say below the pictures what the colours mean."""
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(cmap=HEAT),
        ax=list(grid[-1, 1:]),
        location="bottom",
        ticks=[0, 1],
        aspect=60,
        fraction=0.03,
        pad=0.12,
    )
    bar.outline.set_visible(False)
    bar.ax.set_xticklabels(["no evidence for the class", "each map's most"], fontsize=7)
    for tick, side in zip(bar.ax.get_xticklabels(), ("left", "right"), strict=True):
        tick.set_horizontalalignment(side)


def _show(axes: Any, image: Array, below: str) -> None:
    axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(below, fontsize=7, labelpad=2)


def _overlaid(image: Array, heat: Array) -> Array:
    """The image in grey below its heat, which is scaled to its own largest value."""
    from matplotlib import colormaps

    least, most = STRENGTH
    grey = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    scaled = (heat / (heat.max() or 1.0))[..., None]
    strength = np.where(heat.any(), least + (most - least) * scaled, 0.0)
    colour = colormaps[HEAT](scaled[..., 0])[..., :3]
    return (1 - strength) * grey + strength * colour


def _number(weights: Array, heat: Array, box: Box | None) -> str:
    if not weights.any():
        return "no evidence"
    return f"inside {100 * inside(heat, box):.0f} %" if box else f"entropy {entropy(weights):.2f}"


def _frame(axes: Any, box: Box) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    corner = left - 0.5, top - 0.5  # a pixel's centre is its number
    axes.add_patch(
        Rectangle(corner, right - left, bottom - top, fill=False, edgecolor="white", linewidth=1)
    )
