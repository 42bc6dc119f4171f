"""What of a folder counts as a class or a photograph."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data import imagenet
from evolve.data.members import FolderFiles
from evolve.data.photos import photos_below
from evolve.data.sources import ImageSet, load_images

DATA = DataSettings(source="imagenet", size=16)


@pytest.fixture
def root(tmp_path: Path, photo: Callable[..., Path]) -> Path:
    """Two classes of three training and one test photos."""
    for place, name in enumerate("ab"):
        for number in range(3):
            photo(tmp_path / f"set/train/{name}/{number}.JPEG", 10 * place + number)
        photo(tmp_path / f"set/val/{name}/9.JPEG", 100 + place)
    return tmp_path / "set"


def load(root: Path, tmp_path: Path) -> ImageSet:
    return load_images(DATA, root, tmp_path / "cache", lambda line: None)


def loops(root: Path) -> None:
    (root / "train/a/latest").symlink_to(".")
    (root / "train/a/deep").mkdir()
    for name in ("one", "two"):
        (root / f"train/a/deep/{name}").symlink_to("..")


def held_out(root: Path) -> None:
    (root / "train/a/more").symlink_to("../../val/a")
    (root / "train/a/other").symlink_to("../b")


def rubbish(root: Path) -> None:
    for name in ("train/a/.ipynb_checkpoints", "train/__MACOSX", "train/a/__MACOSX/b", "val/.x"):
        (root / name).mkdir(parents=True)
        (root / name / "0-copy.JPEG").write_bytes((root / "train/a/0.JPEG").read_bytes())
    (root / "train/a/._0.JPEG").write_bytes(b"AppleDouble")


def no_files(root: Path) -> None:
    os.mkfifo(root / "train/a/x.jpg")
    os.mkfifo(root / "val.csv")


@pytest.mark.parametrize("change", [loops, held_out, rubbish, no_files])
def test_what_is_no_photograph_changes_nothing(
    change: Callable[[Path], None], root: Path, tmp_path: Path
) -> None:
    before = load(root, tmp_path)
    names = sorted(FolderFiles(root, ("train", "val")).names())
    change(root)
    after = load(root, tmp_path)
    assert after.fingerprint == before.fingerprint and after.class_names == ("a", "b")
    assert sorted(FolderFiles(root, ("train", "val")).names()) == names


def test_a_class_may_be_a_link_and_the_order_is_by_folder(root: Path, tmp_path: Path) -> None:
    before = load(root, tmp_path)
    (root / "train/a").rename(tmp_path / "elsewhere")
    (root / "train/a").symlink_to(tmp_path / "elsewhere")
    assert load(root, tmp_path).fingerprint == before.fingerprint
    (root / "train/b/x").mkdir()
    (root / "train/b/1.JPEG").rename(root / "train/b/x/0.JPEG")
    assert photos_below(root / "train/b") == ["0.JPEG", "2.JPEG", "x/0.JPEG"]


def test_class_folders_without_photos_are_named(root: Path, tmp_path: Path) -> None:
    (root / "train/c").mkdir()
    (root / "train/d").symlink_to("a")
    with pytest.raises(DataError, match=r"train: 2 of 4 class folders have no photos \(c, d\)"):
        load(root, tmp_path)
    (root / "train/c").rmdir()
    (root / "train/d").unlink()
    (root / "val/b/9.JPEG").unlink()
    with pytest.raises(DataError, match=r"val: 1 of 2 class folders have no photos \(b\)"):
        load(root, tmp_path)


def test_all_bad_files_are_counted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train/a/1.JPEG", "train/b/0.JPEG", "val/b/9.JPEG"):
        (root / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"a/1\.JPEG is not.*first of 3 files"):
        load(root, tmp_path)
    monkeypatch.setattr("evolve.data.photos.BLOCK", 2)
    monkeypatch.setattr("evolve.data.photos.LOOKED_AT", 3)
    with pytest.raises(DataError, match=r"a/1\.JPEG is not.*first of 2 files.*4 after it looked"):
        load(root, tmp_path)


def test_a_folder_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: Path) -> object:
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="train/b cannot be read"):
        imagenet.prepare(DATA, root)
