"""Small photographs in the formats that the sources read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakePhoto = Callable[..., Path]


@pytest.fixture(scope="session")
def photo() -> MakePhoto:
    """photo(path, seed, side lengths, mode): a JPEG (or what the suffix says) of coarse random
    colours; other arguments go to Pillow.
    """

    def make(
        path: Path,
        seed: int,
        sides: tuple[int, int] = (24, 18),
        mode: str = "RGB",
        **options: object,
    ) -> Path:
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(coarse).resize(sides, Image.Resampling.BILINEAR).convert(mode)
        picture.save(path, **({"format": "JPEG"} if path.suffix == ".JPEG" else {}), **options)
        return path

    return make
