from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evolve.core.errors import DataError
from evolve.data import cache
from evolve.data.cache import Decoded, Prepared, cached

FORK = multiprocessing.get_context("fork")


def sample(seed: int = 0) -> Decoded:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return Decoded(pixels, np.arange(12, dtype=np.int64) % 3, np.arange(12) > 8, ("a", "b", "ü"))


class Source:
    """A source that counts how often it is decoded, in a file, so that other processes count
    too.
    """

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.log, self.seconds = folder / "decoded.log", seconds
        self.prepared = Prepared({"source": "made"}, self.decode, (0.5,) * 3, (0.2,) * 3)

    def decode(self, report: cache.Report) -> Decoded:
        with open(self.log, "a") as log:
            log.write("x")
        time.sleep(self.seconds)
        return sample()

    @property
    def decoded(self) -> int:
        return len(self.log.read_text()) if self.log.exists() else 0


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def open_cache(source: Source, folder: Path, lines: list[str] | None = None) -> Decoded:
    return cached(folder, "made-8", source.prepared, (lines if lines is not None else []).append)


def entry_of(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_dir())


def assert_whole(decoded: Decoded) -> None:
    expected = sample()
    assert np.array_equal(decoded.pixels, expected.pixels) and decoded.pixels.dtype == np.uint8
    assert np.array_equal(decoded.labels, expected.labels) and decoded.labels.dtype == np.int64
    assert np.array_equal(decoded.is_test, expected.is_test) and decoded.is_test.dtype == bool
    assert decoded.class_names == expected.class_names
    assert decoded.digest == cache.pixel_digest(expected.pixels)


def test_the_second_opening_maps_what_the_first_wrote(source: Source, tmp_path: Path):
    for _ in range(2):
        decoded = open_cache(source, tmp_path / "cache")
        assert_whole(decoded)
        assert isinstance(decoded.pixels, np.memmap)
    assert source.decoded == 1


def test_writing_into_the_map_does_not_reach_the_file(source: Source, tmp_path: Path):
    open_cache(source, tmp_path / "cache").pixels[:] = 0
    assert_whole(open_cache(source, tmp_path / "cache"))
    assert source.decoded == 1


def test_another_identity_is_another_entry(source: Source, tmp_path: Path):
    open_cache(source, tmp_path / "cache")
    cached(
        tmp_path / "cache",
        "made-8",
        Prepared({"source": "made", "mtime_ns": 2}, source.decode, (0.5,) * 3, (0.2,) * 3),
        print,
    )
    assert source.decoded == 2


def truncate(entry: Path) -> None:
    with open(entry / "pixels.npy", "r+b") as file:
        file.truncate(900)


def flip_a_bit(entry: Path) -> None:
    content = bytearray((entry / "pixels.npy").read_bytes())
    content[-7] ^= 1
    (entry / "pixels.npy").write_bytes(bytes(content))


def lose_a_label(entry: Path) -> None:
    meta = json.loads((entry / "meta.json").read_text())
    meta["labels"].pop()
    (entry / "meta.json").write_text(json.dumps(meta))


def change_a_label(entry: Path) -> None:
    meta = json.loads((entry / "meta.json").read_text())
    meta["labels"][0] = 2
    (entry / "meta.json").write_text(json.dumps(meta))


def flip_in_the_header(number: int) -> Callable[[Path], None]:
    def flip(entry: Path) -> None:
        content = bytearray((entry / "pixels.npy").read_bytes())
        content[number // 8] ^= 1 << number % 8
        (entry / "pixels.npy").write_bytes(bytes(content))

    return flip


DAMAGES = {
    "truncated": truncate,
    "empty": lambda entry: (entry / "pixels.npy").write_bytes(b""),
    "flipped bit": flip_a_bit,
    "pixels gone": lambda entry: (entry / "pixels.npy").unlink(),
    "meta gone": lambda entry: (entry / "meta.json").unlink(),
    "meta half": lambda entry: (entry / "meta.json").write_text(
        (entry / "meta.json").read_text()[:50]
    ),
    "meta of another shape": lambda entry: (entry / "meta.json").write_text("[1]"),
    "label lost": lose_a_label,
    "label changed": change_a_label,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_decoded_again(damage, source: Source, tmp_path: Path):
    open_cache(source, tmp_path / "cache")
    damage(entry_of(tmp_path / "cache"))
    lines: list[str] = []
    assert_whole(open_cache(source, tmp_path / "cache", lines))
    assert source.decoded == 2 and "damaged" in lines[0]
    assert_whole(open_cache(source, tmp_path / "cache"))
    assert source.decoded == 2


def test_processes_that_come_at_once_decode_once(tmp_path: Path):
    source = Source(tmp_path, seconds=0.3)

    def child() -> None:
        assert_whole(open_cache(source, tmp_path / "cache"))

    children = [FORK.Process(target=child) for _ in range(4)]
    for process in children:
        process.start()
    for process in children:
        process.join(30)
    assert [process.exitcode for process in children] == [0] * 4
    assert source.decoded == 1


@pytest.mark.parametrize("writes", [0, 1])
def test_a_writer_killed_half_way_leaves_nothing_that_counts(
    writes: int, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def child() -> None:
        seen: list[int] = []
        monkeypatch.setattr(
            os, "fsync", lambda number: seen.append(number) if len(seen) < writes else os._exit(9)
        )
        open_cache(source, tmp_path / "cache")

    process = FORK.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 9
    assert [path.name[0] for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["."]
    assert_whole(open_cache(source, tmp_path / "cache"))
    assert [path.name[0] for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["m"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError) as caught:
        open_cache(source, tmp_path / "cache")
    assert (
        str(tmp_path / "cache") in str(caught.value)
        and "No space left" in str(caught.value)
        and "\n" not in str(caught.value)
    )
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_a_cache_folder_that_cannot_be_made_is_one_line(source: Source, tmp_path: Path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="EVOLVE_CACHE") as caught:
        open_cache(source, tmp_path / "cache")
    assert str(tmp_path / "cache") in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_entry_is_read_where_nothing_can_be_written(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    open_cache(source, tmp_path / "cache")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cache, "held", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert_whole(open_cache(source, tmp_path / "cache"))


def test_unreadable_input_is_not_blamed_on_the_cache(tmp_path: Path):
    def decode(report: cache.Report) -> Decoded:
        raise PermissionError(errno.EACCES, "Permission denied", "/photos/1.jpeg")

    with pytest.raises(DataError, match="/photos/1.jpeg") as caught:
        cached(tmp_path, "made-8", Prepared({}, decode, (0.5,) * 3, (0.2,) * 3), print)
    assert "EVOLVE_CACHE" not in str(caught.value)


def test_flipped_bits_of_the_header_are_mended(source: Source, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    open_cache(source, tmp_path / "cache")
    size = (entry_of(tmp_path / "cache") / "pixels.npy").read_bytes().index(b"\n") + 1
    for number in range(0, 8 * size, 13):  # seven of them are no Python at all
        flip_in_the_header(number)(entry_of(tmp_path / "cache"))
        assert_whole(open_cache(source, tmp_path / "cache"))
