"""Opens a picture file: the formats that are read, and how deeper pixels become 8-bit RGB.

The list of formats is fixed. Pillow would ask every decoder that it has, and some of them (EPS)
start another program.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
BITS, PHOTOMETRIC, BLACK_IS_ZERO = 258, 262, 1  # TIFF's tags, and the value of the second


def open_picture(file: Path | IO[bytes]) -> Any:
    """A Pillow image of one of :data:`FORMATS`, not decoded yet.

    Args:
        file: a path, or the bytes.

    Raises:
        ValueError: it has another format.
        OSError: it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(FORMATS)}") from None


def as_rgb(image: Any) -> Any:
    """A Pillow image as 8-bit RGB.

    16-bit grey is divided by 257, so that white stays white; Pillow's own conversion would cut it
    at 255.

    Raises:
        ValueError: its pixels have a range that the file does not tell.
    """
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image.convert("RGB")
    if not _is_16_bit_grey(image):
        raise ValueError(
            f"its pixels are {image.mode} of a {image.format}; 8 bits a channel and 16-bit grey "
            "(black is 0) are read"
        )
    grey = (np.asarray(image).astype(np.uint32) + 128) // 257
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _is_16_bit_grey(image: Any) -> bool:
    """Whether the pixels go from black, 0, to white, 65535."""
    if image.format == "TIFF":
        tags = image.tag_v2
        plain = tags.get(BITS) == (16,) and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO
        return plain and bool(image.mode.startswith("I;16"))
    return image.format in ("PNG", "PPM") and image.mode != "F"
