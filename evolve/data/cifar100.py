"""CIFAR-100 by torchvision: 100 classes, 500 training and 100 test images each, 32 pixels a side; fine labels."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from evolve.data.cache import Decoded, Prepared, Report
from evolve.data.splits import CIFAR_FS
from evolve.errors import DataError
from evolve.settings import DataSettings

ARCHIVE = "cifar-100-python.tar.gz"
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
MEAN = (0.5071, 0.4865, 0.4409)
STD = (0.2673, 0.2564, 0.2762)
TIMEOUT = 30.0  # seconds without a byte


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """CIFAR-100 at ``data.size``. Its content is fixed by a checksum, so once cached it needs neither files nor network.

    Behind another ancestor's source its condensing and descendant classes are the authors', unless the scenario lists some.
    """
    folder = data_dir.parent if data_dir.name == ARCHIVE else data_dir
    identity = {"source": "cifar100", "size": data.size, "md5": MD5}
    roles = CIFAR_FS if data.source != "cifar100" else None
    return Prepared(identity, lambda report: decode_all(folder, data.size, report), MEAN, STD, roles)


def decode_all(folder: Path, size: int, report: Report) -> Decoded:
    """The 50,000 training, then the 10,000 test images; downloaded into ``folder`` where they are not there yet."""
    parts = _sets(folder, report)
    if size != 32:
        report(f"resizing {sum(len(part.data) for part in parts)} images to {size} pixels a side")
    pixels = np.concatenate([_resize(part.data, size) for part in parts])
    labels = np.concatenate([np.array(part.targets, dtype=np.int64) for part in parts])
    is_test = np.repeat([False, True], [len(part.data) for part in parts])
    return Decoded(pixels, labels, is_test, tuple(parts[0].classes))


def _sets(folder: Path, report: Report) -> list[Any]:
    """torchvision's training and test set. It checks the md5 of every unpacked file before it unpickles one."""
    from torchvision.datasets import CIFAR100

    try:
        return [CIFAR100(folder, train=train, download=False) for train in (True, False)]
    except RuntimeError:  # not there, or a checksum is wrong: both mean unpack (again)
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{ARCHIVE}.lock"):
            _ensure_archive(folder / ARCHIVE, report)
            return [CIFAR100(folder, train=train, download=train) for train in (True, False)]
    except (OSError, RuntimeError, EOFError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        advice = "make room or make it writable, or choose another folder with --data"
        raise DataError(f"{folder}: cannot unpack {ARCHIVE} there ({reason}); {advice}") from None


def _ensure_archive(archive: Path, report: Report) -> None:
    if not archive.exists():
        report(f"downloading {URL} to {archive.parent} (169 MB)")
        _download(archive)
    elif (found := _md5(archive)) != MD5:
        raise DataError(f"{archive} is damaged (md5 {found}, should be {MD5}); delete it to have it downloaded, or put {URL} there")


def _download(archive: Path) -> None:
    """Fetch under another name, check, rename: an archive under its own name is a whole one."""
    part = archive.with_name(f"{archive.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer, open(part, "wb") as file:
            while chunk := _receive(answer):
                file.write(chunk)
        if _md5(part) != MD5:
            raise _unreachable(archive, "what came is not the file: wrong md5")
        os.replace(part, archive)
    except (urllib.error.URLError, TimeoutError, HTTPException) as error:
        raise _unreachable(archive, getattr(error, "reason", error)) from None
    finally:
        part.unlink(missing_ok=True)


def _receive(answer: Any) -> bytes:
    """A piece of the download; a broken connection is told apart from a full disk."""
    try:
        return bytes(answer.read(1 << 20))
    except OSError as error:
        raise urllib.error.URLError(error) from None


def _unreachable(archive: Path, reason: object) -> DataError:
    advice = f"put {ARCHIVE} from {URL} (md5 {MD5}) into {archive.parent}, or choose another folder with --data"
    return DataError(f"cannot download CIFAR-100 ({reason}); {advice}")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, 32, 32, 3] to [N, size, size, 3], bilinear; Pillow's averages when it shrinks."""
    if size == images.shape[1]:
        return images
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in images])
