"""How bytes reach the disk whole or not at all: flushed files, checked digests, one-line errors.

The store and its checkpoints are built from these few functions. Only the two functions that turn
tensors into bytes and back import torch, so a process that merely looks at the store does not need
it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.errors import StoreError, UserError

if TYPE_CHECKING:
    from torch import Tensor

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space there, or give another folder, and run again; "
    "finished stages are kept",
    errno.EDQUOT: "the disk quota is used up: free some space, or give another folder, and run "
    "again; finished stages are kept",
    errno.EROFS: "the file system is read-only: give a folder that can be written",
    errno.EACCES: "permission denied: give a folder that you may write, or change its permissions",
    errno.EPERM: "permission denied: give a folder that you may write, or change its permissions",
    errno.ENOTDIR: "a file is in the way where a folder is needed: give another folder, or move "
    "that file away",
    errno.EEXIST: "a file is in the way where a folder is needed: give another folder, or move "
    "that file away",
}

_WRITING_SECONDS = 60.0  # that it takes to write a file for results, at most


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn any OSError inside into one line that says what to do.

    Args:
        path: what the line names if the error names no file.

    Raises:
        StoreError: instead of the OSError.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        advice = _ADVICE.get(error.errno or 0, f"{reason}: check that disk, or give another folder")
        raise StoreError(f"store: {error.filename or path}: {advice}") from error


def plain(value: Any, where: str = "value") -> Any:
    """A deep copy in JSON's own types; tuples become lists.

    A key or a record must mean the same when it is read back, so anything else is refused.

    Args:
        value: dicts (keys str), lists, tuples, str, int, float, bool, None.
        where: what the error calls the value.

    Raises:
        TypeError: something in it is of another type; it names the place.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str or key.startswith("$"):
                raise TypeError(f"{where}: key {key!r} must be a string that does not start with $")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__} cannot be written as JSON")


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, floats by repr.

    Raises:
        TypeError: see :func:`plain`.
        ValueError: a float is NaN or infinite.
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(value: Any) -> bytes:
    """Readable JSON bytes that read back equal, floats bit for bit.

    JSON has no NaN or infinities and a diverged training has them, so they are written as
    {"$float": "nan"}, "inf" or "-inf": valid JSON for every reader, and :func:`from_json` restores
    them.
    """
    return (json.dumps(_tag(plain(value)), indent=1, allow_nan=False) + "\n").encode()


def from_json(data: bytes) -> Any:
    """The inverse of :func:`to_json`.

    Raises:
        ValueError: the text is damaged, or nested too deep.
    """
    try:
        return json.loads(
            data,
            object_hook=lambda t: float(t["$float"]) if t.keys() == {"$float"} else t,
        )
    except (RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"no JSON of ours ({type(error).__name__})") from None


def _tag(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, dict):
        return {key: _tag(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tag(item) for item in value]
    return value


def tensors_to_bytes(tensors: Mapping[str, Tensor], note: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file in memory.

    Args:
        tensors: by name, on any device; shared storage is fine. The file has contiguous copies.
        note: goes into the file's header.
    """
    import torch
    from safetensors.torch import save

    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return save(copies, metadata=None if note is None else dict(note))


def tensors_from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, writable and owned by the caller."""
    from safetensors.torch import load

    return load(data)


def note_of(data: bytes) -> dict[str, str]:
    """The note in the header of a safetensors file: 8 bytes of length (little endian), then JSON.

    Raises:
        KeyError, ValueError: there is none.
    """
    length = int.from_bytes(data[:8], "little")
    note: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return note


def digest(data: bytes) -> str:
    """The sha256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex; it is read in pieces."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            content.update(piece)
    return content.hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes, what: str) -> Path:
    """Replace a file: a reader sees the old one or the new one, never a part.

    A failed write leaves nothing behind.

    Args:
        path: the file.
        data: its new content.
        what: what the error calls it.

    Returns:
        ``path``.

    Raises:
        UserError: "``what`` ``path``: ..."; it cannot be written (full disk, read-only folder).
    """
    if path.is_dir():
        raise UserError(f"{what} {path}: is a folder; give the name of a file")
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.unlink(missing_ok=True)  # a killed process with our number may have left one
        write_file(beside, data)
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        mend = (
            "free some space there"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "give a folder that you may write"
        )
        raise UserError(
            f"{what} {path}: cannot be written ({error.strerror or error}); {mend} and run the "
            "same command again"
        ) from error
    return path


def result_folder(folder: Path, what: str) -> Path:
    """Make a folder that results are written into, with those above it.

    What killed processes left half-written in it goes.

    Args:
        folder: the folder; it may be there.
        what: what the error calls it.

    Returns:
        ``folder``.

    Raises:
        UserError: "``what`` ``folder``: ..."; it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{what} {folder}: cannot be made ({error.strerror or error}); give another folder"
        ) from error
    with suppress(OSError):
        for file in folder.glob(".*.tmp"):  # :func:`write_whole`'s
            if time.time() - file.stat().st_mtime > _WRITING_SECONDS:
                file.unlink(missing_ok=True)
    return folder


def user_cache() -> Path:
    """This user's cache for evolve, not made yet.

    Raises:
        UserError: the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or expanded(Path("~/.cache"))) / "evolve"


def expanded(path: Path) -> Path:
    """A path with the user's home for its "~".

    Raises:
        UserError: the user has none, as some containers' users.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path}: this user has no home; set HOME, or give another path") from None


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename in it outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """``mkdir -p`` whose new entries are flushed too."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
