"""Decoded images on disk: written once, whole or not at all, checked when opened, mapped by every process that reads them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from evolve.errors import DataError

FORMAT = 1
Report = Callable[[str], None]


@dataclass(frozen=True)
class Decoded:
    """What a source decodes to. ``pixels`` is uint8 [N, size, size, 3]: the order that channels_last tensors have in memory."""

    pixels: np.ndarray
    labels: np.ndarray  # int64 [N]
    is_test: np.ndarray  # bool [N]
    class_names: tuple[str, ...]
    digest: str = ""  # sha256 of the pixels; filled in by the cache


@dataclass(frozen=True)
class Prepared:
    """A source that has found its input: ``identity`` (JSON) says which input, ``decode`` does the slow work."""

    identity: Mapping[str, Any]
    decode: Callable[[Report], Decoded]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def cached(cache_dir: Path, name: str, prepared: Prepared, report: Report) -> Decoded:
    """``prepared``'s images, from ``cache_dir`` or decoded now and kept there; the pixels are a copy-on-write memmap.

    Every opening checks the content against its sha256 (about 1 s a GB): a damaged entry is rebuilt. Several processes may
    call this at once; one decodes, the others wait. A read-only folder that holds the entry is enough. DataError if it cannot be written.
    """
    entry = cache_dir / f"{name}-{_key(prepared.identity)}"
    found = _open(entry)
    if found is not None:
        return found
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            found = _open(entry)
            if found is None:
                _clear(entry, report)
                _write(entry, _decode(prepared, name, report))
                found = _open(entry)
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "make room or make it writable, or choose another folder with EVOLVE_CACHE"
        raise DataError(f"{cache_dir}: cannot keep decoded images there ({reason}); {advice}") from None
    if found is None:
        raise DataError(f"{entry}: what was written there cannot be read back; check the disk, or choose another folder with EVOLVE_CACHE")
    return found


def _decode(prepared: Prepared, name: str, report: Report) -> Decoded:
    try:
        return prepared.decode(report)
    except OSError as error:  # not the cache's: say whose
        raise DataError(f"{name}: its files cannot be read ({error})") from None


def pixel_digest(pixels: np.ndarray) -> str:
    """sha256 of the pixels' bytes in [N, size, size, 3] order."""
    return hashlib.sha256(np.ascontiguousarray(pixels).reshape(-1).data).hexdigest()


def _key(identity: Mapping[str, Any]) -> str:
    text = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _open(entry: Path) -> Decoded | None:
    """The entry if it is there and whole."""
    try:
        meta = json.loads((entry / "meta.json").read_text("utf-8"))
        # Copy-on-write: torch wants writable memory, and the file must never change.
        pixels = np.load(entry / "pixels.npy", mmap_mode="c", allow_pickle=False)
        labels = np.array(meta["labels"], dtype=np.int64)
        is_test = np.array(meta["is_test"], dtype=bool)
        whole = pixels.dtype == np.uint8 and meta.pop("check") == _check(meta) and pixel_digest(pixels) == meta["sha256"]
        return Decoded(pixels, labels, is_test, tuple(meta["class_names"]), meta["sha256"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def _clear(entry: Path, report: Report) -> None:
    """Remove a damaged entry and what a killed writer left; the caller holds the entry's lock, so no one else is writing."""
    if entry.exists():
        report(f"{entry} is damaged; it is decoded again")
        shutil.rmtree(entry, ignore_errors=True)
    for left in entry.parent.glob(f".{entry.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _check(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _write(entry: Path, decoded: Decoded) -> None:
    meta = {
        "format": FORMAT,
        "class_names": decoded.class_names,
        "sha256": pixel_digest(decoded.pixels),
        "labels": decoded.labels.tolist(),
        "is_test": decoded.is_test.astype(int).tolist(),
    }
    folder = entry.parent / f".{entry.name}-{os.getpid()}"
    try:
        folder.mkdir()
        with open(folder / "pixels.npy", "wb") as file:
            np.save(file, np.ascontiguousarray(decoded.pixels), allow_pickle=False)
            _flush(file)
        with open(folder / "meta.json", "w", encoding="utf-8") as text:
            json.dump({**meta, "check": _check(meta)}, text)
            _flush(text)
        os.rename(folder, entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
