from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data.sources import ImageSet, load_images

WNIDS = ("n03000000", "n01000000", "n02000000")
DATA = DataSettings(source="tinyimagenet", size=32)


def photo(path: Path, seed: int, mode: str = "RGB") -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((64, 64)).convert(mode).save(path, "JPEG")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of four training and two validation images, one of them grey, in the official
    layout.
    """
    root = tmp_path / "data" / "tiny-imagenet-200"
    lines = []
    for place, wnid in enumerate(WNIDS):
        for number in range(4):
            photo(
                root / f"train/{wnid}/images/{wnid}_{number}.JPEG",
                10 * place + number,
                "L" if number == 3 else "RGB",
            )
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text("boxes")
        for number in range(2):
            photo(root / f"val/images/val_{place + 3 * number}.JPEG", 100 + 10 * place + number)
            lines.append(f"val_{place + 3 * number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    photo(root / "test/images/test_0.JPEG", 999)
    return root


def zipped(folder: Path, where: Path, top: str = "tiny-imagenet-200/") -> Path:
    where.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(where, "w") as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, top + path.relative_to(folder).as_posix())
    return where


def load(where: Path, tmp_path: Path, data: DataSettings = DATA) -> ImageSet:
    return load_images(data, where, tmp_path / "cache")


def error_of(where: Path, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(where, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_roles_and_pixels_are_the_folder_s(folder: Path, tmp_path: Path):
    images = load(folder, tmp_path)
    assert images.class_names == tuple(sorted(WNIDS))
    assert images.images.shape == (18, 3, 32, 32)
    assert images.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [0, 0, 1, 1, 2, 2]
    assert images.is_test.tolist() == [False] * 12 + [True] * 6
    for place, name in (
        (0, "train/n01000000/images/n01000000_0.JPEG"),
        (16, "val/images/val_0.JPEG"),
        (13, "val/images/val_4.JPEG"),
    ):
        with Image.open(folder / name) as image:
            mean = np.asarray(image, np.float64).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(images.images[place].transpose(1, 2, 0) - mean).max() <= 0.51


def test_grey_photos_become_rgb(folder: Path, tmp_path: Path):
    images = load(folder, tmp_path).images
    assert np.array_equal(images[3, 0], images[3, 2]) and not np.array_equal(
        images[2, 0], images[2, 2]
    )


def test_zip_folder_and_the_folder_around_them_are_the_same_images(folder: Path, tmp_path: Path):
    archive = zipped(folder, tmp_path / "other" / "tiny-imagenet-200.zip")
    bare = zipped(folder, tmp_path / "bare.zip", top="")
    fingerprints = {
        load(where, tmp_path).fingerprint
        for where in (folder, folder.parent, archive, archive.parent, bare)
    }
    assert len(fingerprints) == 1


@pytest.mark.parametrize("size", [16, 40, 64])
def test_any_size(size: int, folder: Path, tmp_path: Path):
    assert load(folder, tmp_path, DataSettings(source="tinyimagenet", size=size)).images.shape == (
        18,
        3,
        size,
        size,
    )


def test_a_changed_folder_is_read_again(folder: Path, tmp_path: Path):
    before = load(folder, tmp_path).fingerprint
    photo(folder / f"train/{WNIDS[0]}/images/{WNIDS[0]}_0.JPEG", 777)
    assert load(folder, tmp_path).fingerprint != before


def test_a_changed_zip_is_read_again(folder: Path, tmp_path: Path):
    archive = zipped(folder, tmp_path / "a.zip")
    before = load(archive, tmp_path).fingerprint
    shutil.rmtree(folder / "train" / WNIDS[0])
    zipped(folder, archive)
    after = load(archive, tmp_path)
    assert after.fingerprint != before and after.class_names == tuple(sorted(WNIDS[1:]))
    assert (
        after.is_test.sum() == 4
    )  # validation images of a class without training images are left out


def test_nothing_there_says_what_to_get_and_where(tmp_path: Path):
    line = error_of(tmp_path / "nowhere", tmp_path)
    assert str(tmp_path / "nowhere") in line and "tiny-imagenet-200.zip" in line and "http" in line


def test_a_folder_without_images_is_named(tmp_path: Path):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert f"{tmp_path / 'empty'}: no training images" in error_of(tmp_path / "empty", tmp_path)


def test_a_truncated_zip_is_named(folder: Path, tmp_path: Path):
    archive = zipped(folder, tmp_path / "a.zip")
    os.truncate(archive, archive.stat().st_size // 2)
    assert str(archive) in error_of(archive, tmp_path)


def test_a_file_that_is_no_zip_is_named(tmp_path: Path):
    (tmp_path / "a.zip").write_text("hello")
    assert str(tmp_path / "a.zip") in error_of(tmp_path / "a.zip", tmp_path)


def test_a_damaged_member_of_the_zip_is_named(folder: Path, tmp_path: Path):
    archive = zipped(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(archive) as reader:
        member = reader.getinfo(f"tiny-imagenet-200/train/{WNIDS[1]}/images/{WNIDS[1]}_2.JPEG")
    content = bytearray(archive.read_bytes())
    content[member.header_offset + 400] ^= 0xFF
    archive.write_bytes(bytes(content))
    line = error_of(archive, tmp_path)
    assert str(archive) in line and f"{WNIDS[1]}_2.JPEG" in line


@pytest.mark.parametrize("content", [b"", b"not a photo", None], ids=["empty", "text", "half"])
def test_a_broken_photo_is_named(content: bytes | None, folder: Path, tmp_path: Path):
    path = folder / f"train/{WNIDS[2]}/images/{WNIDS[2]}_1.JPEG"
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    assert path.name in error_of(folder, tmp_path)


def test_missing_annotations_or_images_they_name_are_named(folder: Path, tmp_path: Path):
    (folder / "val/images/val_4.JPEG").unlink()
    assert "val/images/val_4.JPEG" in error_of(folder, tmp_path)
    (folder / "val/val_annotations.txt").write_text("val_1.JPEG n01000000\n")
    assert "line 1" in error_of(folder, tmp_path)
    (folder / "val/val_annotations.txt").unlink()
    assert "val_annotations.txt" in error_of(folder, tmp_path)


def test_a_failed_decoding_is_not_remembered(folder: Path, tmp_path: Path):
    path = folder / f"train/{WNIDS[2]}/images/{WNIDS[2]}_1.JPEG"
    whole = path.read_bytes()
    path.write_bytes(b"")
    error_of(folder, tmp_path)
    path.write_bytes(whole)
    assert len(load(folder, tmp_path).labels) == 18
