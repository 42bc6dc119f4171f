"""What the cache does for sets larger than memory: stream, go on after an interruption, spare the
checksum of what it has checked.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evolve.core.errors import DataError
from evolve.data import cache
from evolve.data.cache import Decoded, Prepared, Streamed, cached

FORK = multiprocessing.get_context("fork")
EACH = 8 * 8 * 3  # bytes of an image
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


class Source:
    """Twenty images, three a block; notes from where it was asked for blocks, and stops before
    image ``until``.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.until = 20
        self.error: BaseException = DataError("image 11 is broken")
        self.prepared = Prepared({"source": "made"}, self.decode, (0.5,) * 3, (0.2,) * 3)

    def blocks(self, start: int) -> Iterator[np.ndarray]:
        self.starts.append(start)
        for place in range(start, 20, 3):
            if place >= self.until:
                raise self.error
            yield PIXELS[place : place + 3]

    def decode(self, report: cache.Report) -> Streamed:
        roles = {"ancestor": [0], "condense": [1], "descend": [2]}
        return Streamed(
            self.blocks,
            8,
            np.arange(20, dtype=np.int64) % 3,
            np.arange(20) > 15,
            ("a", "b", "c"),
            roles,
        )


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(cache, "FLUSH", 4 * EACH)  # a point to go on from after every second block
    return Source()


def open_cache(source: Source, folder: Path, lines: list[str] | None = None) -> Decoded:
    return cached(folder, "made-8", source.prepared, (lines if lines is not None else []).append)


def assert_whole(decoded: Decoded) -> None:
    assert (
        np.array_equal(decoded.pixels, PIXELS)
        and decoded.digest == hashlib.sha256(PIXELS.tobytes()).hexdigest()
    )
    assert (
        decoded.labels.tolist() == [place % 3 for place in range(20)]
        and decoded.is_test.tolist() == [False] * 16 + [True] * 4
    )
    assert decoded.roles == {"ancestor": (0,), "condense": (1,), "descend": (2,)}


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_a_stream_becomes_the_file_that_numpy_would_write(source: Source, tmp_path: Path):
    assert_whole(open_cache(source, tmp_path / "cache"))
    np.save(tmp_path / "plain.npy", PIXELS)
    (entry,) = folders(tmp_path / "cache")
    assert (tmp_path / "cache" / entry / "pixels.npy").read_bytes() == (
        tmp_path / "plain.npy"
    ).read_bytes()
    assert sorted(path.name for path in (tmp_path / "cache" / entry).iterdir()) == [
        "meta.json",
        "pixels.npy",
    ]


@pytest.mark.parametrize(
    "error",
    [
        DataError("image 14 is broken"),
        KeyboardInterrupt(),
        OSError(5, "Input/output error", "/photos/14"),
    ],
)
def test_decoding_goes_on_where_it_was_interrupted(
    error: BaseException, source: Source, tmp_path: Path
):
    source.until, source.error = 15, error
    with pytest.raises((DataError, KeyboardInterrupt)) as caught:
        open_cache(source, tmp_path / "cache")
    assert "EVOLVE_CACHE" not in str(caught.value)  # it is not the cache that is in trouble
    assert [name[0] for name in folders(tmp_path / "cache")] == ["."]
    source.until = 20
    lines: list[str] = []
    assert_whole(open_cache(source, tmp_path / "cache", lines))
    assert source.starts == [0, 12] and "12 images" in lines[0]
    assert [name[0] for name in folders(tmp_path / "cache")] == ["m"]


def test_a_killed_writer_s_unfinished_bytes_are_not_believed(source: Source, tmp_path: Path):
    def child() -> None:
        plain = source.blocks
        source.blocks = lambda start: (
            os._exit(9) if place == 5 else block for place, block in enumerate(plain(start))
        )  # type: ignore[misc,method-assign]
        open_cache(source, tmp_path / "cache")

    process = FORK.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 9
    (part,) = (tmp_path / "cache").glob(".*.part")
    with open(part / "pixels.npy", "ab") as file:
        file.write(b"\0" * 500)  # what a power cut may leave of blocks that were never flushed
    assert_whole(open_cache(source, tmp_path / "cache"))
    assert source.starts == [12]


@pytest.mark.parametrize("damage", ["pixel", "short", "note", "other set"])
def test_a_damaged_beginning_is_begun_again(
    damage: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source.until = 15
    with pytest.raises(DataError):
        open_cache(source, tmp_path / "cache")
    (part,) = (tmp_path / "cache").glob(".*.part")
    raw = bytearray((part / "pixels.npy").read_bytes())
    if damage == "pixel":
        raw[300] ^= 1
    if damage == "short":
        del raw[300:]
    if damage == "other set":
        raw = bytearray(raw.replace(b"(20, 8, 8, 3)", b"(21, 8, 8, 3)"))
    (part / "pixels.npy").write_bytes(bytes(raw))
    if damage == "note":
        (part / "done.json").write_text("[]")
    source.until = 20
    assert_whole(open_cache(source, tmp_path / "cache"))
    assert source.starts == [0, 0]


def test_room_is_asked_for_what_is_still_to_come(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 20 * EACH - 1))
    with pytest.raises(DataError, match=f"need {20 * EACH} bytes .* and {20 * EACH - 1} bytes"):
        open_cache(source, tmp_path / "cache")
    assert source.starts == [] and folders(tmp_path / "cache") == []
    monkeypatch.undo()
    monkeypatch.setattr(cache, "FLUSH", 4 * EACH)
    source.until = 15
    with pytest.raises(DataError):
        open_cache(source, tmp_path / "cache")
    source.until = 20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 8 * EACH))
    assert_whole(open_cache(source, tmp_path / "cache"))


@pytest.fixture
def large(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An entry that counts as large, just made and checked."""
    monkeypatch.setattr(cache, "LARGE", 100)
    open_cache(source, tmp_path / "cache")
    return tmp_path / "cache" / folders(tmp_path / "cache")[0]


def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever an entry's pixels are read for their checksum."""
    seen: list[int] = []
    plain = cache.pixel_digest
    monkeypatch.setattr(cache, "pixel_digest", lambda pixels: [seen.append(1), plain(pixels)][1])
    return seen


def test_a_large_entry_is_mapped_read_only(
    large: Path, source: Source, monkeypatch: pytest.MonkeyPatch
):
    """A writable private map of more than the machine's memory is refused by Linux, whatever is
    read of it.
    """
    assert not open_cache(source, large.parent).pixels.flags.writeable
    monkeypatch.undo()
    assert open_cache(source, large.parent).pixels.flags.writeable


def test_a_large_entry_is_read_once_and_then_known_by_its_stamp(
    large: Path, source: Source, monkeypatch: pytest.MonkeyPatch
):
    seen = readings(monkeypatch)
    for _ in range(2):
        assert_whole(open_cache(source, large.parent))
    assert seen == [] and source.starts == [0]


@pytest.mark.parametrize(
    "touch", ["time", "copy", "stamp gone", "stamp damaged", "stamp of another content"]
)
def test_a_large_entry_whose_stamp_does_not_fit_is_read_again_once(
    touch: str, large: Path, source: Source, monkeypatch: pytest.MonkeyPatch
):
    pixels, stamp = large / "pixels.npy", large / "verified.json"
    if touch == "time":
        os.utime(pixels, (1, 1))
    if touch == "copy":
        shutil.copy2(pixels, large / "copy")
        os.replace(large / "copy", pixels)
    if touch == "stamp gone":
        stamp.unlink()
    if touch == "stamp damaged":
        stamp.write_text("{")
    if touch == "stamp of another content":
        stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"sha256": "0"}))
    seen = readings(monkeypatch)
    lines: list[str] = []
    for _ in range(2):
        assert_whole(open_cache(source, large.parent, lines))
    assert seen == [1] and len(lines) == 1 and "checking" in lines[0] and source.starts == [0]


def test_a_large_entry_that_was_written_into_is_decoded_again(large: Path, source: Source):
    info = (large / "pixels.npy").stat()
    with open(large / "pixels.npy", "r+b") as file:
        file.seek(500)
        file.write(bytes([file.read(1)[0] ^ 1]))
    os.utime(
        large / "pixels.npy", ns=(info.st_atime_ns, info.st_mtime_ns)
    )  # hides it from mtime, not from ctime
    assert_whole(open_cache(source, large.parent))
    assert source.starts == [0, 0]


def test_a_large_entry_in_a_read_only_folder_is_read_at_every_opening(
    large: Path, source: Source, monkeypatch: pytest.MonkeyPatch
):
    (large / "verified.json").unlink()

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "_write_json", refuse)
    seen = readings(monkeypatch)
    for _ in range(2):
        assert_whole(open_cache(source, large.parent))
    assert seen == [1, 1] and source.starts == [0]
