"""CIFAR-100: 100 classes, 500 training and 100 test images each, 32 pixels a side; fine labels.

The official archive or its unpacked folder is read by torchvision, class folders by
:mod:`evolve.data.cifar100_folders`.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from evolve.core.errors import DataError
from evolve.core.locks import held
from evolve.core.settings import DataSettings
from evolve.data import cifar100_folders as folders
from evolve.data.cache import Decoded, Prepared, Report
from evolve.data.members import Files
from evolve.data.splits import CIFAR_FS

ARCHIVE = "cifar-100-python.tar.gz"
FOLDER = "cifar-100-python"  # what it unpacks to
PICKLES = ("train", "test", "meta")  # files in there
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
MEAN = (0.5071, 0.4865, 0.4409)
STD = (0.2673, 0.2564, 0.2762)
TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class Official:
    """The official files: in ``folder`` lies the archive or what it unpacks to, or will."""

    folder: Path
    unpacked: bool = False  # ``folder`` itself is what it unpacks to


def prepare(data: DataSettings, data_dir: Path) -> Prepared:
    """CIFAR-100 at ``data.size``, in any of its layouts.

    The official files' content is fixed by a checksum, so once cached they need neither files nor
    network. Class folders must be there, and are another set of images. Behind another ancestor's
    source the condensing and descendant classes are the authors', unless the scenario lists some.

    Args:
        data: the scenario's [data].
        data_dir: where the files lie, or go.

    Raises:
        DataError: ``data_dir`` is meant to be class folders and is not.
    """
    roles = CIFAR_FS if data.source != "cifar100" else None
    layout = find(data_dir)
    identity: dict[str, object] = {"source": "cifar100", "size": data.size}
    if not isinstance(layout, Official):
        identity |= layout.identity()
        decode = partial(folders.decode_all, layout, data.size)
        return Prepared(identity, decode, MEAN, STD, roles)
    identity["md5"] = MD5
    return Prepared(identity, partial(decode_all, layout, data.size), MEAN, STD, roles)


def find(place: Path) -> Official | Files:
    """What lies at or in ``place``; official files come before class folders.

    Where nothing shows a layout the archive is expected in ``place``, and downloaded to it.

    Args:
        place: a folder, or the archive.
    """
    if place.name == ARCHIVE:
        return Official(place.parent)
    if sum((place / name).is_file() for name in PICKLES) > 1:  # one alone may be anything
        return Official(place, unpacked=True)
    if (place / ARCHIVE).is_file() or (place / FOLDER).is_dir():
        return Official(place)
    return folders.find(place) or Official(place, unpacked=place.name == FOLDER)


def decode_all(place: Official, size: int, report: Report) -> Decoded:
    """Decode the 50,000 training, then the 10,000 test images.

    Args:
        place: where the official files lie; downloaded if there is no file yet.
        size: pixels a side.
        report: gets a line when something slow begins.

    Raises:
        DataError: the files cannot be had, or are damaged.
    """
    parts = _unpacked(place.folder) if place.unpacked else _sets(place.folder, report)
    if size != folders.SIDE:
        report(f"resizing {sum(len(part.data) for part in parts)} images to {size} pixels a side")
    pixels = np.concatenate([_resize(part.data, size) for part in parts])
    labels = np.concatenate([np.array(part.targets, dtype=np.int64) for part in parts])
    is_test = np.repeat([False, True], [len(part.data) for part in parts])
    return Decoded(pixels, labels, is_test, tuple(parts[0].classes))


def _unpacked(folder: Path) -> list[Any]:
    """torchvision's training and test set out of the unpacked folder, whatever it is called.

    Every file's md5 is checked before it is unpickled.

    Raises:
        DataError: files are not whole; it names them.
    """
    from torchvision.datasets import CIFAR100
    from torchvision.datasets.utils import check_integrity

    class Unpacked(CIFAR100):
        base_folder = ""

    meta = CIFAR100.meta
    official = [*CIFAR100.train_list, *CIFAR100.test_list, (meta["filename"], meta["md5"])]
    wrong = [name for name, md5 in official if not check_integrity(str(folder / name), md5)]
    if wrong:
        advice = f"unpack {ARCHIVE} again, or give the folder it lies in with --data"
        raise DataError(f"{folder}: {' and '.join(wrong)} missing there or damaged; {advice}")
    return [Unpacked(folder, train=train) for train in (True, False)]


def _sets(folder: Path, report: Report) -> list[Any]:
    """torchvision's training and test set; it checks every file's md5 before it unpickles one."""
    from torchvision.datasets import CIFAR100

    try:
        return [CIFAR100(folder, train=train, download=False) for train in (True, False)]
    except RuntimeError:  # not there, or a checksum is wrong: both mean unpack (again)
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / f".{ARCHIVE}.lock"):
            _ensure_archive(folder / ARCHIVE, report)
            return [CIFAR100(folder, train=train, download=train) for train in (True, False)]
    except (OSError, RuntimeError, EOFError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        advice = "make room or make it writable, or choose another folder with --data"
        raise DataError(f"{folder}: cannot unpack {ARCHIVE} there ({reason}); {advice}") from None


def _ensure_archive(archive: Path, report: Report) -> None:
    from torchvision.datasets.utils import calculate_md5

    if not archive.exists():
        report(f"downloading {URL} to {archive.parent} (169 MB)")
        _download(archive)
    elif (md5 := calculate_md5(archive)) != MD5:
        raise DataError(
            f"{archive} is damaged (md5 {md5}, should be {MD5}); delete it to have it "
            f"downloaded, or put {URL} there"
        )


def _download(archive: Path) -> None:
    """Fetch under another name, check, rename: an archive under its own name is a whole one."""
    from torchvision.datasets.utils import calculate_md5

    part = archive.with_name(f"{archive.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer, open(part, "wb") as file:
            while chunk := _receive(answer):
                file.write(chunk)
        if calculate_md5(part) != MD5:
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
    advice = (
        f"put {ARCHIVE} from {URL} (md5 {MD5}) into {archive.parent}, or choose another "
        "folder with --data"
    )
    return DataError(f"cannot download CIFAR-100 ({reason}); {advice}")


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, 32, 32, 3] to [N, size, size, 3]."""
    if size == images.shape[1]:
        return images
    return np.stack([folders.resized(image, size) for image in images])
