"""Decoded images on disk: written once, whole or not at all, and checked when they are opened.

Every process that reads them maps the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.filesize import decimal

from evolve.core.errors import DataError
from evolve.core.locks import held

FORMAT = 1
LARGE = 4 << 30  # bytes of pixels from which a stamp spares the checksum
FLUSH = 1 << 30  # bytes between two points from which an interrupted decoding goes on
PIXELS, META, STAMP, DONE = "pixels.npy", "meta.json", "verified.json", "done.json"

Report = Callable[[str], None]
Roles = Mapping[str, Sequence[int]]  # class ids by role: a source's own split


@dataclass(frozen=True)
class Decoded:
    """What a source decodes to.

    ``pixels`` is uint8 [N, size, size, 3]: the order that channels_last tensors have in memory.
    """

    pixels: np.ndarray
    labels: np.ndarray  # int64 [N]
    is_test: np.ndarray  # bool [N]
    class_names: tuple[str, ...]
    digest: str = ""  # sha256 of the pixels; filled in by the cache
    roles: Roles | None = None

    def blocks(self, start: int) -> Iterator[np.ndarray]:
        """The images from number ``start`` on, for the cache to write."""
        yield self.pixels[start:]

    @property
    def size(self) -> int:
        """Pixels a side."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True)
class Streamed:
    """What a source too large for memory decodes to.

    ``blocks(n)`` gives the images from number n on, in blocks uint8 [b, size, size, 3].
    """

    blocks: Callable[[int], Iterator[np.ndarray]]
    size: int
    labels: np.ndarray  # int64 [N]
    is_test: np.ndarray  # bool [N]
    class_names: tuple[str, ...]
    roles: Roles | None = None


@dataclass(frozen=True)
class Prepared:
    """A source whose files are there, though nothing is decoded yet.

    ``identity`` (JSON) says which files, ``decode`` does the slow work. A split of its own comes
    from here if it can be told without decoding, else from what ``decode`` gives.
    """

    identity: Mapping[str, Any]
    decode: Callable[[Report], Decoded | Streamed]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    roles: Roles | None = None


def cached(cache_dir: Path, name: str, prepared: Prepared, report: Report) -> Decoded:
    """The images of a source, from the cache or decoded now and kept there.

    Every opening checks the content against its sha256 (about 1 s a GB); a damaged entry is
    rebuilt. From 4 GiB on, the pixels are read for that only where their file is not the one
    checked last (:func:`_stamp`). Several processes may call this at once: one decodes, the others
    wait. A read-only folder that holds the entry is enough. An interrupted decoding of more than 1
    GiB goes on where it stopped.

    Args:
        cache_dir: made if it is not there.
        name: begins the name of the entry.
        prepared: the source.
        report: gets a line when something slow begins.

    Returns:
        The images; the pixels are a copy-on-write memmap, from 4 GiB on a read-only one.

    Raises:
        DataError: the entry cannot be written, or there is no room for it (for a Streamed source
            that is seen before anything is decoded).
    """
    entry = cache_dir / f"{name}-{_key(prepared.identity)}"
    decoded = _open(entry, report)
    if decoded is not None:
        return decoded
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with held(Path(f"{entry}.lock")):
            decoded = _open(entry, report)
            if decoded is None:
                _clear(entry, report)
                _write(entry, _decode(prepared, name, report), report)
                decoded = _open(entry, report)
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "make room or make it writable, or choose another folder with EVOLVE_CACHE"
        raise DataError(
            f"{cache_dir}: cannot keep decoded images there ({reason}); {advice}"
        ) from None
    if decoded is None:
        raise DataError(
            f"{entry}: what was written there cannot be read back; check the disk, or choose "
            "another folder with EVOLVE_CACHE"
        )
    return decoded


def _decode(prepared: Prepared, name: str, report: Report) -> Decoded | Streamed:
    try:
        return prepared.decode(report)
    except OSError as error:  # the source's, not the cache's
        raise DataError(f"{name}: its files cannot be read ({error})") from None


def pixel_digest(pixels: np.ndarray) -> str:
    """The sha256 of the pixels' bytes in [N, size, size, 3] order, in hex.

    Args:
        pixels: bytes, in any memory order.
    """
    return hashlib.sha256(np.ascontiguousarray(pixels).reshape(-1).data).hexdigest()


def _key(identity: Mapping[str, Any]) -> str:
    text = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _open(entry: Path, report: Report) -> Decoded | None:
    """The entry if it is there and whole, else None."""
    try:
        meta = json.loads((entry / META).read_text("utf-8"))
        # Copy-on-write: torch wants writable memory, and the file must never change. Linux refuses
        # that for more than there is memory.
        large = (entry / PIXELS).stat().st_size >= LARGE
        pixels = np.load(entry / PIXELS, mmap_mode="r" if large else "c", allow_pickle=False)
        labels = np.array(meta["labels"], dtype=np.int64)
        is_test = np.array(meta["is_test"], dtype=bool)
        if (
            pixels.dtype != np.uint8
            or meta.pop("check") != _check(meta)
            or not _intact(entry, pixels, meta["sha256"], report)
        ):
            return None
        roles = (
            {role: tuple(ids) for role, ids in meta["roles"].items()} if "roles" in meta else None
        )
        return Decoded(pixels, labels, is_test, tuple(meta["class_names"]), meta["sha256"], roles)
    except Exception:  # whatever a damaged file makes the parsers raise (tokenize.TokenError, ...)
        return None


def _intact(entry: Path, pixels: np.ndarray, sha256: str, report: Report) -> bool:
    """Whether the pixels have this checksum; a large file is believed if its stamp is equal."""
    if pixels.nbytes < LARGE:
        return pixel_digest(pixels) == sha256
    stamp = _stamp(entry / PIXELS) | {"sha256": sha256}
    with suppress(OSError, ValueError):
        if json.loads((entry / STAMP).read_text("utf-8")) == stamp:
            return True
    report(
        f"checking {decimal(pixels.nbytes)} of decoded images in {entry} (again only if that file "
        "changes)"
    )
    if pixel_digest(pixels) != sha256:
        return False
    with suppress(OSError):  # a read-only folder is checked at every opening
        _write_json(entry / STAMP, stamp)
    return True


def _stamp(file: Path) -> dict[str, int]:
    """What changes when anything writes to the file, replaces it or copies it elsewhere.

    It cannot see a disk that decays silently: delete verified.json to have a large entry read and
    checked again.
    """
    info = file.stat()
    return {
        "bytes": info.st_size,
        "mtime_ns": info.st_mtime_ns,
        "ctime_ns": info.st_ctime_ns,
        "inode": info.st_ino,
    }


def _clear(entry: Path, report: Report) -> None:
    """Remove a damaged entry; the caller holds the entry's lock, so no one else is writing."""
    if entry.exists():
        report(f"{entry} is damaged; it is decoded again")
        shutil.rmtree(entry, ignore_errors=True)


def _check(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _write(entry: Path, decoded: Decoded | Streamed, report: Report) -> None:
    """Write into a hidden folder and rename it.

    What a failure leaves is kept only where decoding can go on from it.
    """
    folder = entry.parent / f".{entry.name}.part"
    try:
        folder.mkdir(exist_ok=True)
        meta = {
            "format": FORMAT,
            "class_names": decoded.class_names,
            "sha256": _write_pixels(folder, decoded, report),
            "labels": decoded.labels.tolist(),
            "is_test": decoded.is_test.astype(int).tolist(),
        }
        if decoded.roles is not None:
            meta["roles"] = {role: list(ids) for role, ids in decoded.roles.items()}
        _write_json(folder / META, {**meta, "check": _check(meta)})
        (folder / DONE).unlink(missing_ok=True)
        os.rename(folder, entry)
    finally:
        if not (folder / DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _write_pixels(folder: Path, decoded: Decoded | Streamed, report: Report) -> str:
    """Write the .npy file, from where an earlier writer stopped.

    Returns:
        The sha256 of all its pixels.

    Raises:
        DataError: there is no room.
    """
    shape = (len(decoded.labels), decoded.size, decoded.size, 3)
    each = decoded.size * decoded.size * 3
    with open(folder / PIXELS, "ab+") as file:
        done, digest = _resume(folder, file, shape, report)
        _check_room(folder, (shape[0] - done) * each)
        blocks, flushed = decoded.blocks(done), done
        while (block := _next(blocks, folder)) is not None:
            raw = np.ascontiguousarray(block).reshape(-1).data
            file.write(raw)
            digest.update(raw)
            done += len(block)
            if (done - flushed) * each >= FLUSH:
                _flush(file)
                _write_json(folder / DONE, {"images": done, "sha256": digest.hexdigest()})
                flushed = done
        _flush(file)
    if done != shape[0]:
        raise RuntimeError(f"a source gave {done} images and announced {shape[0]}")
    return digest.hexdigest()


def _next(blocks: Iterator[np.ndarray], folder: Path) -> np.ndarray | None:
    try:
        return next(blocks, None)
    except OSError as error:  # the source's, not the cache's
        raise DataError(
            f"{folder.name.strip('.').removesuffix('.part')}: its files cannot be read ({error})"
        ) from None


def _resume(
    folder: Path, file: IO[bytes], shape: tuple[int, ...], report: Report
) -> tuple[int, Any]:
    """Cut the file to what an earlier writer has finished, the header at least.

    Returns:
        The number of images in it, and their running sha256.
    """
    done, digest = 0, hashlib.sha256()
    with suppress(Exception):  # as in _open
        earlier = json.loads((folder / DONE).read_text("utf-8"))
        file.seek(0)
        np.lib.format.read_magic(file)
        if np.lib.format.read_array_header_1_0(file)[0] != shape:
            raise ValueError("another set of images")
        left = earlier["images"] * int(np.prod(shape[1:]))
        while left and (piece := file.read(min(left, 1 << 24))):
            digest.update(piece)
            left -= len(piece)
        if left == 0 and digest.hexdigest() == earlier["sha256"]:
            file.truncate(file.tell())
            report(f"going on after {earlier['images']} images that an interrupted run decoded")
            return earlier["images"], digest
    file.truncate(0)
    (folder / DONE).unlink(missing_ok=True)
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return done, hashlib.sha256()


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        advice = (
            "make room, choose another folder with EVOLVE_CACHE, or ask for less (data.size; "
            "data.images_per_class for photographs)"
        )
        raise DataError(
            f"{folder.parent}: decoded images need {needed} bytes ({decimal(needed)}) there and "
            f"{free} bytes ({decimal(free)}) are free; {advice}"
        )


def _write_json(file: Path, value: Any) -> None:
    """Write beside, flush, rename: a reader sees all or nothing, whoever else writes."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as text:
            json.dump(value, text)
            _flush(text)
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
