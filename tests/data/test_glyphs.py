from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font

from evolve.data import glyphs
from evolve.data.glyphs import CHARACTERS, FONTS, draw, draw_all

CODE = (
    "import hashlib, sys; from evolve.data.glyphs import draw; print(hashlib.sha256(draw(3, "
    "'train', 32, 5, 4).tobytes()).hexdigest())"
)


def test_there_are_100_distinct_characters_and_every_font_has_them():
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 100
    for font in FONTS:
        charmap = FT2Font(f"{get_data_path()}/fonts/ttf/{font}.ttf").get_charmap()
        assert [character for character in CHARACTERS if ord(character) not in charmap] == []


@pytest.mark.parametrize("font", range(len(FONTS)))
def test_no_two_characters_look_alike_in_a_font(font: int):
    shapes = []
    for class_id in range(100):
        stencil = np.asarray(
            glyphs._stencil(class_id, font, 64).resize((24, 24)), np.float64
        ).ravel()
        shapes.append((stencil - stencil.mean()) / stencil.std())
    likeness = np.array(shapes) @ np.array(shapes).T / 24**2
    np.fill_diagonal(likeness, 0)
    first, second = np.unravel_index(likeness.argmax(), likeness.shape)
    assert likeness.max() < 0.93, f"{CHARACTERS[first]} and {CHARACTERS[second]}"


def test_classes_roles_and_labels_are_counted_right():
    decoded = draw_all(16, 0, 3, 2, classes=range(4))
    assert decoded.pixels.shape == (20, 16, 16, 3) and decoded.pixels.dtype == np.uint8
    assert decoded.labels.tolist() == np.repeat(range(4), 5).tolist()
    assert decoded.is_test.tolist() == [False, False, False, True, True] * 4
    assert (
        decoded.class_names[0] == "latin capital letter a"
        and len(set(draw_all(8, 0, 1, 1).class_names)) == 100
    )


def test_every_image_is_another_and_differs_by_role_and_seed():
    sets = [draw(7, role, 16, seed, 20) for role in ("train", "test") for seed in (0, 1)]
    assert len({image.tobytes() for images in sets for image in images}) == 80


def test_more_images_extend_fewer():
    assert np.array_equal(draw(7, "train", 16, 0, 9)[:4], draw(7, "train", 16, 0, 4))


def test_another_process_draws_the_same_bytes_and_global_state_does_not_matter():
    lines = {
        subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    torch.manual_seed(1)
    import hashlib

    assert lines == {hashlib.sha256(draw(3, "train", 32, 5, 4).tobytes()).hexdigest() + "\n"}


def test_the_stated_mean_and_std_are_the_images():
    pixels = (
        np.concatenate(
            [draw(class_id, "train", 32, 0, 40) for class_id in range(0, 100, 4)]
        ).reshape(-1, 3)
        / 255
    )
    np.testing.assert_allclose(pixels.mean(0), glyphs.MEAN, atol=0.02)
    np.testing.assert_allclose(pixels.std(0), glyphs.STD, atol=0.02)


@pytest.mark.parametrize("size", [8, 21, 64])
def test_any_size_can_be_drawn(size: int):
    images = draw(60, "test", size, 0, 6)
    assert images.shape == (6, size, size, 3) and images.std(axis=(1, 2)).min() > 0


def test_the_glyph_is_there_to_be_seen():
    """With the same draws of everything else, two characters differ in many pixels of every
    image.
    """
    pose = glyphs._uniform(30, 8, 0, 0, "train", "pose")
    first, second = (glyphs._glyph_masks(class_id, pose, 32) for class_id in (0, 33))
    inside = (first > 127).mean(axis=(1, 2))
    assert 0.02 < inside.min() and inside.max() < 0.6
    assert (np.abs(first.astype(int) - second) > 127).sum(axis=(1, 2)).min() > 15
