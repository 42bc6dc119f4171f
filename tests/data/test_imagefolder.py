"""Own photographs in class folders. Fixture ``photo`` makes them (tests/data/conftest.py)."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms
from torchvision.datasets import ImageFolder

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data import imagefolder, imagenet
from evolve.data.members import FolderFiles
from evolve.data.sources import ImageSet, load_images

DATA = DataSettings(source="imagefolder", size=16)
CLASSES = ("bus", "plane", "train")  # the last one is called as a role is
EACH = 6
Members = Mapping[str, bytes]  # contents of files by their names


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory, photo: Callable[..., Path]) -> Members:
    """A plain set: JPEGs and PNGs of several sizes, one of them in a folder of its own."""
    root = tmp_path_factory.mktemp("made")
    for place, name in enumerate(CLASSES):
        for number in range(EACH):
            file = ("a.JPEG", "b.png", "c.jpg", "d.JPEG", "e.PNG", "f/0.png")[number]
            photo(
                root / name / file, 10 * place + number, ((24, 18), (18, 31), (16, 16))[number % 3]
            )
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def unpacked(members: Members, root: Path) -> Path:
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zipped(members: Members, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def load(
    where: Path, tmp_path: Path, data: DataSettings = DATA, lines: list[str] | None = None
) -> ImageSet:
    return load_images(
        data, where, tmp_path / "cache", [].append if lines is None else lines.append
    )


def roles(
    members: Members, tmp_path: Path, data: DataSettings = DATA, test: str = "test"
) -> dict[str, bytes]:
    """The same photographs in train/ and test/, as the plain set divides them."""
    files = FolderFiles(unpacked(members, tmp_path / "plain"), ("",))
    files_by_name = {}
    for own in imagefolder.catalogue(files, 0).train.values():
        for role, names in zip(
            ("train", test),
            imagefolder.held_out(own, files, data.test_share, data.split_seed),
            strict=True,
        ):
            files_by_name |= {f"{role}/{name}": members[name] for name in names}
    return files_by_name


def test_classes_files_and_pixels_are_those_of_torchvision_s_imagefolder(
    members: Members, tmp_path: Path
) -> None:
    root = unpacked(members, tmp_path / "set")
    steps = [transforms.Resize(16, antialias=True), transforms.CenterCrop(16)]
    theirs = ImageFolder(str(root), transforms.Compose([*steps, transforms.PILToTensor()]))
    held = imagefolder.catalogue(FolderFiles(root, ("",)), 0)
    assert list(held.train) == theirs.classes and held.test is None
    assert [str(root / name) for own in held.train.values() for name in own] == [
        path for path, _ in theirs.samples
    ]
    ours = load(root, tmp_path)
    assert ours.class_names == tuple(theirs.classes)
    for place in range(len(CLASSES)):
        pixels = sorted(image.numpy().tobytes() for image, label in theirs if label == place)
        assert (
            sorted(
                map(
                    np.ndarray.tobytes, map(np.ascontiguousarray, ours.images[ours.labels == place])
                )
            )
            == pixels
        )
        assert ours.is_test[ours.labels == place].sum() == 1  # a fifth of six


def test_a_zip_a_folder_around_and_another_place_are_the_same_set(
    members: Members, tmp_path: Path
) -> None:
    plain = load(unpacked(members, tmp_path / "a/set"), tmp_path).fingerprint
    shutil.move(tmp_path / "a/set", tmp_path / "b")
    below = {f"photos/mine/{name}": content for name, content in members.items()}
    (tmp_path / "c").mkdir()
    places = [
        tmp_path / "b",
        zipped(members, tmp_path / "x.zip"),
        zipped(below, tmp_path / "c/imagefolder.zip").parent,
        unpacked(below, tmp_path / "d"),
        unpacked({f"train/{name}": members[name] for name in members}, tmp_path / "e"),
    ]
    assert {load(place, tmp_path).fingerprint for place in places} == {plain}


@pytest.mark.parametrize("test", ["test", "val"])
def test_the_same_photographs_in_train_and_test_folders_are_the_same_set(
    test: str, members: Members, tmp_path: Path
) -> None:
    plain = load(unpacked(members, tmp_path / "set"), tmp_path).fingerprint
    named = roles(members, tmp_path, test=test)
    assert load(unpacked(named, tmp_path / "roles"), tmp_path).fingerprint == plain
    assert load(zipped(named, tmp_path / "roles.zip"), tmp_path).fingerprint == plain
    if test == "test":  # val/ beside it is not read
        more = {f"val/{name}": members["bus/a.JPEG"] for name in members}
        assert load(unpacked(named | more, tmp_path / "both"), tmp_path).fingerprint == plain
    first, second = [name for name in named if name.startswith("train/")][:2]
    changed = named | {first: named[second], second: named[first]}
    assert load(unpacked(changed, tmp_path / "other"), tmp_path).fingerprint != plain


def test_the_share_is_chosen_by_content(members: Members, tmp_path: Path) -> None:
    names = sorted(name for name in members if name.startswith("bus/"))
    copies = {f"{name}.copy.png": members[name] for name in names}
    files = FolderFiles(unpacked({**members, **copies}, tmp_path), ("",))

    def tests(of: list[str], share: float = 0.2, seed: int = 0) -> set[bytes]:
        train, test = imagefolder.held_out(of, files, share, seed)
        assert sorted([*train, *test]) == sorted(of) and train and test
        return {files.read(name) for name in test}

    few = tests(names)
    assert tests(list(reversed(names))) == few == tests(list(copies)) and len(few) == 1
    assert few < tests(names, 0.5) < tests(names, 0.9)
    assert len({frozenset(tests(names, 0.3, seed)) for seed in range(9)}) > 1
    both = [*names, *copies]
    train, test = imagefolder.held_out(both, files, 0.25, 0)
    assert not {files.read(name) for name in train} & {files.read(name) for name in test}


@given(st.integers(2, 10_000), st.floats(0.01, 0.9))
def test_a_share_leaves_images_on_both_sides(count: int, share: float) -> None:
    assert 1 <= imagefolder.share_of(count, share) <= count - 1


def test_share_cap_and_seed_are_other_sets(members: Members, tmp_path: Path) -> None:
    root = unpacked(members, tmp_path / "set")
    variants = {"test_share": 0.5}, {"images_per_class": 2}, {"holdout": 2}, {"size": 8}
    sets = [load(root, tmp_path, replace(DATA, **given)) for given in ({}, *variants)]  # type: ignore[arg-type]
    assert len({images.fingerprint for images in sets}) == len(sets)
    assert [int(images.is_test.sum()) for images in sets] == [3, 9, 3, 9, 3]
    assert [len(images.labels) for images in sets] == [18, 18, 9, 18, 18]


def test_what_is_left_out_is_said(members: Members, tmp_path: Path) -> None:
    more = {"bus/x.heic": b"phone", "notes.txt": b"", "loose.png": b"", "bus/.hidden.png": b""}
    lines: list[str] = []
    changed = load(unpacked({**members, **more}, tmp_path / "set"), tmp_path, lines=lines)
    assert changed.fingerprint == load(unpacked(members, tmp_path / "same"), tmp_path).fingerprint
    assert "3 classes, 20 % of every class's photographs are test images" in lines[0]
    assert "3 files are left out" in lines[1] and "(.heic, .png, .txt)" in lines[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {"x.png": b""}, ["no class folder with photographs"]),
        (lambda m: {**m, "dog/x.heic": b""}, ["1 of 4 class folders have no photos (dog)"]),
        (lambda m: {**m, "dog/x.png": b""}, ["1 of 4 class folders have 1 photograph (dog)", "2"]),
        (lambda m: {**m, "bus/z.png": b"text"}, ["bus/z.png", "not a readable image"]),
        (
            lambda m: {"train/a/0.png": b"", "train/b/0.png": b"", "test/a/0.png": b""},
            ["test: lacks 1 of the 2", "(b)", "data.holdout"],
        ),
        (
            lambda m: {"train/a/0.png": b"", "test/a/0.png": b"", "test/A/0.png": b""},
            ["test: 1 of its class folders are not in train/ (A)"],
        ),
    ],
)
def test_what_cannot_be_a_set_is_said_in_one_line(
    change: Callable[[Members], Members], words: list[str], members: Members, tmp_path: Path
) -> None:
    changed = change(members)
    folder = unpacked(changed, tmp_path / "set")
    for place in (folder, zipped(changed, tmp_path / "set.zip")):
        with pytest.raises(DataError) as caught:
            load(place, tmp_path)
        message = str(caught.value)
        assert "\n" not in message and all(word in message for word in [str(place), *words])


def test_a_place_that_is_not_there_and_an_empty_class_folder(
    members: Members, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"gone: is not there; expected class folders"):
        load(tmp_path / "gone", tmp_path)
    (unpacked(members, tmp_path / "set") / "dog").mkdir()
    with pytest.raises(DataError, match=r"have no photos \(dog\)"):
        load(tmp_path / "set", tmp_path)


def test_counts_are_those_of_the_set(members: Members, tmp_path: Path) -> None:
    data = replace(DATA, test_share=0.4)
    assert imagefolder.counts(data, unpacked(members, tmp_path / "set")) == (3, 4, 2)
    named = roles(members, tmp_path)
    assert imagefolder.counts(data, unpacked(named, tmp_path / "roles")) == (3, 5, 1)
    (tmp_path / "roles/test").rename(tmp_path / "roles/val")
    assert imagenet.counts(data, tmp_path / "roles") == (3, 5, 1)
