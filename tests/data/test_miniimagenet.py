from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evolve.core.errors import DataError, UserError
from evolve.core.settings import DataSettings
from evolve.data import photos
from evolve.data.pickles import Reader, Refused, load_arrays
from evolve.data.sources import ImageSet, load_images
from evolve.data.splits import make_splits

CLASSES = {"train": ("n03", "n01", "n05"), "val": ("n02",), "test": ("n06", "n04")}
ORDER = ("n01", "n03", "n05", "n02", "n04", "n06")  # by role, then by name
DATA = DataSettings(source="miniimagenet", size=16, split=(3, 1, 2))
TEN = 12  # photos a class: ten to train on, the last sixth to test with


def name_of(wnid: str, number: int) -> str:
    return f"{wnid}{number:08d}.jpg"


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[..., Path]) -> Path:
    """Six classes of twelve photos in the Ravi-Larochelle layout; the lines of the tables stand in
    no order.
    """
    root = tmp_path / "mini"
    for place, wnid in enumerate(ORDER):
        for number in range(TEN):
            photo(root / "images" / name_of(wnid, number), 100 * place + number, (21, 16))
    for part, wnids in CLASSES.items():
        rows = [f"{name_of(wnid, number)},{wnid}" for wnid in wnids for number in range(TEN)]
        (root / f"{part}.csv").write_text(
            "\n".join(["filename,label", *np.random.default_rng(0).permutation(rows)]) + "\n"
        )
    return root


def pixels_of(place: int) -> np.ndarray:
    """Twelve images of a class, uint8 [12, 16, 16, 3]."""
    return np.random.default_rng(place).integers(0, 256, (TEN, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """The same six classes in the .pkl layout, each file in another protocol; rows of a class do
    not stand together.
    """
    root = tmp_path / "pickled"
    root.mkdir()
    for protocol, (part, wnids) in zip((2, 4, 5), CLASSES.items(), strict=True):
        order = np.random.default_rng(protocol).permutation(TEN * len(wnids))
        images = np.concatenate([pixels_of(ORDER.index(wnid)) for wnid in wnids])[np.argsort(order)]
        rows: dict[str, Any] = {
            wnid: order[TEN * place : TEN * (place + 1)] for place, wnid in enumerate(wnids)
        }
        rows = {
            wnid: places if part == "test" else list(places) if part == "val" else places.tolist()
            for wnid, places in rows.items()
        }
        (root / f"mini-imagenet-cache-{part}.pkl").write_bytes(
            pickle.dumps({"image_data": images, "class_dict": rows}, protocol)
        )
    return root


def load(where: Path, tmp_path: Path, data: DataSettings = DATA) -> ImageSet:
    return load_images(data, where, tmp_path / "cache")


def error_of(where: Path, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(where, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_folder_s_classes_photos_and_hold_out(folder: Path, tmp_path: Path):
    images = load(folder, tmp_path)
    assert images.class_names == ORDER
    assert (
        np.bincount(images.labels[~images.is_test]).tolist() == [10] * 6
        and np.bincount(images.labels[images.is_test]).tolist() == [2] * 6
    )
    for label, wnid in enumerate(ORDER):
        for test, numbers in ((False, range(10)), (True, range(10, 12))):
            expected = [
                photos.decode(folder / "images" / name_of(wnid, number), 16).transpose(2, 0, 1)
                for number in numbers
            ]
            assert np.array_equal(
                images.images[(images.labels == label) & (images.is_test == test)],
                np.stack(expected),
            )


def test_the_pickles_classes_photos_and_hold_out(pickled: Path, tmp_path: Path):
    images = load(pickled, tmp_path)
    assert images.class_names == ORDER
    for label in range(6):
        for test, rows in ((False, slice(0, 10)), (True, slice(10, 12))):
            expected = pixels_of(label)[rows].transpose(0, 3, 1, 2)
            assert np.array_equal(
                images.images[(images.labels == label) & (images.is_test == test)], expected
            )
    assert load(pickled, tmp_path, replace(DATA, size=8)).images.shape == (72, 3, 8, 8)


@pytest.mark.parametrize("kind", ["folder", "pickled"])
def test_the_source_s_own_split_is_the_default(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    images = load(request.getfixturevalue(kind), tmp_path)
    splits = make_splits(DATA, images)
    named = [
        tuple(images.class_names[i] for i in ids)
        for ids in (splits.ancestor, splits.condense, splits.descend)
    ]
    assert named == [("n01", "n03", "n05"), ("n02",), ("n04", "n06")]


def test_fewer_classes_are_drawn_within_their_role_and_listed_ones_win(
    folder: Path, tmp_path: Path
):
    images = load(folder, tmp_path)
    drawn = {
        seed: make_splits(replace(DATA, split=(2, 1, 1), split_seed=seed), images)
        for seed in range(6)
    }
    assert all(
        set(s.ancestor) < {0, 1, 2} and s.condense == (3,) and set(s.descend) < {4, 5}
        for s in drawn.values()
    )
    assert len(set(drawn.values())) > 1
    listed = make_splits(
        replace(DATA, ancestor_classes=(5,), condense_classes=(0, 1), descend_classes=(3,)), images
    )
    assert (listed.ancestor, listed.condense, listed.descend) == ((5,), (0, 1), (3,))
    with pytest.raises(
        UserError,
        match=r"data.split asks for 4 classes \(ancestor 4\), but miniimagenet's own split has 3",
    ):
        make_splits(replace(DATA, split=(4, 1, 2)), images)


def test_images_per_class_leave_the_test_images_alone(folder: Path, tmp_path: Path):
    everything, few = (
        load(folder, tmp_path),
        load(folder, tmp_path, replace(DATA, images_per_class=4)),
    )
    assert np.bincount(few.labels[~few.is_test]).tolist() == [4] * 6
    assert np.array_equal(few.images[few.is_test], everything.images[everything.is_test])
    train = {image.tobytes() for image in everything.images[~everything.is_test]}
    assert {image.tobytes() for image in few.images[~few.is_test]} < train


def test_nothing_there_names_both_distributions(tmp_path: Path, folder: Path):
    line = error_of(tmp_path / "nowhere", tmp_path)
    assert (
        str(tmp_path / "nowhere") in line
        and "train.csv" in line
        and "mini-imagenet-cache-train.pkl" in line
        and "--data" in line
    )
    (folder / "val.csv").unlink()
    assert (
        "val.csv" in error_of(folder, tmp_path)
        and "train.csv," not in error_of(folder, tmp_path).split("missing")[0]
    )


def test_a_missing_or_broken_photo_is_named(folder: Path, tmp_path: Path):
    path = folder / "images" / name_of("n05", 3)
    path.write_bytes(path.read_bytes()[:300])
    assert str(path) in error_of(folder, tmp_path)
    path.unlink()
    assert str(path) in error_of(folder, tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("only-a-name.jpg,", "line 2"),
        ("../../etc/x.jpg,n01", "line 2"),
        ("/etc/x.jpg,n01", "line 2"),
        ("x\x01.jpg,n01", "line 2"),
        (f"{name_of('n02', 0)},n02", "1 photograph"),
        (f"{name_of('n01', 0)},n01\n{name_of('n01', 1)},n01", "two of the parts"),
        ("", "has no class"),
    ],
)
def test_a_table_that_does_not_fit_is_named(line: str, words: str, folder: Path, tmp_path: Path):
    (folder / "val.csv").write_text(f"filename,label\n{line}\n")
    message = error_of(folder, tmp_path)
    assert words in message and str(folder) in message


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("train", f"{name_of('n01', 0)},n01"),
        ("train", f"./{name_of('n01', 0)},n01"),
        ("train", f"{name_of('n01', 0)},n03"),
        ("val", f"{name_of('n01', 0)},n02"),
    ],
)
def test_a_photo_listed_twice_is_refused_and_named(
    part: str, line: str, folder: Path, tmp_path: Path
):
    """Its second place may be among the test images, or in another role."""
    with open(folder / f"{part}.csv", "a") as file:
        file.write(line + "\n")
    message = error_of(folder, tmp_path)
    assert (
        f"{name_of('n01', 0)} is listed twice" in message
        and "n01" in message
        and str(folder) in message
    )


@pytest.mark.parametrize("members", [{"n02": [0, 1, 2, 1]}, {"n02": [0, 1], "n08": [1, 2]}])
def test_a_row_of_the_pickles_listed_twice_is_refused_and_named(
    members: dict[str, list[int]], pickled: Path, tmp_path: Path
):
    file = pickled / "mini-imagenet-cache-val.pkl"
    file.write_bytes(pickle.dumps({"image_data": pixels_of(3), "class_dict": members}))
    assert f"row 1 of {file.name} is listed twice" in error_of(pickled, tmp_path)


def test_a_table_of_other_columns_is_named(folder: Path, tmp_path: Path):
    (folder / "test.csv").write_text("a,b\nx.jpg,n01\n")
    assert "filename,label" in error_of(folder, tmp_path)


class Evil:
    """Pickles as a call of whatever it is given."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", ["alone", "among images"])
def test_a_pickle_that_would_run_something_runs_nothing(
    protocol: int, inside: str, pickled: Path, tmp_path: Path
):
    evil = Evil(os.mkdir, str(tmp_path / "broken-in"))
    content = (
        evil if inside == "alone" else {"image_data": pixels_of(0), "class_dict": {"n02": evil}}
    )
    file = pickled / "mini-imagenet-cache-val.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    line = error_of(pickled, tmp_path)
    assert str(file) in line and "mkdir" in line and "train.csv" in line
    assert not (tmp_path / "broken-in").exists()
    pickle.loads(file.read_bytes())  # the plain one does run it
    assert (tmp_path / "broken-in").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"c_codecs\ndecode\n(S'x'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    ],
)
def test_names_beside_the_arrays_own_are_refused(raw: bytes, tmp_path: Path):
    (tmp_path / "x.pkl").write_bytes(raw)
    with open(tmp_path / "x.pkl", "rb") as file, pytest.raises(Refused):
        Reader().read(file)


def test_python_2_s_pickles_are_read(tmp_path: Path):
    """The commonest copies on the web were written by Python 2: strings of bytes, numpy's old
    module name.
    """
    raw = (
        b"\x80\x02}q\x00(U\x05imageq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        b"(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x04\x00\x01\xfe\xfftbu."
    )
    (tmp_path / "x.pkl").write_bytes(raw)
    assert load_arrays(tmp_path / "x.pkl", "")["image"].tolist() == [[0, 1], [254, 255]]


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"image_data": np.zeros((2, 8, 8, 3), np.float32), "class_dict": {"n02": [0, 1]}},
        {"image_data": np.zeros((2, 8, 8), np.uint8), "class_dict": {"n02": [0, 1]}},
        {"image_data": np.zeros((2, 8, 8, 3), np.uint8)},
        {"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"n02": [0, 2]}},
        {"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"n02": [-1, 0]}},
        {"image_data": np.zeros((2, 8, 8, 3), np.uint8), "class_dict": {"n02": "rows"}},
        {"image_data": np.array([None, 1], dtype=object), "class_dict": {"n02": [0, 1]}},
        None,
    ],
)
def test_contents_that_do_not_fit_are_named(content: object, pickled: Path, tmp_path: Path):
    file = pickled / "mini-imagenet-cache-val.pkl"
    file.write_bytes(b"\x80\x04garbage" if content is None else pickle.dumps(content))
    line = error_of(pickled, tmp_path)
    assert str(file) in line and "train.csv" in line
