from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from evolve.core.errors import DataError, UserError
from evolve.core.settings import DataSettings
from evolve.data import imagenet, photos
from evolve.data.sources import ImageSet, load_images

MakePhoto = Callable[..., Path]  # tests/data/conftest.py
FORK = multiprocessing.get_context("fork")
WNIDS = ("n01440764", "n01443537", "n02099601")
DATA = DataSettings(source="imagenet", size=16)


@pytest.fixture
def root(tmp_path: Path, photo: MakePhoto) -> Path:
    """Three classes of six training and two validation photos, as wide as high, wide and high ones
    among them.
    """
    folder = tmp_path / "photos" / "imagenet"
    for place, wnid in enumerate(WNIDS):
        for number in range(6):
            sides = ((24, 18), (18, 31), (16, 16))[number % 3]
            photo(folder / f"train/{wnid}/{wnid}_{number}.JPEG", 10 * place + number, sides)
        for number in range(2):
            photo(
                folder / f"val/{wnid}/ILSVRC2012_val_{1 + 2 * place + number:08d}.JPEG",
                100 + 10 * place + number,
            )
    return folder


def load(
    where: Path, tmp_path: Path, data: DataSettings = DATA, lines: list[str] | None = None
) -> ImageSet:
    return load_images(data, where, tmp_path / "cache", (lines if lines is not None else []).append)


def error_of(where: Path, tmp_path: Path, data: DataSettings = DATA) -> str:
    with pytest.raises(UserError) as caught:
        load(where, tmp_path, data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flatten_val(root: Path) -> list[tuple[str, str]]:
    """Put the validation photos into val/ itself; returns (file name, wnid) of each, in the order
    of the names.
    """
    pairs = sorted((path.name, path.parent.name) for path in (root / "val").rglob("*.JPEG"))
    for name, wnid in pairs:
        (root / "val" / wnid / name).rename(root / "val" / name)
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    return pairs


def torchvision_s(folder: Path, size: int) -> tuple[np.ndarray, list[int], list[str]]:
    """Pixels [N, 3, size, size], labels and classes as the field loads such a folder."""
    steps = [
        transforms.Resize(size, antialias=True),
        transforms.CenterCrop(size),
        transforms.PILToTensor(),
    ]
    dataset = ImageFolder(str(folder), transforms.Compose(steps))
    return (
        np.stack([dataset[place][0].numpy() for place in range(len(dataset))]),
        dataset.targets,
        dataset.classes,
    )


@pytest.mark.parametrize("size", [8, 16, 20])
def test_pixels_labels_and_order_are_torchvision_s(size: int, root: Path, tmp_path: Path):
    images = load(root, tmp_path, replace(DATA, size=size))
    assert images.is_test.tolist() == [False] * 18 + [True] * 6
    for part, folder in ((~images.is_test, root / "train"), (images.is_test, root / "val")):
        pixels, labels, classes = torchvision_s(folder, size)
        assert np.array_equal(images.images[part], pixels)
        assert (
            images.labels[part].tolist() == labels and images.class_names == tuple(classes) == WNIDS
        )
    assert (images.mean, images.std) == (photos.IMAGENET_MEAN, photos.IMAGENET_STD)


def test_the_fingerprint_names_mean_and_std(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another source may read the same pixels and normalise them otherwise; results of the two must
    not meet in a store.
    """
    before = load(root, tmp_path).fingerprint
    monkeypatch.setattr(imagenet, "IMAGENET_MEAN", (0.5, 0.5, 0.5))
    assert load(root, tmp_path).fingerprint != before


def test_odd_photos_are_read_as_torchvision_reads_them(tmp_path: Path, photo: MakePhoto):
    folder = tmp_path / "odd"
    photo(folder / "train/a/grey.JPEG", 1, mode="L")
    photo(folder / "train/a/cmyk.JPEG", 2, mode="CMYK")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees"
    photo(folder / "train/a/turned.JPEG", 3, exif=exif)
    photo(folder / "train/a/palette.PNG", 4, mode="P")
    photo(folder / "train/a/deeper/alpha.png", 5, mode="RGBA")
    photo(folder / "train/a/PNG_CALLED.JPEG", 6).unlink()
    photo(folder / "train/a/called.png", 6).rename(
        folder / "train/a/PNG_CALLED.JPEG"
    )  # ILSVRC-2012 has one such
    (folder / "train/a/notes.txt").write_text("not a photo")
    photo(folder / "val/a/1.webp", 7)
    images = load(folder, tmp_path)
    assert len(images.labels) == 7
    assert np.array_equal(images.images[~images.is_test], torchvision_s(folder / "train", 16)[0])
    assert np.array_equal(images.images[images.is_test], torchvision_s(folder / "val", 16)[0])


def test_the_extensions_are_torchvision_s():
    assert photos.EXTENSIONS == IMG_EXTENSIONS


def test_the_folder_around_and_kaggle_s_layout_are_found(root: Path, tmp_path: Path):
    plain = load(root, tmp_path).fingerprint
    assert load(root.parent, tmp_path).fingerprint == plain  # photos/imagenet
    rows = [f"{Path(name).stem},{wnid} 1 2 3 4 {wnid} 5 6 7 8" for name, wnid in flatten_val(root)]
    kaggle = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    kaggle.parent.mkdir(parents=True)
    root.rename(kaggle)
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text(
        "\n".join(["ImageId,PredictionString", *reversed(rows)])
    )
    assert (
        load(tmp_path / "kaggle", tmp_path).fingerprint
        == load(kaggle, tmp_path).fingerprint
        == plain
    )


@pytest.mark.parametrize("heading", ["", "filename,label\n"])
def test_a_flat_val_is_labelled_by_a_table(heading: str, root: Path, tmp_path: Path):
    plain = load(root, tmp_path).fingerprint
    (root / "val.csv").write_text(
        heading + "\n".join(f"{name},{wnid}" for name, wnid in flatten_val(root))
    )
    assert load(root, tmp_path).fingerprint == plain


def labels_of(images: ImageSet, val: Path) -> dict[str, str]:
    """The class of every photo in val/ that became a test image, by its name there."""
    name_of = {
        photos.decode(path, 16).tobytes(): str(path.relative_to(val))
        for path in val.rglob("*.*")
        if path.suffix in (".png", ".jpg")
    }
    test = np.flatnonzero(images.is_test)
    return {
        name_of[images.images[i].transpose(1, 2, 0).tobytes()]: images.class_names[images.labels[i]]
        for i in test
    }


@pytest.fixture
def flat(tmp_path: Path, photo: MakePhoto) -> Callable[..., Path]:
    """flat(classes, photos in val/, val.csv): a dataset whose val/ is flat, with one training photo
    a class.
    """

    def make(classes: list[str], names: list[str], table: bytes) -> Path:
        root = tmp_path / "flat"
        for number, name in enumerate(
            [*(f"train/{c}/0.png" for c in classes), *(f"val/{name}" for name in names)]
        ):
            photo(root / name, 1000 + number)
        (root / "val.csv").write_bytes(table)
        return root

    return make


@pytest.mark.parametrize("classes", [["dog", "dog house"], ["dog"]])
def test_a_class_with_a_space_in_its_name_is_not_its_first_word(
    classes: list[str], flat: Callable[..., Path], tmp_path: Path
):
    root = flat(classes, ["a.png", "b.png"], b"a.png, dog\nb.png,dog house \n")
    expected = {"a.png": "dog", "b.png": "dog house"}
    assert labels_of(load(root, tmp_path), root / "val") == {
        name: c for name, c in expected.items() if c in classes
    }


def test_photos_with_one_stem_are_told_apart_by_folder_and_suffix(
    flat: Callable[..., Path], tmp_path: Path
):
    expected = {"s1/1.png": "cat", "s2/1.png": "dog", "1.png": "dog", "1.jpg": "cat"}
    root = flat(
        ["cat", "dog"],
        list(expected),
        "".join(f"{name},{c}\n" for name, c in expected.items()).encode(),
    )
    assert labels_of(load(root, tmp_path), root / "val") == expected


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["s1/1.png", "s2/1.png"], "1.png,dog"),
        (["1.jpg", "1.png"], "1,dog"),
        (["a/1.png", "b/1.png"], "c/1.png,dog"),
    ],
)
def test_a_name_that_may_be_two_photos_is_refused(
    names: list[str], line: str, flat: Callable[..., Path], tmp_path: Path
):
    words = error_of(flat(["dog"], names, line.encode()), tmp_path)
    assert (
        "val.csv" in words and all(name in words for name in names) and "folder and suffix" in words
    )


def test_the_first_line_of_a_table_counts_unless_it_is_a_heading(
    flat: Callable[..., Path], tmp_path: Path
):
    root = flat(["cat", "dog"], ["a.png", "b.png"], b"a,cat\nb,dog\n")
    assert labels_of(load(root, tmp_path), root / "val") == {"a.png": "cat", "b.png": "dog"}


@pytest.mark.parametrize("lines", ["a.png,cat\na.png,dog\n", "a.png,cat\na,cat\n"])
def test_a_photo_that_a_table_lists_twice_is_refused(
    lines: str, flat: Callable[..., Path], tmp_path: Path
):
    line = error_of(flat(["cat", "dog"], ["a.png"], lines.encode()), tmp_path)
    assert "a.png is listed twice" in line and "val.csv" in line


@pytest.mark.parametrize(
    "table",
    [b"a.png,cat\n" + b"x" * 140_000 + b",cat\n", b"a.png,caf\xe9\n"],
    ids=["long", "latin-1"],
)
def test_a_table_that_is_no_csv_in_utf_8_is_named(
    table: bytes, flat: Callable[..., Path], tmp_path: Path
):
    line = error_of(flat(["cat"], ["a.png"], table), tmp_path)
    assert "val.csv" in line and "UTF-8" in line and "file name,class" in line


def devkit(root: Path, numbers: list[str]) -> Path:
    """The devkit's two files, with the wnids numbered backwards: its ids are not in the order of
    the wnids.
    """
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    kind = np.dtype([("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    savemat(
        folder / "meta.mat",
        {
            "synsets": np.array(
                [(3, WNIDS[0], "x"), (2, WNIDS[1], "y"), (1, WNIDS[2], "z")], dtype=kind
            )
        },
    )
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(numbers))
    return folder


def test_a_flat_val_is_labelled_by_the_devkit(root: Path, tmp_path: Path):
    pairs = flatten_val(root)
    devkit(root, [str(3 - WNIDS.index(wnid)) for _, wnid in pairs])
    images = load(root, tmp_path)
    for name, wnid in pairs:
        pixels = photos.decode(root / "val" / name, 16).transpose(2, 0, 1)
        place = next(
            i for i in np.flatnonzero(images.is_test) if np.array_equal(images.images[i], pixels)
        )
        assert images.class_names[images.labels[place]] == wnid


def test_a_devkit_that_does_not_fit_is_named(root: Path, tmp_path: Path):
    flatten_val(root)
    folder = devkit(root, ["1", "4"])
    assert "line 2 is '4'" in error_of(root, tmp_path)
    truth = folder / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes(b"1\n\xff\n")
    assert "line 2" in error_of(root, tmp_path)
    truth.write_text("1\n\u00b2\n")  # a digit to str.isdigit, no number to int
    assert "line 2" in error_of(root, tmp_path)
    (folder / "meta.mat").write_bytes(b"not a mat file")
    assert str(folder / "meta.mat") in error_of(root, tmp_path)


def test_what_labels_are_accepted_is_said_where_there_are_none(root: Path, tmp_path: Path):
    rows = flatten_val(root)
    line = error_of(root, tmp_path)
    assert (
        str(root / "val") in line
        and "LOC_val_solution.csv" in line
        and "val.csv" in line
        and "devkit" in line
        and "data.holdout" in line
    )
    (root / "val.csv").write_text("only one column\n")
    assert "line 1" in error_of(root, tmp_path)
    (root / "val.csv").write_text("\n".join(f"{name},n99999999" for name, _ in rows))
    assert "names no photo of a class" in error_of(root, tmp_path)
    (root / "val.csv").write_text(f"gone.JPEG,{WNIDS[0]}\n")
    assert "gone.JPEG" in error_of(root, tmp_path)


def test_holdout_makes_test_images_where_there_are_none(root: Path, tmp_path: Path):
    shutil.rmtree(root / "val")
    images = load(root, tmp_path, replace(DATA, holdout=2))
    assert (
        np.bincount(images.labels[images.is_test]).tolist() == [2, 2, 2]
        and len(images.labels) == 18
    )
    assert "no test images" in error_of(root, tmp_path)


def test_validation_photos_of_other_classes_are_left_out(
    root: Path, tmp_path: Path, photo: MakePhoto
):
    photo(root / "val/n09999999/x.JPEG", 1)
    assert load(root, tmp_path).class_names == WNIDS


def test_missing_and_empty_folders_are_named(root: Path, tmp_path: Path):
    line = error_of(tmp_path / "nowhere", tmp_path)
    assert str(tmp_path / "nowhere") in line and "--data" in line and "train/<class>" in line
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert str(tmp_path / "empty" / "train") in error_of(tmp_path / "empty", tmp_path)
    (tmp_path / "empty" / "train" / "a").mkdir()
    assert "no photos" in error_of(tmp_path / "empty", tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a photo", None], ids=["empty", "text", "half"])
def test_a_broken_photo_is_named_and_nothing_is_remembered(
    content: bytes | None, root: Path, tmp_path: Path
):
    path = root / f"train/{WNIDS[1]}/{WNIDS[1]}_4.JPEG"
    whole = path.read_bytes()
    path.write_bytes(whole[:400] if content is None else content)
    assert str(path) in error_of(root, tmp_path)
    path.write_bytes(whole)
    assert len(load(root, tmp_path).labels) == 24


def test_a_link_to_nothing_is_one_line(root: Path, tmp_path: Path):
    (root / f"train/{WNIDS[1]}/x.JPEG").symlink_to(tmp_path / "gone.JPEG")
    assert "x.JPEG" in error_of(root, tmp_path)


def test_images_per_class_are_nested_draws_of_training_images_by_split_seed(
    root: Path, tmp_path: Path
):
    everything = load(root, tmp_path)
    rows = {}
    for count in (2, 4):
        images = load(root, tmp_path, replace(DATA, images_per_class=count))
        assert (
            np.bincount(images.labels[~images.is_test]).tolist() == [count] * 3
            and images.is_test.sum() == 6
        )
        rows[count] = {image.tobytes() for image in images.images[~images.is_test]}
    assert rows[2] < rows[4] < {image.tobytes() for image in everything.images[~everything.is_test]}
    other = load(root, tmp_path, replace(DATA, images_per_class=2, split_seed=1))
    assert {image.tobytes() for image in other.images[~other.is_test]} != rows[2]
    assert (
        load(root, tmp_path, replace(DATA, images_per_class=6)).fingerprint
        == everything.fingerprint
    )
    assert "imagenet, miniimagenet and imagefolder, not glyphs" in error_of(
        root, tmp_path, DataSettings(source="glyphs", images_per_class=3)
    )


def test_a_changed_folder_is_decoded_again_and_an_equal_one_is_not(
    root: Path, tmp_path: Path, photo: MakePhoto
):
    before = load(root, tmp_path).fingerprint
    lines: list[str] = []
    copied = shutil.copytree(root, tmp_path / "copied")
    assert load(copied, tmp_path, lines=lines).fingerprint == before and lines == []
    photo(root / f"train/{WNIDS[0]}/{WNIDS[0]}_0.JPEG", 777)
    assert load(root, tmp_path).fingerprint != before


def test_of_a_large_folder_about_a_hundred_photos_are_looked_at(tmp_path: Path):
    names = [f"{number:05d}.JPEG" for number in range(5000)]
    for name in names[::50]:
        (tmp_path / name).touch()
    before = photos.identify([(tmp_path, names)])  # the 4,900 that are not there are not asked for
    os.utime(tmp_path / names[50], (1, 1))
    assert photos.identify([(tmp_path, names)]) != before
    with pytest.raises(FileNotFoundError):
        photos.identify([(tmp_path, names[:199])])  # a folder of less than 200 is looked at whole


def test_processes_that_come_at_once_decode_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log = tmp_path / "log"
    plain = photos.open_picture
    monkeypatch.setattr(
        photos, "open_picture", lambda path: [open(log, "a").write(f"{path}\n"), plain(path)][1]
    )

    def child() -> None:
        assert len(load(root, tmp_path).labels) == 24

    children = [FORK.Process(target=child) for _ in range(3)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
    assert [process.exitcode for process in children] == [0] * 3
    assert len(log.read_text().splitlines()) == 24


def test_too_little_room_is_said_in_bytes_before_a_photo_is_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")
    needed = 24 * 16 * 16 * 3
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage(10**6, 10**6 - needed + 1, needed - 1)
    )
    monkeypatch.setattr(photos, "open_picture", lambda path: pytest.fail("decoded"))
    line = error_of(root, tmp_path)
    assert (
        f"{needed} bytes" in line
        and f"{needed - 1} bytes" in line
        and "EVOLVE_CACHE" in line
        and str(tmp_path / "cache") in line
    )
    assert "data.images_per_class" in line
    monkeypatch.undo()
    assert len(load(root, tmp_path).labels) == 24


def test_blocks_are_in_order_whatever_the_threads_and_progress_is_told(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(photos, "BLOCK", 7)
    monkeypatch.setattr(photos, "PATIENCE", 0.0)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    lines: list[str] = []
    blocks = list(
        photos.blocks(range(20), lambda item: np.full((1, 1, 3), item), 100, 120, lines.append)
    )
    assert [len(block) for block in blocks] == [7, 7, 6]
    assert np.concatenate(blocks)[:, 0, 0, 0].tolist() == list(range(20))
    assert [line.split(",")[0] for line in lines] == [
        "decoded 107 of 120 images (89 %)",
        "decoded 114 of 120 images (95 %)",
    ]
    assert all("left" in line for line in lines)


def test_an_error_in_a_thread_comes_out_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch):
    def convert(item: int) -> np.ndarray:
        if item == 3:
            raise DataError("three")
        return np.zeros((1, 1, 3), np.uint8)

    before = threading.active_count()
    with pytest.raises(DataError, match="three"):
        list(photos.blocks(range(2000), convert, 0, 2000, lambda line: None))
    assert threading.active_count() == before
