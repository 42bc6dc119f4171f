from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from evolve.core.errors import DataError
from evolve.core.settings import DataSettings
from evolve.data import cifar100
from evolve.data.sources import ImageSet, load_images
from evolve.data.splits import CIFAR_FS

DATA = DataSettings(source="cifar100", size=32)


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive of CIFAR-100's format behind a file:// address, with its checksums in place
    of the real ones.
    """
    parts = {
        "train": {"data": images(6, 0).reshape(6, -1), "fine_labels": [0, 1, 2, 0, 1, 2]},
        "test": {"data": images(3, 1).reshape(3, -1), "fine_labels": [2, 1, 0]},
        "meta": {"fine_label_names": ["apple", "bear", "clock"]},
    }
    archive = tmp_path / "server" / cifar100.ARCHIVE
    archive.parent.mkdir()
    md5 = {}
    with tarfile.open(archive, "w:gz") as tar:
        for name, part in parts.items():
            raw = pickle.dumps(part)
            md5[name] = hashlib.md5(raw).hexdigest()
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    whole = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "tgz_md5", whole)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(
        CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]}
    )
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/never")
    monkeypatch.setattr(cifar100, "MD5", whole)
    monkeypatch.setattr(cifar100, "URL", archive.as_uri())
    return archive


def load(tmp_path: Path, size: int = 32, where: str = "data") -> ImageSet:
    return load_images(
        DataSettings(source="cifar100", size=size), tmp_path / where, tmp_path / "cache"
    )


def error_of(tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_constants_are_torchvision_s():
    assert (cifar100.URL, cifar100.ARCHIVE, cifar100.MD5) == (
        CIFAR100.url,
        CIFAR100.filename,
        CIFAR100.tgz_md5,
    )


def test_it_is_downloaded_and_read(served: Path, tmp_path: Path):
    image_set = load(tmp_path)
    assert np.array_equal(image_set.images, np.concatenate([images(6, 0), images(3, 1)]))
    assert image_set.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0]
    assert image_set.is_test.tolist() == [False] * 6 + [True] * 3
    assert image_set.class_names == ("apple", "bear", "clock")
    assert [path.name for path in (tmp_path / "data").glob("*.part")] == []


def test_what_is_cached_needs_neither_file_nor_network(served: Path, tmp_path: Path):
    first = load(tmp_path)
    served.unlink()
    assert load(tmp_path, where="elsewhere").fingerprint == first.fingerprint


def test_another_size_is_resized(served: Path, tmp_path: Path):
    small = load(tmp_path, size=16).images
    assert small.shape == (9, 3, 16, 16)
    means = images(6, 0).reshape(6, 3, -1).mean(-1)
    np.testing.assert_allclose(small[:6].reshape(6, 3, -1).mean(-1), means, atol=6)


def test_an_archive_put_there_by_hand_is_enough(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cifar100, "URL", "http://127.0.0.1:9/never")
    (tmp_path / "data").mkdir()
    served.rename(tmp_path / "data" / served.name)
    assert len(load(tmp_path, where=f"data/{served.name}").labels) == 9


def test_a_damaged_unpacked_file_is_unpacked_again(served: Path, tmp_path: Path):
    (tmp_path / "data" / "cifar-100-python").mkdir(parents=True)
    (tmp_path / "data" / "cifar-100-python" / "train").write_bytes(b"\x80\x04broken")
    assert len(load(tmp_path).labels) == 9


@pytest.mark.parametrize("name", ["cifar-100-python", "renamed"])
def test_the_unpacked_folder_itself_is_read(name: str, served: Path, tmp_path: Path):
    whole = load(tmp_path).fingerprint
    folder = (tmp_path / "data" / "cifar-100-python").rename(tmp_path / name)
    served.unlink()
    assert load_images(DATA, folder, tmp_path / "another cache").fingerprint == whole
    assert load(tmp_path, where="elsewhere").fingerprint == whole  # cached as one set
    assert sorted(path.name for path in folder.iterdir()) == ["meta", "test", "train"]


def test_nothing_is_downloaded_into_an_unpacked_folder(served: Path, tmp_path: Path):
    load(tmp_path)
    folder = tmp_path / "data" / "cifar-100-python"
    (folder / "test").write_bytes(b"\x80\x04broken")
    (folder / "meta").unlink()
    for place in (folder, tmp_path / "not there" / "cifar-100-python"):
        with pytest.raises(DataError, match="missing there or damaged") as caught:
            load_images(DATA, place, tmp_path / "another cache")
        line = str(caught.value)
        assert str(place) in line and "meta" in line and "test" in line and "\n" not in line
        assert ("train" in line) == (place != folder)
    assert sorted(path.name for path in folder.iterdir()) == ["test", "train"]
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/never", "http://no-such-host.invalid/x"])
def test_without_network_the_line_says_which_file_to_put_where(
    address: str, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cifar100, "URL", address)
    line = error_of(tmp_path)
    for word in (cifar100.ARCHIVE, address, cifar100.MD5, str(tmp_path / "data")):
        assert word in line


def test_a_download_that_is_not_the_file_is_refused_and_not_kept(served: Path, tmp_path: Path):
    served.write_bytes(served.read_bytes()[:-9])
    assert "wrong md5" in error_of(tmp_path)
    assert [
        path.name for path in (tmp_path / "data").iterdir() if not path.name.startswith(".")
    ] == []


def test_a_damaged_archive_is_named_and_left_alone(served: Path, tmp_path: Path):
    (tmp_path / "data").mkdir()
    mine = tmp_path / "data" / cifar100.ARCHIVE
    mine.write_bytes(served.read_bytes()[:-9])
    line = error_of(tmp_path)
    assert str(mine) in line and "damaged" in line and mine.exists()


def test_a_data_folder_that_cannot_be_made_is_named(served: Path, tmp_path: Path):
    (tmp_path / "data").write_text("a file")
    line = error_of(tmp_path)
    assert str(tmp_path / "data") in line and "--data" in line


def test_its_split_is_the_authors_where_it_is_only_the_descendants_source(
    served: Path, tmp_path: Path
):
    second = DataSettings(
        source="glyphs", descend_source="cifar100", size=32, glyph_train=1, glyph_test=1
    )
    both = load_images(second, tmp_path / "data", tmp_path / "cache")
    assert both.roles == {
        role: [100 + class_id for class_id in CIFAR_FS[role]] for role in ("condense", "descend")
    }
    assert load(tmp_path).roles is None
