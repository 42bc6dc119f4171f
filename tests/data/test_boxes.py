"""Boxes around objects: Tiny ImageNet's own, and a user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.data.boxes import known_boxes, read_boxes
from evolve.data.photos import decode
from evolve.data.sources import load_images

BOXES = {"n1_0": (0, 10, 63, 59), "n1_1": (8, 0, 15, 7), "n2_0": (32, 32, 63, 63)}
LEFT, TOP = 20, 4  # of a bright rectangle


def tiny_imagenet(root: Path) -> None:
    """Training photos that are black but for their box; n2_1 has none. The test photo is half."""
    for name, box in {**BOXES, "n2_1": None, "val_0": (0, 0, 31, 63)}.items():
        wnid = name.split("_")[0]
        test = wnid == "val"
        folder = root / ("val/images" if test else f"train/{wnid}/images")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((64, 64, 3), np.uint8)
        if box:
            left, top, right, bottom = box
            pixels[top : bottom + 1, left : right + 1] = 255
        Image.fromarray(pixels).save(folder / f"{name}.JPEG", quality=95)
    for wnid in ("n1", "n2"):
        lines = [
            "\t".join([f"{name}.JPEG", *map(str, box)])
            for name, box in BOXES.items()
            if name.startswith(wnid)
        ]
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text("\n".join(lines))
    (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn2\t0\t0\t31\t63\n")


def test_tiny_imagenets_boxes_hold_the_objects_of_the_decoded_photos(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "data")
    data = DataSettings(source="tinyimagenet", size=32)
    images = load_images(data, tmp_path / "data", tmp_path / "cache").images
    boxes = known_boxes(data, tmp_path / "data", range(len(images)), len(images))
    assert sorted(boxes) == [0, 1, 2, 4]
    for place, (left, top, right, bottom) in boxes.items():
        lit = images[place].mean(0) > 128
        expected = np.zeros((32, 32), bool)
        expected[round(top) : round(bottom), round(left) : round(right)] = True
        assert (lit == expected).mean() > 0.97, place


def test_a_second_sources_images_are_counted_behind_the_first(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path / "tinyimagenet")
    data = DataSettings(source="glyphs", descend_source="tinyimagenet", size=64)
    assert known_boxes(data, tmp_path, [100, 104], 100) == {
        100: (0, 10, 64, 60),
        104: (0, 0, 32, 64),
    }
    assert known_boxes(DataSettings(source="glyphs"), tmp_path, [0], 5) == {}


@pytest.mark.parametrize("sides", [(60, 40), (40, 60)])
def test_a_users_box_moves_with_the_photo_into_the_square(
    tmp_path: Path, sides: tuple[int, int]
) -> None:
    pixels = np.zeros((sides[1], sides[0], 3), np.uint8)
    pixels[TOP : TOP + 30, LEFT : LEFT + 10] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    file = tmp_path / "boxes.csv"
    file.write_text(f"image,left,top,right,bottom\na.png,{LEFT},{TOP},{LEFT + 10},{TOP + 30}\n")
    box = read_boxes(file, tmp_path, ["a.png"], 20)["a.png"]
    rows, columns = np.nonzero(decode(tmp_path / "a.png", 20).mean(2) > 128)
    seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(box, seen, atol=0.75)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,left,top\n", "lacks bottom, right"),
        ("image,left,top,right,bottom\nb.png,0,0,1,1\n", "line 2: no image 'b.png'"),
        ("image,left,top,right,bottom\na.png,5,0,1,1\n", "line 2: left, top, right, bottom"),
        ("image,left,top,right,bottom\na.png,0,0,1\n", "line 2: left, top, right, bottom"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        read_boxes(file, tmp_path, ["a.png"], 32)
