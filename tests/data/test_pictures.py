"""Deep pixels and formats, in every source that reads photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evolve.core.errors import DataError
from evolve.data import cifar100_folders, photos, tinyimagenet

DEEP = np.random.default_rng(0).integers(0, 2**16, (32, 32)).astype(np.uint16)
EIGHT = np.round(DEEP / 257).astype(np.uint8)


def read(path: Path) -> list[np.ndarray]:
    """A photo as the sources read it."""
    return [photos.decode(path, 32), tinyimagenet.decode(path.read_bytes(), 32, str(path))]


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_16_bit_grey_is_scaled(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "x.pgm":
        path.write_bytes(b"P5 32 32 65535\n" + DEEP.astype(">u2").tobytes())
    else:
        Image.fromarray(DEEP).save(path)
    for pixels in read(path):
        assert np.array_equal(pixels, np.repeat(EIGHT[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_a_range_that_the_file_does_not_tell_is_refused_by_name(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(DEEP.astype(kind)).save(path)
    with pytest.raises(DataError, match=f"{path}.*8 bits a channel and 16-bit grey"):
        photos.decode(path, 32)
    with pytest.raises(DataError, match=r"x\.tif.*8 bits a channel and 16-bit grey"):
        tinyimagenet.decode(path.read_bytes(), 32, "x.tif")


def test_a_tiff_whose_zero_is_white_is_refused(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "x.tif", tiffinfo={262: 0})
    with pytest.raises(DataError, match="black is 0"):
        photos.decode(tmp_path / "x.tif", 32)


def test_a_drawing_under_another_suffix_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would have Ghostscript draw it."""
    drawn = io.BytesIO()
    Image.fromarray(EIGHT).convert("RGB").save(drawn, "EPS")
    path = tmp_path / "x.jpg"
    path.write_bytes(drawn.getvalue())
    started: list[object] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **_: started.append(given))
    for decode in (
        lambda: photos.decode(path, 32),
        lambda: tinyimagenet.decode(path.read_bytes(), 32, "x.jpg"),
        lambda: cifar100_folders.decode(path.read_bytes(), "x.jpg"),
    ):
        with pytest.raises(DataError, match=r"x\.jpg.*none of JPEG"):
            decode()
    assert not started
