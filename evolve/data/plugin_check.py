"""Looks at what an image source of another package returns, before anything is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evolve.core.registry import blamed, find, nonsense, origin
from evolve.core.settings import DataSettings
from evolve.data.cache import Decoded, Prepared, Report, Streamed


def prepared_by(source: str, data: DataSettings, folder: Path) -> Prepared:
    """What a source prepares. Ours are not looked at: their tests do that.

    Args:
        source: its name.
        data: the scenario's [data].
        folder: where its files lie.

    Raises:
        UserError: a plug-in gave something that is no set of images; the line names it.
    """
    prepare: Callable[[DataSettings, Path], Prepared] = find("sources", source)
    if origin("sources", source) is None:
        return prepare(data, folder)
    with blamed("sources", source):
        prepared = prepare(data, folder)
    if not isinstance(prepared, Prepared):
        raise nonsense("sources", source, f"returned {type(prepared).__name__}, not a Prepared")

    def decode(report: Report) -> Decoded | Streamed:
        with blamed("sources", source):
            decoded = prepared.decode(report)
        for problem in _problems(decoded, data.size):
            raise nonsense("sources", source, problem)
        return decoded

    return replace(prepared, decode=decode)


def _problems(decoded: Any, size: int) -> Iterator[str]:
    if not isinstance(decoded, (Decoded, Streamed)):
        yield f"decoded to {type(decoded).__name__}, not a Decoded or Streamed"
        return
    images, classes = len(decoded.labels), len(decoded.class_names)
    for name, dtype in (("labels", np.int64), ("is_test", np.bool_)):
        array = getattr(decoded, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (images,):
            yield f"decoded to {name} that are no array of {np.dtype(dtype)}, one an image"
    if images == 0 or decoded.labels.min() < 0 or decoded.labels.max() >= classes:
        yield f"decoded to {images} images whose labels are not all from 0 to {classes - 1}"
    if isinstance(decoded, Decoded) and (
        decoded.pixels.dtype != np.uint8 or decoded.pixels.shape != (images, size, size, 3)
    ):
        yield (
            f"decoded to pixels {decoded.pixels.dtype} {decoded.pixels.shape}, not uint8 "
            f"{(images, size, size, 3)}"
        )
