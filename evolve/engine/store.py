"""The folder that holds every finished stage's result, under the key of the stage
(evolve.engine.stage).

A result is whole or absent, checked when it is read, and computed by one process at a time. Nothing
here knows what a lineage is.

    results/<kind>/<key[:2]>/<key>/   manifest.json  result.json  <name>.safetensors
    partial/<key>/                    checkpoints of unfinished stages
    runs/                             which runs refer to this store (evolve.runs.referrers)
    locks/  tmp/  damaged/  logs/

A thinned result keeps its record and has lost tensor files, whose digests its manifest keeps: put
again, it takes only the same.
"""

from __future__ import annotations

import errno
import os
import platform
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from evolve.core.durable import (
    digest,
    from_json,
    make_folder,
    plain,
    storage_errors,
    sync_folder,
    tensors_to_bytes,
    to_json,
    write_file,
)
from evolve.core.errors import StoreError
from evolve.engine.checkpoint import FolderCheckpoint
from evolve.engine.lease import Lease
from evolve.engine.mirror import Mirror
from evolve.engine.result import (
    Damaged,
    Result,
    Thinned,
    identity_of,
    read_result,
    seal_of,
    verified,
)
from evolve.engine.stage import WORD, Stage, stage_key

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FORMAT",
    "FolderCheckpoint",
    "StageLocked",
    "Result",
    "Stage",
    "Store",
    "Thinned",
    "stage_key",
]

FORMAT = 1
_PATIENCE = 1.0  # seconds between two words of one who waits for a lock
_MACHINE = digest(platform.node().encode())[:8]
# of so long ago, what another machine was writing is rubbish, whatever the clocks say
_FOREIGN_SECONDS = 86400.0


class StageLocked(Exception):
    """Another process is computing this stage."""


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)


class Store:
    """The results under ``root``; made if it is not there.

    Any number of processes may use one at once.

    ``report`` gets one line for every damaged result that was put aside. Raises StoreError when the
    folder cannot be made or written, holds something else, or has another format.
    """

    def __init__(self, root: Path, report: Callable[[str], None] = _warn) -> None:
        self.root = Path(root).absolute()
        self._report = report
        self.mirror: Mirror | None = None
        with storage_errors(self.root):
            self._open()
            for name in ("results", "partial", "locks", "tmp", "damaged", "logs", "runs"):
                make_folder(self.root / name)
            with self._scratch() as folder:
                write_file(folder / "probe", b"")
            self.sweep()

    # Results

    def has(self, key: str) -> bool:
        """Whether a result is there; its content is not checked."""
        return self._find(key) is not None or (self.mirror is not None and self.mirror.holds(key))

    def get(self, key: str) -> Result | None:
        """The result, its files checked against their sha256 once per process, or None.

        A damaged one (cut short, flipped bits, a missing file) is moved to ``damaged/``, reported,
        and None: compute it anew.
        """
        with storage_errors(self.root):
            path = self._find(key) or self._pull(key)
            if path is None:
                return None
            try:
                return read_result(path)
            except (FileNotFoundError, Damaged):
                return self._put_aside(path)

    def record(self, key: str) -> dict[str, Any] | None:
        """The JSON part of a result, see :meth:`get`."""
        found = self.get(key)
        return found.record if found else None

    def put(
        self,
        stage: Stage,
        record: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        provenance: Mapping[str, Any],
    ) -> Result:
        """Store a stage's result and forget its checkpoints.

        ``tensors``: file name -> tensor name -> tensor.

        All or nothing: written aside, flushed, renamed into place. If another process was first,
        its result stays. A thinned one that is there stays too and gets its tensor files back;
        StoreError if these are not the bytes that it had.
        """
        files = {"result.json": to_json(record)}
        for name, group in tensors.items():
            if not WORD.fullmatch(name):
                raise ValueError(f"tensor file {name!r}: lower-case letters, digits, - and _ only")
            files[f"{name}.safetensors"] = tensors_to_bytes(group)
        manifest = {
            "format": FORMAT,
            "kind": stage.kind,
            "key": stage.key,
            "recipe": stage.recipe,
            "provenance": plain(provenance, "provenance"),
            "files": {
                name: {"sha256": digest(data), "bytes": len(data)} for name, data in files.items()
            },
        }
        manifest["seal"] = seal_of(manifest)
        final = self.root / "results" / stage.kind / stage.key[:2] / stage.key
        with storage_errors(final):
            while (found := self.get(stage.key)) is None or found.thinned:
                if found is None:
                    self._write(final, {**files, "manifest.json": to_json(manifest)})
                else:
                    self._restore(found, files)
            self.checkpoint(stage.key).clear()
            if self.mirror is not None:
                self.mirror.push(found.path)
        return found

    def thin(self, key: str, names: Sequence[str], why: str) -> int:
        """Drop a result's tensor files of these names and keep its record; the bytes freed, 0 for a
        stage that is being computed.

        ``why`` is the line that whoever asks for the tensors will get. Killed anywhere, this leaves
        the result whole or thinned; called again, it finishes what was begun.
        """
        with storage_errors(self.root), suppress(StageLocked), self.unheld(key):
            if (found := self.get(key)) is None:
                return 0
            files = dict(found.manifest["files"])
            dropped = {
                file: files.pop(file)
                for file in (f"{name}.safetensors" for name in names)
                if file in files
            }
            if dropped:
                dropped |= found.manifest.get("thinned", {}).get("files", {})
                self._replace_manifest(
                    found.path,
                    found.manifest | {"files": files, "thinned": {"files": dropped, "why": why}},
                )
            surplus = [
                file
                for file in found.path.iterdir()
                if file.name not in files and file.name != "manifest.json"
            ]
            freed = sum(file.stat().st_size for file in surplus)
            for file in surplus:
                file.unlink()
            return freed
        return 0

    @contextmanager
    def bin(self) -> Iterator[Callable[[Path], None]]:
        """A function that takes a file or folder out of the store: gone at once for every reader;
        its bytes go at the end, or by a sweep.
        """
        with storage_errors(self.root), self._scratch() as folder:

            def discard(path: Path) -> None:
                with suppress(FileNotFoundError):
                    os.rename(path, folder / secrets.token_hex(8))

            yield discard

    def checkpoint(self, key: str) -> FolderCheckpoint:
        """The checkpoint of an unfinished stage; use it while holding its lock."""
        return FolderCheckpoint(self.root / "partial" / key, self._scratch)

    # Locks

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the right to compute a stage; a dead holder loses it (:mod:`evolve.engine.lease`).

        Not reentrant.

        ``waiting`` is called when someone else holds it, and about every second while that lasts;
        what it raises ends the wait.
        """
        lock = self._lease(key)
        with storage_errors(self.root / "locks"):
            wait = 0.0
            while not lock.take(wait):
                waiting()
                wait = _PATIENCE
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def unheld(self, key: str) -> Iterator[None]:
        """Hold a stage's lock, which nobody else holds; raises StageLocked at once where somebody
        does.
        """

        def refuse() -> None:
            raise StageLocked(key)

        with self.lock(key, waiting=refuse):
            yield

    def gate(self) -> AbstractContextManager[None]:
        """Around a change of who refers to this store, and around whatever drops what nobody refers
        to.

        Held for moments only.
        """
        return self.lock("gate")

    def locked(self, key: str) -> bool:
        """Whether some process is computing this stage now.

        The lock is taken and given back to find out.
        """
        lock = self._lease(key)
        if not lock.file.exists():
            return False
        with storage_errors(self.root / "locks"):
            if not lock.take():
                return True
        lock.release()
        return False

    def log(self, key: str) -> Path:
        """Where what went wrong in a stage is written."""
        return self.root / "logs" / f"{key}.log"

    # Inside

    def _lease(self, name: str) -> Lease:
        return Lease(self.root / "locks" / name)

    def _find(self, key: str) -> Path | None:
        with suppress(FileNotFoundError):
            for kind in sorted((self.root / "results").iterdir()):
                path = kind / key[:2] / key
                if path.is_dir():
                    return path
        return None

    def _open(self) -> None:
        """Make or check store.json."""
        marker = self.root / "store.json"
        make_folder(self.root)
        if not marker.exists():
            if (
                any(not path.name.startswith(("store.json", ".")) for path in self.root.iterdir())
                and not marker.exists()
            ):
                raise StoreError(
                    f"store: {self.root} is not empty and not a store (no store.json): give an "
                    "empty or new folder"
                )
            new = self.root / f"store.json.{secrets.token_hex(6)}"
            write_file(new, to_json({"format": FORMAT}))
            os.replace(new, marker)
            sync_folder(self.root)
        try:
            told = from_json(marker.read_bytes())
            found, address = told["format"], told.get("mirror")
        except (ValueError, TypeError, KeyError):
            raise StoreError(
                f"store: {marker} cannot be read: it should hold the format, {FORMAT}; give "
                "another folder"
            ) from None
        if found != FORMAT:
            advice = "give a new folder, or use the evolve that wrote it"
            raise StoreError(
                f"store: {marker} has format {found!r}, this evolve reads {FORMAT}: {advice}"
            )
        self.mirror = Mirror(address) if address else None

    def mirror_at(self, address: str | None) -> None:
        """Have every process that opens this store from now on copy its results to this address,
        and take from there what it lacks; None ends that.
        """
        mirror = Mirror(address) if address else None
        if mirror is not None:
            mirror.holds("")  # an address that does not answer is not written down
        self.mirror = mirror
        with storage_errors(self.root):
            self._replace(
                self.root / "store.json",
                to_json({"format": FORMAT} | ({"mirror": address} if address else {})),
            )

    def _write(self, final: Path, files: Mapping[str, bytes]) -> None:
        """Write a folder whole; if one is there when it is done, that one stays."""
        with self._scratch() as folder:
            for name, data in files.items():
                write_file(folder / name, data)
            if self._place(folder, final):
                verified[final] = identity_of(final)

    def _place(self, folder: Path, final: Path) -> bool:
        """Rename a complete folder into place; False if one is there, which stays."""
        sync_folder(folder)
        make_folder(final.parent)
        try:
            os.rename(folder, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        sync_folder(final.parent)
        return True

    def _pull(self, key: str) -> Path | None:
        """A result that only the mirror has, now here; it is checked as any other when it is read."""
        if self.mirror is None or not self.mirror.holds(key):
            return None
        with self._scratch() as folder:
            kind = self.mirror.pull(key, folder)
            if kind is None or not WORD.fullmatch(kind):
                return None
            final = self.root / "results" / kind / key[:2] / key
            self._place(folder, final)
        return final

    def _restore(self, found: Result, files: Mapping[str, bytes]) -> None:
        """Give a thinned result its tensor files back.

        Its manifest comes last, so until then it is thinned.
        """
        lost = found.manifest["thinned"]["files"]
        if changed := [
            name
            for name, expected in lost.items()
            if name not in files or digest(files[name]) != expected["sha256"]
        ]:
            advice = (
                "another machine, device or version computed it then; give another --store "
                "to compute all of it anew here"
            )
            raise StoreError(
                f"store: {found.path / changed[0]}: computed again it has other bytes than before "
                f"it was thinned: {advice}"
            )
        for name in lost:
            self._replace(found.path / name, files[name])
        manifest = {name: value for name, value in found.manifest.items() if name != "thinned"}
        self._replace_manifest(found.path, manifest | {"files": manifest["files"] | lost})

    def _replace_manifest(self, path: Path, manifest: dict[str, Any]) -> None:
        self._replace(path / "manifest.json", to_json(manifest | {"seal": seal_of(manifest)}))

    def _replace(self, file: Path, data: bytes) -> None:
        """Put a file in place whole, over an older one if there is one."""
        with self._scratch() as folder:
            write_file(folder / file.name, data)
            os.replace(folder / file.name, file)
        sync_folder(file.parent)

    def _put_aside(self, path: Path) -> Result | None:
        """Move a damaged result away, unless another process already has, and a good one has taken
        its place.
        """
        with self.lock("damaged"):
            try:
                return read_result(path)
            except FileNotFoundError:
                return None
            except Damaged as damage:
                number = 1
                while (target := self.root / "damaged" / f"{path.name}-{number}").exists():
                    number += 1
                os.rename(path, target)
                self._report(
                    f"damaged result {path.name} ({damage}) moved to {target}; it will be computed "
                    "again"
                )
                return None

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder of this process's own.

        A lock beside it tells others on this machine whether its owner lives.
        """
        while True:
            name = f"{_MACHINE}-{os.getpid()}-{secrets.token_hex(6)}"
            guard, folder = self.root / "tmp" / f"{name}.lock", self.root / "tmp" / name
            lock = FileLock(guard)
            lock.acquire()
            if (
                guard.exists()
            ):  # else a sweep took it for a dead one's between its making and its locking
                break
            lock.release()
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            guard.unlink(missing_ok=True)
            lock.release()

    def sweep(self) -> None:
        """Remove what dead processes left: their temporary folders, and checkpoints of stages that
        are finished.
        """
        for guard in (self.root / "tmp").glob("*.lock"):
            lock = FileLock(guard)
            with suppress(Timeout, FileNotFoundError):
                if (
                    not guard.name.startswith(f"{_MACHINE}-")
                    and time.time() - guard.stat().st_mtime < _FOREIGN_SECONDS
                ):
                    continue  # another machine's: its lock may not show here
                lock.acquire(blocking=False)
                shutil.rmtree(guard.with_suffix(""), ignore_errors=True)
                guard.unlink(missing_ok=True)
                lock.release()
        for folder in (self.root / "partial").iterdir():
            if self._whole(folder.name):
                with suppress(StageLocked), self.unheld(folder.name):
                    self.checkpoint(folder.name).clear()

    def _whole(self, key: str) -> bool:
        """Whether the result lies here with all its files.

        A thinned one may be under computation again, from its checkpoint.
        """
        path = self._find(key)
        with suppress(OSError, ValueError):
            return path is not None and "thinned" not in from_json(
                (path / "manifest.json").read_bytes()
            )
        return False
