from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evolve.core import registry
from evolve.core.errors import UserError
from evolve.core.settings import DataSettings
from evolve.data.cache import Decoded, pixel_digest
from evolve.data.glyphs import draw
from evolve.data.resident import Resident
from evolve.data.sources import fingerprint, hold_out, load_images

SMALL = DataSettings(source="glyphs", size=8, glyph_train=4, glyph_test=2)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def tiny(train: int = 5, test: int = 2) -> Decoded:
    pixels = np.random.default_rng(0).integers(
        0, 256, (3 * (train + test), 8, 8, 3), dtype=np.uint8
    )
    is_test = np.tile(np.repeat([False, True], [train, test]), 3)
    return Decoded(
        pixels,
        np.repeat(np.arange(3), train + test),
        is_test,
        ("a", "b", "c"),
        pixel_digest(pixels),
    )


def test_every_source_can_be_the_descendants_too():
    assert set(registry.names("sources")) >= {
        "glyphs",
        "cifar100",
        "tinyimagenet",
        "imagenet",
        "miniimagenet",
    }
    assert all(callable(registry.find("sources", name)) for name in registry.records("sources"))


def test_loaded_images_are_the_source_s_images(cache_dir: Path):
    images = load_images(SMALL, None, cache_dir)
    assert images.images.shape == (600, 3, 8, 8) and images.images.dtype == np.uint8
    assert np.array_equal(images.images[6:10].transpose(0, 2, 3, 1), draw(1, "train", 8, 0, 4))
    assert images.name == "glyphs" and len(images.class_names) == 100
    assert np.bincount(images.labels).tolist() == [6] * 100 and images.is_test.sum() == 200


def test_loading_again_reads_the_cache_and_has_the_same_fingerprint(cache_dir: Path):
    first = load_images(SMALL, None, cache_dir)
    lines: list[str] = []
    again = load_images(SMALL, None, cache_dir, lines.append)
    assert (
        lines == []
        and again.fingerprint == first.fingerprint
        and isinstance(again.images, np.memmap)
    )


def test_a_resident_shares_the_cache_s_memory(cache_dir: Path):
    images = load_images(SMALL, None, cache_dir)
    assert (
        Resident(images, torch.device("cpu")).images.data_ptr()
        == images.images.__array_interface__["data"][0]
    )


def test_another_size_or_seed_or_count_is_other_content(cache_dir: Path):
    variants = [
        SMALL,
        replace(SMALL, size=9),
        replace(SMALL, glyph_seed=1),
        replace(SMALL, glyph_train=5),
        replace(SMALL, holdout=1),
    ]
    assert len({load_images(data, None, cache_dir).fingerprint for data in variants}) == 5


def test_holdout_moves_that_many_training_images_of_every_class_and_decodes_nothing(
    cache_dir: Path,
):
    plain = load_images(SMALL, None, cache_dir)
    lines: list[str] = []
    held = load_images(replace(SMALL, holdout=3), None, cache_dir, lines.append)
    assert lines == []
    assert (held.is_test | ~plain.is_test).all()
    assert np.bincount(held.labels[held.is_test]).tolist() == [5] * 100


def test_holdout_is_drawn_by_split_seed_and_class():
    first, again, other = (hold_out(tiny(20), 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    per_class = [
        np.flatnonzero(first[tiny(20).labels == class_id]).tolist() for class_id in range(3)
    ]
    assert per_class[0] != per_class[1]


def test_more_holdout_keeps_what_less_held_out():
    assert (hold_out(tiny(20), 7, 0) >= hold_out(tiny(20), 3, 0)).all()


@pytest.mark.parametrize("holdout", [5, 6])
def test_holdout_that_leaves_no_training_image_is_refused(holdout: int):
    with pytest.raises(UserError) as caught:
        hold_out(tiny(5), holdout, 0)
    assert (
        "data.holdout" in str(caught.value)
        and "at most 4" in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert hold_out(tiny(5), 4, 0).sum() == 18


def test_the_fingerprint_sees_a_pixel_a_label_and_a_role():
    plain = tiny()
    pixels = plain.pixels.copy()
    pixels[3, 1, 1, 1] ^= 1
    labels = plain.labels.copy()
    labels[0] = 1
    is_test = plain.is_test.copy()
    is_test[0] = True
    names = {
        fingerprint(plain, plain.is_test, ()),
        fingerprint(replace(plain, digest=pixel_digest(pixels)), plain.is_test, ()),
        fingerprint(replace(plain, labels=labels), plain.is_test, ()),
        fingerprint(plain, is_test, ()),
    }
    assert len(names) == 4
    assert fingerprint(tiny(), tiny().is_test, ()) in names


def test_fingerprints_name_mean_and_std():
    normalised = [((0.5,) * 3, (0.2,) * 3), ((0.5,) * 3, (0.3,) * 3), ((0.4,) * 3, (0.3,) * 3)]
    assert len({fingerprint(tiny(), tiny().is_test, constants) for constants in normalised}) == 3
