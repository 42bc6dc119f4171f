"""Figures that are built but not rendered.

Rendering takes nine tenths of what the end of a tiny run costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest

from evolve.report import figures


def sketch(draw: Callable[[], Any], kind: str) -> bytes:
    """In the place of `figures.encode`: an SVG whose text is all that the figure shows.

    So other numbers are other bytes.
    """
    with figures._style():
        figure = draw()
    text = escape("\n".join(_shown(figure)))
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">'
    return f"{head}<text>{text}</text></svg>".encode()


def _shown(figure: Any) -> Iterator[str]:
    for axes in figure.axes:
        yield f"{axes.get_title(loc='left')} {axes.get_xlabel()} {axes.get_ylabel()}"
        yield from (
            f"{line.get_label()} {line.get_color()} {line.get_xydata().tolist()}"
            for line in axes.lines
        )
        yield from (
            f"{patch.get_facecolor()} {patch.get_extents().bounds}" for patch in axes.patches
        )
        yield from (
            str(path.vertices.tolist()) for drawn in axes.collections for path in drawn.get_paths()
        )
        yield from (text.get_text() for text in axes.texts)


def blank(draw: Callable[[], Any]) -> Any:
    """In the place of `figures.pixels`."""
    return np.zeros((4, 4, 3), np.uint8)


def sketched(patch: pytest.MonkeyPatch) -> None:
    """Render nothing until ``patch`` is undone."""
    patch.setattr(figures, "encode", sketch)
    patch.setattr(figures, "pixels", blank)


@contextmanager
def sketches() -> Iterator[None]:
    """Render nothing within."""
    with pytest.MonkeyPatch.context() as patch:
        sketched(patch)
        yield
