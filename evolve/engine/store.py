"""The folder that holds every finished stage's result, under the stage's key (evolve.engine.stage).

A result is whole or absent, checked when it is read, and computed by one process at a time. Nothing
here knows what a lineage is.

    results/<kind>/<key[:2]>/<key>/   manifest.json  result.json  <name>.safetensors
    partial/<key>/                    checkpoints of unfinished stages
    runs/                             which runs refer to this store (evolve.runs.referrers)
    locks/  tmp/  damaged/  logs/

A thinned result keeps its record and has lost tensor files, whose digests its manifest keeps. Put
again, it takes only the same bytes.
"""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolve.core.durable import (
    digest,
    from_json,
    storage_errors,
    tensors_to_bytes,
    to_json,
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
    manifest_of,
    read_result,
    seal_of,
    verified,
)
from evolve.engine.stage import WORD, Stage, stage_key
from evolve.engine.store_folder import FORMAT, MARKER, StoreFolder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Result", "Stage", "StageLocked", "Store", "Thinned", "stage_key"]

_PATIENCE = 1.0  # seconds between two calls of ``waiting``


class StageLocked(Exception):
    """Another process is computing this stage."""


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)


class Store:
    """The results under ``root``, made if it is not there. Any number of processes may use it.

    Args:
        root: the store's folder.
        report: gets one line for every damaged result that was put aside.

    Raises:
        StoreError: the folder cannot be made, holds something else, or has another format.
    """

    def __init__(self, root: Path, report: Callable[[str], None] = _warn) -> None:
        self.root = Path(root).absolute()
        self._report = report
        self.folder = StoreFolder(self.root)
        with storage_errors(self.root):
            address = self.folder.open()
            self.mirror = Mirror(address) if address and not self.read_only else None
            if not self.read_only:
                self.sweep()

    @property
    def read_only(self) -> bool:
        """Whether the store can be read and not written; then no run can be registered in it."""
        return self.folder.read_only

    # Results

    def has(self, key: str) -> bool:
        """Whether a result is there; its content is not checked."""
        return self.folder.find(key) is not None or (
            self.mirror is not None and self.mirror.holds(key)
        )

    def get(self, key: str) -> Result | None:
        """Get a result, its files checked against their sha256 (:func:`read_result`).

        A damaged one (cut short, flipped bits, a missing file) is moved to ``damaged/`` and
        reported.

        Args:
            key: the stage's key.

        Returns:
            The result; None if there is none, or a damaged one: compute it anew.
        """
        with storage_errors(self.root):
            path = self.folder.find(key) or self._pull(key)
            if path is None:
                return None
            try:
                return read_result(path)
            except (FileNotFoundError, Damaged):
                return self._put_aside(path)

    def record(self, key: str) -> dict[str, Any] | None:
        """The JSON part of a result, see :meth:`get`."""
        result = self.get(key)
        return result.record if result else None

    def put(
        self,
        stage: Stage,
        record: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        provenance: Mapping[str, Any],
    ) -> Result:
        """Store a stage's result and forget its checkpoints.

        All or nothing: it is written aside, flushed, and renamed into place. If another process was
        first, its result stays. A thinned one that is there stays too and gets its tensor files
        back.

        Args:
            stage: what was computed.
            record: the JSON part.
            tensors: file name -> tensor name -> tensor.
            provenance: what computed it; no part of the key.

        Returns:
            The result that is in the store now.

        Raises:
            StoreError: it cannot be written, or a thinned one had other bytes.
        """
        files = {"result.json": to_json(record)}
        for name, group in tensors.items():
            if not WORD.fullmatch(name):
                raise ValueError(f"tensor file {name!r}: lower-case letters, digits, - and _ only")
            files[f"{name}.safetensors"] = tensors_to_bytes(group)
        manifest = manifest_of(stage, files, provenance)
        final = self.root / "results" / stage.kind / stage.key[:2] / stage.key
        with storage_errors(final):
            while (result := self.get(stage.key)) is None or result.thinned:
                if result is None:
                    if self.folder.write(final, {**files, "manifest.json": to_json(manifest)}):
                        verified[final] = identity_of(final)
                else:
                    self._restore(result, files)
            self.checkpoint(stage.key).clear()
            if self.mirror is not None:
                self.mirror.push(result.path)
        return result

    def thin(self, key: str, names: Sequence[str], why: str) -> int:
        """Drop tensor files of a result and keep its record.

        Killed anywhere, this leaves the result whole or thinned; called again, it finishes what was
        begun.

        Args:
            key: the stage's key.
            names: of the tensor files, without suffix.
            why: the line that whoever asks for the tensors will get.

        Returns:
            The bytes freed; 0 for a stage that is being computed.
        """
        with storage_errors(self.root), suppress(StageLocked), self.unheld(key):
            if (result := self.get(key)) is None:
                return 0
            files = dict(result.manifest["files"])
            dropped = {
                file: files.pop(file)
                for file in (f"{name}.safetensors" for name in names)
                if file in files
            }
            if dropped:
                dropped |= result.manifest.get("thinned", {}).get("files", {})
                self._replace_manifest(
                    result.path,
                    result.manifest | {"files": files, "thinned": {"files": dropped, "why": why}},
                )
            surplus = [
                file
                for file in result.path.iterdir()
                if file.name not in files and file.name != "manifest.json"
            ]
            freed = sum(file.stat().st_size for file in surplus)
            for file in surplus:
                file.unlink()
            return freed
        return 0

    @contextmanager
    def bin(self) -> Iterator[Callable[[Path], None]]:
        """A function that takes a file or folder out of the store.

        It is gone at once for every reader. Its bytes go at the end, or by a sweep.
        """
        with storage_errors(self.root), self.folder.scratch() as folder:

            def discard(path: Path) -> None:
                with suppress(FileNotFoundError):
                    os.rename(path, folder / secrets.token_hex(8))

            yield discard

    def checkpoint(self, key: str) -> FolderCheckpoint:
        """The checkpoint of an unfinished stage; use it while holding its lock."""
        return FolderCheckpoint(self.root / "partial" / key, self.folder.scratch)

    # Locks

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the right to compute a stage. A dead holder loses it (:mod:`evolve.engine.lease`).

        It is not reentrant.

        Args:
            key: the stage's key.
            waiting: is called when someone else holds it, and about every second while that lasts;
                what it raises ends the wait.
        """
        lock = self._lease(key)
        try:  # from before it is taken: an interrupt may come as soon as it is
            with storage_errors(self.root / "locks"):
                wait = 0.0
                while not lock.take(wait):
                    waiting()
                    wait = _PATIENCE
            yield
        finally:
            lock.release(remove=self.folder.find(key) is not None)

    @contextmanager
    def unheld(self, key: str) -> Iterator[None]:
        """Hold a stage's lock, which nobody else holds.

        Raises:
            StageLocked: somebody holds it; at once.
        """

        def refuse() -> None:
            raise StageLocked(key)

        with self.lock(key, waiting=refuse):
            yield

    def gate(self) -> AbstractContextManager[None]:
        """Hold, for moments, the right to change who refers to this store, or to drop what nobody
        does.
        """
        return self.lock("gate")

    def locked(self, key: str) -> bool:
        """Whether some process is computing this stage now.

        The lock is taken and given back to find out.
        """
        lock = self._lease(key)
        if self.read_only or not lock.file.exists():
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
        return Lease(self.root / "locks" / name, self.folder.machine)

    def mirror_at(self, address: str | None) -> None:
        """Give the store a mirror, or take it away.

        Every process that opens the store from now on copies its results there, and takes from
        there what it lacks.

        Args:
            address: the mirror's; None ends that.

        Raises:
            StoreError: the address does not answer; then it is not written down.
        """
        mirror = Mirror(address) if address else None
        if mirror is not None:
            mirror.holds("")  # an address that does not answer is not written down
        self.mirror = mirror
        with storage_errors(self.root):
            self.folder.replace(
                self.root / MARKER,
                to_json({"format": FORMAT} | ({"mirror": address} if address else {})),
            )

    def _pull(self, key: str) -> Path | None:
        """Copy a result here that only the mirror has; reading checks it as any other."""
        if self.mirror is None or not self.mirror.holds(key):
            return None
        with self.folder.scratch() as folder:
            kind = self.mirror.pull(key, folder)
            if kind is None or not WORD.fullmatch(kind):
                return None
            final = self.root / "results" / kind / key[:2] / key
            self.folder.place(folder, final)
        return final

    def _restore(self, result: Result, files: Mapping[str, bytes]) -> None:
        """Give a thinned result its tensor files back.

        Its manifest comes last, so until then it is thinned.
        """
        lost = result.manifest["thinned"]["files"]
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
                f"store: {result.path / changed[0]}: computed again it has other bytes than before "
                f"it was thinned: {advice}"
            )
        for name in lost:
            self.folder.replace(result.path / name, files[name])
        manifest = {name: value for name, value in result.manifest.items() if name != "thinned"}
        self._replace_manifest(result.path, manifest | {"files": manifest["files"] | lost})

    def _replace_manifest(self, path: Path, manifest: dict[str, Any]) -> None:
        self.folder.replace(path / "manifest.json", to_json(manifest | {"seal": seal_of(manifest)}))

    def _put_aside(self, path: Path) -> Result | None:
        """Move a damaged result away, unless another process did so and a good one is there."""
        if self.read_only:
            self._report(f"damaged result {path}, in a store that cannot be written: it is left")
            return None
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

    def sweep(self) -> None:
        """Remove dead processes' temporary folders, and checkpoints and locks of finished stages."""
        self.folder.sweep()
        for file in list((self.root / "locks").iterdir()):
            done = self.folder.find(file.stem) is not None or self.folder.forgotten(file)
            if done and file.suffix in (".lock", ".lease"):
                lock = self._lease(file.stem)
                if lock.take():
                    lock.release(remove=True)
        for folder in (self.root / "partial").iterdir():
            if self._whole(folder.name):
                with suppress(StageLocked), self.unheld(folder.name):
                    self.checkpoint(folder.name).clear()

    def _whole(self, key: str) -> bool:
        """Whether the result lies here with all its files.

        A thinned one may be under computation again, from its checkpoint.
        """
        path = self.folder.find(key)
        with suppress(OSError, ValueError):
            return path is not None and "thinned" not in from_json(
                (path / "manifest.json").read_bytes()
            )
        return False
