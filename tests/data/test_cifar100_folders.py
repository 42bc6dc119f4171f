"""CIFAR-100 as class folders. The images are made here, three of each of the 100 classes."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data import cifar100
from evolve.data import cifar100_folders as folders
from evolve.data.sources import ImageSet, load_images
from evolve.data.splits import CIFAR_FS

COUNTS = {"train": 2, "test": 1}
Members = dict[str, bytes]  # contents of files by their names


def pixels(seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def whole() -> Members:
    """A complete set; image n, in the order in which they are read, has the pixels of seed n."""
    names = [
        f"{top}/{name}/{name}_s_{number:06d}.png"
        for top, count in COUNTS.items()
        for name in folders.CLASSES
        for number in range(count)
    ]
    return {name: encoded(Image.fromarray(pixels(seed))) for seed, name in enumerate(names)}


@pytest.fixture
def members(whole: Members, monkeypatch: pytest.MonkeyPatch) -> Members:
    """``whole``, to be changed; so many images a class are right, and nothing can be downloaded."""
    monkeypatch.setattr(folders, "COUNTS", COUNTS)
    monkeypatch.setattr(cifar100, "URL", "http://127.0.0.1:9/never")
    return dict(whole)


def unpacked(members: Members, root: Path) -> Path:
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def zipped(members: Members, path: Path, top: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members, reverse=True):
            archive.writestr(top + name, members[name])
    return path


def load(where: Path, tmp_path: Path, size: int = 32) -> ImageSet:
    return load_images(DataSettings(source="cifar100", size=size), where, tmp_path / "cache")


def error_of(where: Path, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(where, tmp_path)
    line = str(caught.value)
    assert "\n" not in line and str(where) in line and "cannot download" not in line
    return line


def test_the_names_in_their_order_are_the_labels_of_the_authors_split():
    assert len(set(folders.CLASSES)) == 100 and list(folders.CLASSES) == sorted(folders.CLASSES)
    test_classes = (
        "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail "
        "sweet_pepper table telephone wardrobe whale woman worm"
    )
    assert [folders.CLASSES[place] for place in CIFAR_FS["descend"]] == test_classes.split()


def test_images_labels_and_roles_are_those_of_the_folders(members: Members, tmp_path: Path):
    images = load(zipped(members, tmp_path / "any name.zip"), tmp_path)
    expected = np.stack([pixels(seed) for seed in range(300)]).transpose(0, 3, 1, 2)
    assert np.array_equal(images.images, expected)
    assert images.labels.tolist() == [n // 2 for n in range(200)] + list(range(100))
    assert images.is_test.tolist() == [False] * 200 + [True] * 100
    assert images.class_names == folders.CLASSES
    assert (images.mean, images.std) == (cifar100.MEAN, cifar100.STD)
    assert images.roles is None


def test_folder_and_zip_wherever_they_lie_are_the_same_images(members: Members, tmp_path: Path):
    for name in list(members)[::30]:
        members[os.path.dirname(name) + "/.DS_Store"] = b"hidden"
    members |= {"train/.cache/a.png": b"", "train/.ipynb_checkpoints/b.png": b""}
    junk = {"test/apple/._apple_s_000000.png": b"", "train/apple/apple_s_000000.png": b""}
    packed = {f"cifar100/{name}": content for name, content in members.items()}
    packed |= {f"__MACOSX/cifar100/{name}": content for name, content in junk.items()}
    around = zipped(members, tmp_path / "around" / "cifar100.zip").parent
    places = [
        unpacked(members, tmp_path / "folder"),
        unpacked(members, tmp_path / "data" / "cifar100").parent,
        unpacked(members, tmp_path / "cifar-100-python"),
        around,
        around / "cifar100.zip",
        zipped(packed, tmp_path / "wrapped.ZIP"),
    ]
    assert len({load(place, tmp_path).fingerprint for place in places}) == 1


def test_the_archive_is_another_set_of_images(members: Members, tmp_path: Path):
    data = DataSettings(source="cifar100", size=32)
    archive = cifar100.prepare(data, tmp_path / "nothing there")
    places = unpacked(members, tmp_path / "folder"), zipped(members, tmp_path / "a.zip")
    for place in places:
        prepared = cifar100.prepare(data, place)
        assert prepared.identity != archive.identity
        assert (prepared.mean, prepared.std) == (archive.mean, archive.std)


def test_an_official_archive_beside_class_folders_wins(members: Members, tmp_path: Path):
    place = unpacked(members, tmp_path / "both")
    (place / cifar100.ARCHIVE).touch()
    prepared = cifar100.prepare(DataSettings(source="cifar100", size=32), place)
    assert prepared.identity["md5"] == cifar100.MD5


def test_a_changed_folder_is_read_again(members: Members, tmp_path: Path):
    place = unpacked(members, tmp_path / "folder")
    before = load(place, tmp_path).fingerprint
    (place / "test/worm/worm_s_000000.png").write_bytes(encoded(Image.fromarray(pixels(999))))
    assert load(place, tmp_path).fingerprint != before


def test_another_size_is_resized_from_32_pixels(members: Members, tmp_path: Path):
    small = load(zipped(members, tmp_path / "a.zip"), tmp_path, size=16).images
    expected = Image.fromarray(pixels(7)).resize((16, 16), Image.Resampling.BILINEAR)
    assert small.shape == (300, 3, 16, 16)
    assert np.array_equal(small[7].transpose(1, 2, 0), np.asarray(expected))


def test_the_split_behind_another_source_is_the_authors(members: Members, tmp_path: Path):
    data = DataSettings(
        source="glyphs", descend_source="cifar100", size=32, glyph_train=1, glyph_test=1
    )
    both = load_images(data, zipped(members, tmp_path / "a.zip"), tmp_path / "cache")
    expected = {role: [100 + label for label in CIFAR_FS[role]] for role in ("condense", "descend")}
    assert both.roles == expected


def test_the_official_counts_are_asked_for():
    names = [
        f"{top}/{name}/{number}.png"
        for top, count in (("train", 500), ("test", 100))
        for name in folders.CLASSES
        for number in range(count)
    ]
    assert not [*folders.wrong_counts(folders.by_class(names, folders.COUNTS), folders.COUNTS)]
    lacking = folders.by_class(names[1:-1], folders.COUNTS)
    assert [*folders.wrong_counts(lacking, folders.COUNTS)] == [
        "train/apple/ has 499 images, not 500",
        "test/worm/ has 99 images, not 100",
    ]


def without(start: str) -> Callable[[Members], Members]:
    return lambda old: {name: raw for name, raw in old.items() if not name.startswith(start)}


def renamed(old: str, new: str) -> Callable[[Members], Members]:
    return lambda members: {name.replace(old, new): raw for name, raw in members.items()}


WRONG = {
    "missing class": (without("train/bear/"), "train/ lacks 1 of 100 classes (bear);"),
    "missing classes": (
        without("test/b"),
        "test/ lacks 13 of 100 classes (baby, bear, beaver, ...);",
    ),
    "unknown class": (
        renamed("test/aquarium_fish/", "test/aquarium fish/"),
        "test/ lacks 1 of 100 classes (aquarium_fish); "
        "test/ has 1 of names that CIFAR-100 has not (aquarium fish);",
    ),
    "one too few": (
        without("train/worm/worm_s_000001"),
        "train/worm/ has 1 images, not 2;",
    ),
    "too many": (
        lambda members: members | {"test/cup/a.png": b"", "test/sea/Thumbs.db": b""},
        "test/cup/ has 2 images, not 1 (the first of 2 such classes);",
    ),
    "no test": (without("test/"), "test/"),
    "another set": (
        lambda members: {"train/n01/images/0.png": b"", "val/images/1.png": b""},
        "",
    ),
    "empty": (lambda members: {}, ""),
}


@pytest.mark.parametrize("change, words", WRONG.values(), ids=WRONG.keys())
def test_what_is_missing_or_too_much_is_said(
    change: Callable[[Members], Members], words: str, members: Members, tmp_path: Path
):
    line = error_of(zipped(change(members), tmp_path / "a.zip"), tmp_path)
    assert words in line and "train/<class>/*" in line
    if change(members) and words:
        assert words in error_of(unpacked(change(members), tmp_path / "folder"), tmp_path)


IMAGE = Image.fromarray(pixels(1))
ROTATED = Image.Exif()
ROTATED[folders.ORIENTATION] = 6
TWO = {"save_all": True, "append_images": [IMAGE.rotate(90)]}
BAD = {
    "too small": (encoded(IMAGE.resize((31, 32))), "31x32"),
    "too large": (encoded(IMAGE.resize((64, 64))), "64x64"),
    "text": (b"no image", "none of JPEG"),
    "empty": (b"", "none of JPEG"),
    "cut": (encoded(IMAGE)[:500], "truncated"),
    "animated PNG": (encoded(IMAGE, **TWO), "2 frames"),
    "animated WebP": (encoded(IMAGE, "WEBP", **TWO), "2 frames"),
    "animated GIF": (encoded(IMAGE, "GIF", **TWO), "2 frames"),
    "two pages": (encoded(IMAGE, "TIFF", **TWO), "2 frames"),
    "CMYK": (encoded(IMAGE.convert("CMYK"), "TIFF"), "CMYK"),
    "16 bits": (encoded(Image.fromarray(np.full((32, 32), 300, np.uint16))), "I;16"),
    "see-through": (encoded(Image.new("RGBA", (32, 32), (1, 2, 3, 254))), "transparent"),
    "a palette's": (encoded(IMAGE.quantize(9), transparency=3), "transparent"),
    "rotated": (encoded(IMAGE, "JPEG", exif=ROTATED), "rotated"),
    "drawn": (encoded(IMAGE, "EPS"), "none of JPEG"),
}


@pytest.mark.parametrize("raw, words", BAD.values(), ids=BAD.keys())
def test_what_is_no_still_image_of_32_pixels_is_refused(raw: bytes, words: str):
    with pytest.raises(DataError) as caught:
        folders.decode(raw, "the file")
    line = str(caught.value)
    assert line.startswith("the file ") and words in line and "\n" not in line


def test_the_first_bad_file_is_named_and_all_are_counted(members: Members, tmp_path: Path):
    members["test/apple/apple_s_000000.png"] = b"broken"
    members["train/bed/bed_s_000001.png"] = encoded(IMAGE.resize((30, 32)))
    place = unpacked(members, tmp_path / "folder")
    line = error_of(place, tmp_path)
    assert "train/bed/bed_s_000001.png" in line and "first of 2 files" in line
    (place / "train/bed/bed_s_000001.png").write_bytes(encoded(IMAGE))
    line = error_of(place, tmp_path)
    assert "test/apple/apple_s_000000.png" in line and "first of" not in line
    (place / "test/apple/apple_s_000000.png").write_bytes(encoded(IMAGE))
    assert np.array_equal(load(place, tmp_path).images[200].transpose(1, 2, 0), pixels(1))


def test_a_damaged_member_of_the_zip_is_named(members: Members, tmp_path: Path):
    archive = zipped(members, tmp_path / "a.zip")
    with zipfile.ZipFile(archive) as reader:
        offset = reader.getinfo("test/fox/fox_s_000000.png").header_offset
    content = bytearray(archive.read_bytes())
    content[offset + 200] ^= 0xFF
    archive.write_bytes(bytes(content))
    assert "test/fox/fox_s_000000.png is damaged" in error_of(archive, tmp_path)


def test_two_sets_in_a_zip_are_not_mixed(members: Members, tmp_path: Path):
    both = {f"{top}/{name}": raw for top in ("old", "new") for name, raw in members.items()}
    assert "twice" in error_of(zipped(both, tmp_path / "a.zip"), tmp_path)


def test_nothing_is_downloaded_to_what_is_another_layout(members: Members, tmp_path: Path):
    data = unpacked(members, tmp_path / "data" / "folder").parent
    (data / "notes.zip").write_text("no zip")
    (data / "lonely" / "train" / "apple").mkdir(parents=True)
    (data / "untrained" / "test").mkdir(parents=True)
    before = set(data.rglob("*"))
    for name, words in {
        "notes.zip": "not a whole zip",
        "nowhere.zip": "No such file",
        "nowhere.tar.gz": "No such file",
        "lonely": "none called test/",
        "untrained": "none called train/",
        "folder/train": "not below train/ and test/",
    }.items():
        assert words in error_of(data / name, tmp_path)
    assert set(data.rglob("*")) == before


LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "PPM": {},
    "TIFF": {},
}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(LOSSLESS)),
    step=st.integers(1, 255),
)
def test_any_lossless_format_gives_the_pixels(seed: int, kind: str, step: int):
    exact = pixels(seed) // step * step  # few colours or many
    raw = encoded(Image.fromarray(exact), kind, **LOSSLESS[kind])
    assert np.array_equal(folders.decode(raw, "the file"), exact)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_any_way_to_write_an_opaque_image_gives_its_colours(mode: str):
    image = IMAGE.convert(mode)
    assert np.array_equal(folders.decode(encoded(image), "the file"), image.convert("RGB"))


def test_a_palette_may_name_a_transparent_colour_that_no_pixel_has():
    image = Image.fromarray(pixels(1) // 128 * 255).quantize(8)
    assert 200 not in np.asarray(image)
    raw = encoded(image, transparency=200)
    assert np.array_equal(folders.decode(raw, "the file"), image.convert("RGB"))
